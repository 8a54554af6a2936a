"""Timelines: which of a cluster's histories a position in the WAL belongs to.

A standby server that is promoted begins a new timeline (manual, section 25.3.6), and writes transactions of its own
where the old primary may have written others. Up to the switch both have the same WAL.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from walex_celery.postgres.lsn import Lsn

#: Every cluster begins with this one.
FIRST_TIMELINE: Final = 1

# "1<tab>0/3000158<tab>no recovery target specified"; comments and blank lines are allowed.
_SWITCH = re.compile(r"^\s*(\d+)\s+([0-9A-Fa-f]+/[0-9A-Fa-f]+)", re.M)


class Switch(NamedTuple):
    """The records of *timeline* that begin before *lsn* are part of the history; later ones are of a later timeline."""

    timeline: int
    lsn: Lsn


class Timelines(NamedTuple):
    """The timeline in force, and those that led to it, oldest first."""

    current: int = FIRST_TIMELINE
    switches: tuple[Switch, ...] = ()

    @property
    def since(self) -> Lsn:
        """Where the current timeline begins."""
        return self.switches[-1].lsn if self.switches else Lsn(0)

    def of(self, lsn: int) -> int:
        """The timeline of the record that begins at *lsn*.

        >>> history = Timelines(2, (Switch(1, Lsn(0x3000158)),))
        >>> history.of(0x3000150), history.of(0x3000158)
        (1, 2)
        """
        for switch in self.switches:
            if lsn < switch.lsn:
                return switch.timeline
        return self.current

    def as_of(self, timeline: int) -> Timelines:
        """The history as it was known while *timeline* was in force."""
        if timeline == self.current:
            return self
        return Timelines(timeline, tuple(switch for switch in self.switches if switch.timeline < timeline))


def parse_history(timeline: int, text: str) -> Timelines:
    r"""The history that Postgres keeps of *timeline* (TIMELINE_HISTORY; the file ``0000000N.history``).

    >>> parse_history(2, "1\t0/3000158\tno recovery target specified\n")
    Timelines(current=2, switches=(Switch(timeline=1, lsn=Lsn('0/3000158')),))
    """
    return Timelines(
        timeline, tuple(Switch(int(number), Lsn.parse(at)) for number, at in _SWITCH.findall(text))
    )


class Cluster(NamedTuple):
    """Which cluster a connection reaches: its system identifier, and its history."""

    system_identifier: int
    timelines: Timelines = Timelines()
