"""Promises 1 to 4, 6 under fire, for a moment: ``make soak`` does it for as long as one likes."""

from __future__ import annotations

import random

import pytest

from tests.faults.soak import show, soak
from tests.faults.world import Variant
from tests.support import Database

SECONDS = 12


@pytest.mark.parametrize(
    ("variant", "seed"),
    [
        pytest.param(Variant("valkey", spool=True), 11, id="valkey with spool"),
        pytest.param(Variant("rabbitmq"), 12, id="rabbitmq"),
        pytest.param(Variant("quorum", spool=True), None, id="quorum with spool, another seed each time"),
    ],
)
def test_nothing_is_lost_whatever_is_done(variant: Variant, seed: int | None, database: Database) -> None:
    summary = soak(variant, random.randrange(1 << 32) if seed is None else seed, SECONDS, database)
    show([summary])
    assert summary.events > 0
    assert sum(summary.faults.values()) > 0
