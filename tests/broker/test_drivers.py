"""Each transport has one driver, loaded when needed, and a driver is all that the publisher knows of a broker."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.broker.support import make_app
from walex_celery.broker import amqp, kombu, open_link, redis
from walex_celery.broker.driver import Driver
from walex_celery.broker.drivers import driver_of
from walex_celery.broker.link import Link

# mypy holds the packages to the protocol.
AMQP: Driver = amqp
KOMBU: Driver = kombu
REDIS: Driver = redis
ROOM = Path(amqp.__file__).parents[1]


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("redis://localhost", REDIS),
        ("rediss://localhost", REDIS),
        ("sentinel://localhost", REDIS),
        ("amqp://localhost", AMQP),
        ("pyamqp://localhost", AMQP),
        ("memory://", KOMBU),
        ("filesystem://", KOMBU),
    ],
)
def test_the_driver_of_a_transport(url: str, driver: Driver) -> None:
    assert driver_of(Link(make_app(url), 1.0)) is driver


def test_waits_on_redis_end_unless_the_user_says_otherwise() -> None:
    assert open_link(make_app("redis://localhost"), 7.0).connection.transport_options == {
        "socket_timeout": 7.0,
        "socket_connect_timeout": 7.0,
        "socket_keepalive": True,
    }
    app = make_app("redis://localhost", broker_transport_options={"socket_timeout": 3.0})
    options = open_link(app, 7.0).connection.transport_options
    assert options is not None
    assert (options["socket_timeout"], options["socket_connect_timeout"]) == (3.0, 7.0)


def test_only_the_driver_in_use_is_loaded() -> None:
    code = """
import sys
from celery import Celery
from walex_celery.broker import Publisher
Publisher.open(Celery(broker="amqp://localhost")).close()
print(*sorted(name for name in sys.modules if name.startswith("walex_celery.broker.") and name.count(".") == 2))
"""
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "walex_celery.broker.amqp" in loaded.split()
    assert not {"walex_celery.broker.redis", "walex_celery.broker.kombu"} & set(loaded.split())


def test_what_is_outside_of_a_driver_knows_none() -> None:
    found = []
    for path in [*ROOM.glob("*.py"), *(ROOM / "templates").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                room, _, driver = node.module.partition("walex_celery.broker.")
                if not room and driver.split(".")[0] in ("amqp", "kombu", "redis"):
                    found.append((path.name, node.module))
    assert found == []
