"""Which fault comes when: a seed alone decides."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import NamedTuple


class Strike(NamedTuple):
    """A fault to come.

    Attributes:
        fault: its name.
        draw: what chooses among its victims and ways.
        hold_seconds: how long it lasts.
        gap_seconds: from its end to the next strike.
        within: another fault that comes and goes while this one lasts.
    """

    fault: str
    draw: float
    hold_seconds: float
    gap_seconds: float
    within: Strike | None = None

    def __str__(self) -> str:
        inner = f" [{self.within}]" if self.within is not None else ""
        return f"{self.fault}({self.draw:.2f}) {self.hold_seconds:.2f}s{inner}"


def bursts(seed: int, weights: Mapping[str, int]) -> Iterator[list[Strike]]:
    """Strikes without end, 1 to 8 at a time, each fault as often as it weighs; between bursts all is to recover."""
    chance = random.Random(seed)
    # Each fault as often as its weight says, in an order of chance: none is forgotten by a short soak.
    bag: list[str] = []

    def strike() -> Strike:
        if not bag:
            bag.extend(name for name, weight in weights.items() for _ in range(weight))
            chance.shuffle(bag)
        hold = chance.choice((0.0, 0.02, 0.1, 0.3, 0.3, 1.5))
        return Strike(bag.pop(), chance.random(), hold, chance.choice((0.0, 0.0, 0.1)))

    while True:
        burst = []
        for _ in range(chance.randint(1, 8)):
            outer = strike()
            if chance.random() < 0.3:
                inner = strike()
                # One victim is not struck twice at once: the first blow's end would undo the second.
                if _victim(inner) & _victim(outer):
                    burst.append(inner)
                else:
                    outer = outer._replace(within=inner)
            burst.append(outer)
        yield burst


def _victim(strike: Strike) -> set[str]:
    _, victim = strike.fault.split()
    return {"Postgres", "broker"} if victim == "server" else {victim}
