"""What a worker loads: enough to get events and run tasks, and nothing that only a producer needs.

Each test runs a fresh interpreter: this one has loaded everything.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Final

import pytest

import walex_celery

#: A worker loads at most so many modules of ours.
MOST: Final = 40

#: No worker loads these, or anything below them, unless the user's code does.
NEVER: Final = (
    "psycopg2",
    "sqlite3",
    "walex_celery._speedups",
    "walex_celery.broker",
    "walex_celery.cli.producer",
    "walex_celery.dead_letters",
    "walex_celery.operations",
    "walex_celery.pipeline",
    "walex_celery.postgres.connection",
    "walex_celery.postgres.stream",
    "walex_celery.sources",
)

SHOP: Final = """
    from celery import Celery
    from walex_celery import Event, Filters, WalEx

    app = Celery("shop", broker="memory://")
    walex = WalEx(
        app,
        url="postgresql://shop:secret@localhost/shop?target_session_attrs=read-write",
        publication="events",
        subscriptions=["users"],
    )

    @walex.on_insert("users", Filters(unwatched_fields=["seen_at"]))
    @app.task
    def greet(event: Event) -> str:
        return f"Hello {event.new_record['name']}, of {event.timestamp:%Y}"
"""

#: As the producer sends it: the argument of a task, in the stock JSON serializer's text.
ARGUMENT: Final = json.dumps(
    {
        "__type__": "walex.event",
        "__value__": json.dumps(
            {
                "name": "users",
                "type": "insert",
                "source": {
                    "name": "WalEx",
                    "version": "1",
                    "db": "shop",
                    "schema": "public",
                    "table": "users",
                    "columns": {"id": "integer", "name": "text"},
                    "key": ["id"],
                },
                "new_record": {"id": 1, "name": "Ada"},
                "index": 0,
                "timestamp": "2020-01-02T03:04:05Z",
                "lsn": "0/16B3748",
                "xid": 742,
            }
        ),
    }
)


def loaded_by(folder: Path, program: str) -> set[str]:
    """The modules that *program* has loaded at its end; it is run in *folder*, which has shop.py."""
    (folder / "shop.py").write_text(textwrap.dedent(SHOP))
    ending = "import sys; print('loaded:', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", f"{textwrap.dedent(program)}\n{ending}"],
        cwd=folder,
        env={"PYTHONPATH": str(Path(walex_celery.__file__).parents[1]), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("loaded:")[2].split())


def ours(loaded: set[str]) -> list[str]:
    return sorted(name for name in loaded if name.partition(".")[0] == "walex_celery")


def unwanted(loaded: set[str]) -> list[str]:
    return sorted(name for name in loaded if any(f"{name}.".startswith(f"{never}.") for never in NEVER))


def test_importing_the_package(tmp_path: Path) -> None:
    loaded = loaded_by(tmp_path, "import walex_celery")

    assert unwanted(loaded) == []
    assert len(ours(loaded)) <= MOST, ours(loaded)


def test_a_worker_that_runs_a_task_with_an_event(tmp_path: Path) -> None:
    """The application's modules are imported as a worker does it, and the task runs with what kombu decoded."""
    loaded = loaded_by(
        tmp_path,
        f"""
        from kombu.utils.json import loads
        from shop import app, greet

        app.loader.import_default_modules()
        event = loads({ARGUMENT!r})
        assert greet(event) == "Hello Ada, of 2020", event
        assert event.key == {{"id": 1}}
        """,
    )

    assert unwanted(loaded) == []
    assert len(ours(loaded)) <= MOST, ours(loaded)


def test_a_worker_whose_application_keeps_a_spool(tmp_path: Path) -> None:
    """The setting is in a module that workers import too; what reads and writes the spool is not."""
    loaded = loaded_by(
        tmp_path,
        """
        from shop import app
        from walex_celery import Spool, WalEx

        WalEx(app, name="spooled", message_middleware=Spool("spool"), durable_slot=True)
        """,
    )

    allowed = {"walex_celery.sources", "walex_celery.sources.spool", "walex_celery.sources.spool.spool"}
    assert set(unwanted(loaded)) == allowed


def test_the_worker_command_does_not_load_the_producer(tmp_path: Path) -> None:
    """Celery loads our group of commands in every process of its own, of which most are workers."""
    loaded = loaded_by(
        tmp_path,
        """
        from celery.bin.celery import celery

        celery(["-A", "shop", "worker", "--help"], standalone_mode=False)
        """,
    )

    assert {"shop", "walex_celery.cli"} <= loaded, "the application or the entry point was not found"
    assert unwanted(loaded) == []


@pytest.mark.parametrize("name", walex_celery.__all__)
def test_every_public_name_can_be_had(name: str) -> None:
    assert name in dir(walex_celery)
    assert getattr(walex_celery, name) is vars(walex_celery)[name]  # asked for once


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Producers'"):
        _ = walex_celery.Producers  # type: ignore[attr-defined]
