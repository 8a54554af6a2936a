"""The setting: what it takes, and what goes with it (promise 8)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.support.producers import running
from walex_celery import ConfigurationError, MiddlewareError, Spool, StreamMessage, WalEx
from walex_celery.settings.model import load_settings

LEAST: dict[str, Any] = {"name": "shop", "database": "shop", "publication": "events"}


def test_a_folder_and_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert repr(Spool("/var/lib/walex", max_bytes=2**30)) == "Spool('/var/lib/walex', max_bytes=1073741824)"
    assert Spool(tmp_path).max_bytes == 10 * 2**30
    assert Spool("here").folder == tmp_path / "here"
    with pytest.raises(ConfigurationError, match=r"max_bytes is 5; it takes 1048576 \(1 MiB\) at least"):
        Spool(tmp_path, max_bytes=5)


def test_several_segments_make_a_spool() -> None:
    assert Spool("x", max_bytes=2**20).segment_bytes == 2**17
    assert Spool("x", max_bytes=2**40).segment_bytes == 2**26


def test_it_takes_a_durable_slot(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    with pytest.raises(ConfigurationError, match=r"durable_slot: Spool\(.*; set durable_slot=True"):
        load_settings({**LEAST, "message_middleware": spool}, {})

    assert load_settings({**LEAST, "message_middleware": spool, "durable_slot": True}, {}).durable_slot
    assert not spool.folder.exists(), "only a producer makes it"


def test_it_is_found_by_its_name(crash_spool: Path) -> None:
    """As WALEX_MESSAGE_MIDDLEWARE gives it."""
    middleware = load_settings({**LEAST, "durable_slot": True}, {}).message_middleware

    assert isinstance(middleware, Spool)
    assert middleware.folder == crash_spool


def test_another_middleware_can_t_call_it(tmp_path: Path) -> None:
    with pytest.raises(MiddlewareError, match="give it as message_middleware= itself"):
        Spool(tmp_path)(StreamMessage(b"", 0), "shop")


def test_a_folder_that_can_t_be_used_is_told(shop: Any, redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    app = Celery("shop", broker=redis_url, set_as_current=False)
    walex = WalEx(
        app,
        url=shop.url,
        publication="events",
        durable_slot=True,
        message_middleware=Spool(tmp_path / "file" / "spool"),
    )
    walex.on_insert("items")(print)

    with pytest.raises(ConfigurationError, match="can't use its folder: Not a directory"), running(walex):
        pass
    assert not shop.execute("SELECT 1 FROM pg_replication_slots WHERE database = current_database()")


def test_it_is_not_put_in_while_a_producer_runs(shop: Any, redis_url: str, tmp_path: Path) -> None:
    """And may be between two runs."""
    app = Celery("shop", broker=redis_url, set_as_current=False)
    walex = WalEx(app, url=shop.url, publication="events", durable_slot=True)
    walex.on_insert("items")(print)

    with running(walex), pytest.raises(ConfigurationError, match="restart the producer"):
        walex.replace_config("message_middleware", Spool(tmp_path))
    walex.replace_config("message_middleware", Spool(tmp_path))
    with running(walex), pytest.raises(ConfigurationError, match="restart the producer"):
        walex.replace_config("message_middleware", None)
