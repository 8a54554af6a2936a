"""The setting: what it takes, and what goes with it (promise 8)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.sources.spool.support import open_log, segments
from tests.support.producers import running
from walex_celery import ConfigurationError, MiddlewareError, Spool, SpoolError, StreamMessage, WalEx
from walex_celery.settings.model import load_settings
from walex_celery.sources.spool.segment import Segment
from walex_celery.sources.spool.source import OWN_FILES

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


def spooled(shop: Any, redis_url: str, folder: Path) -> WalEx:
    app = Celery("shop", broker=redis_url, set_as_current=False)
    walex = WalEx(
        app, url=shop.url, publication="events", durable_slot=True, message_middleware=Spool(folder)
    )
    walex.on_insert("items")(print)
    return walex


def refused(walex: WalEx, shop: Any, what: str) -> None:
    """A producer does not start, and has made no slot."""
    with pytest.raises(ConfigurationError, match=rf"^message_middleware: .*{what}"), running(walex):
        pass
    assert not shop.execute("SELECT 1 FROM pg_replication_slots WHERE database = current_database()")


def test_a_folder_that_others_may_write_is_refused(shop: Any, redis_url: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o770)

    refused(spooled(shop, redis_url, tmp_path), shop, rf"its group .*\n  fix: chmod go-w {tmp_path}")
    assert not list(tmp_path.iterdir())


def test_a_folder_of_another_user_is_refused(
    shop: Any, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = 65533 if os.geteuid() == 0 else os.geteuid()
    if os.geteuid() == 0:
        os.chown(tmp_path, owner, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)

    refused(spooled(shop, redis_url, tmp_path), shop, rf"another user \(uid {owner}\)\n  fix: chown 54321")


@pytest.fixture
def used(shop: Any, redis_url: str, tmp_path: Path) -> Path:
    """The folder of a spool that was used, and stopped."""
    with running(spooled(shop, redis_url, tmp_path / "spool")):
        pass
    shop.execute("SELECT pg_drop_replication_slot('shop_walex')")
    return tmp_path / "spool"


def test_every_file_is_looked_at_before_it_is_opened(used: Path) -> None:
    assert {path.name for path in used.iterdir() if not any(map(path.match, OWN_FILES))} == set()
    assert {path.stat().st_mode & 0o777 for path in used.iterdir()} == {0o600}
    assert used.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "name",
    ["identity", "identity.new", "lock", "position", "reserve", f"{1:020}.spool", f"{2:020}.spool.tmp"],
)
def test_a_link_in_the_place_of_a_file_is_refused(
    shop: Any, redis_url: str, used: Path, tmp_path: Path, name: str
) -> None:
    """The same file, elsewhere; as it was afterwards."""
    target, link = tmp_path / "target", used / name
    if link.exists():
        link.rename(target)
    else:
        target.write_text("another's")
    content = target.read_bytes()
    link.symlink_to(target)

    refused(spooled(shop, redis_url, used), shop, rf"{link} is a symbolic link, .*\n  fix: .*rm {link}")
    assert target.read_bytes() == content


def test_a_segment_that_became_a_link_is_not_followed(tmp_path: Path) -> None:
    """Between the look and its turn."""
    open_log(tmp_path).close()
    (segment,) = segments(tmp_path)
    segment.rename(tmp_path / "target")
    segment.symlink_to("target")

    with pytest.raises(SpoolError, match=r"the spool is not read: .* is a symbolic link"):
        Segment.open(tmp_path, 1)


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
