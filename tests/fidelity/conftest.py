"""A source and its shadow."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.fidelity.shadow import Shadow
from walex_celery.testing.servers import Postgres


@pytest.fixture(scope="session")
def _shadow(postgres: Postgres) -> Iterator[Shadow]:
    with Shadow(postgres) as made:
        yield made


@pytest.fixture
def shadow(_shadow: Shadow) -> Iterator[Shadow]:
    """Two empty databases."""
    yield _shadow
    _shadow.reset()


@pytest.fixture
def needs_postgres(postgres: Postgres) -> Callable[[int], None]:
    """Skip a test of what only later majors have."""
    with postgres.connect() as session:
        major = session.server_version // 10000
    session.close()

    def needs(wanted: int) -> None:
        if major < wanted:
            pytest.skip(f"Postgres {major} has it not; {wanted} has")

    return needs
