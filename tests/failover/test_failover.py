"""A promoted standby server goes on where the primary was: nothing is lost, and ids stay apart (promises 1 and 3)."""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from tests.failover.support import QUEUE, SLOT, Load, Pair, ids_by_row, insert, make_walex, pair
from tests.support import wait_until
from tests.support.producers import in_thread, running
from tests.support.queues import drain
from walex_celery import Producer, WalEx, WalExError
from walex_celery.errors import PostgresUnavailable, SetupError, SlotLost
from walex_celery.postgres.connection import connect
from walex_celery.postgres.failover import check_cluster, check_failover
from walex_celery.postgres.parameters import ConnectionSettings, SlotSettings
from walex_celery.postgres.server import Server, inspect_server
from walex_celery.postgres.slot import find_slot
from walex_celery.postgres.timeline import Cluster, Switch, Timelines
from walex_celery.sources.spool import Spool

#: Commits wait for the standby, and the stream for what the standby has: nothing is seen that a failover takes back.
SAFE = {"synchronous_standby_names": "standby", "synchronized_standby_slots": "standby"}


def test_the_primary_is_killed_under_load(redis_url: str) -> None:
    with pair(SAFE) as servers:
        walex = make_walex(redis_url, url=servers.url)
        with running(walex), Load(servers.url) as load:
            servers.wait_for_slot()
            before = load.committed
            wait_until(lambda: load.committed > before + 200, 30, "rows are written")
            servers.primary.kill()
            servers.standby.promote()
            before = load.committed
            wait_until(lambda: load.committed > before + 200, 30, "rows are written to the promoted server")
            load.__exit__()
            ((end,),) = servers.on_standby("SELECT pg_current_wal_flush_lsn()")
            done = f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{SLOT}' AND confirmed_flush_lsn >= '{end}'"
            wait_until(lambda: servers.on_standby(done), 60, "all of them are acknowledged")
            rows = {row for (row,) in servers.on_standby("SELECT id FROM items")}
            ((active, timeline),) = servers.on_standby(
                "SELECT active, (pg_walfile_name(pg_current_wal_lsn())) FROM pg_replication_slots"
                f" WHERE slot_name = '{SLOT}'"
            )

    assert (active, timeline[:8]) == (True, "00000002")
    queued = drain(redis_url, QUEUE)
    ids = ids_by_row(queued)
    assert load.committed <= len(rows) <= load.tried
    assert ids.keys() == rows, "every committed row, and none that the failover took back"
    assert all(len(found) == 1 for found in ids.values()), "a redelivery has the id of the first"
    assert len({task.id for task in queued}) == len(rows)


@pytest.mark.parametrize("spooled", [False, True], ids=["stream", "spool"])
def test_ids_stay_apart_where_both_servers_wrote(redis_url: str, tmp_path: Path, spooled: bool) -> None:
    """The old primary's last transactions are gone, and the new one writes others at the same positions."""
    middleware = {"message_middleware": Spool(tmp_path, max_bytes=2**24)} if spooled else {}
    with pair() as servers:
        walex = make_walex(redis_url, url=servers.url, **middleware)
        queued = []

        def wait_for_row(row: int) -> None:
            def seen() -> bool:
                queued.extend(drain(redis_url, QUEUE))
                return row in ids_by_row(queued)

            wait_until(seen, 60, f"row {row} is enqueued")

        with running(walex):
            servers.wait_for_slot()
            # From now on the standby's copy of the slot falls behind: what follows comes twice.
            servers.on_standby("ALTER SYSTEM SET sync_replication_slots = off")
            servers.on_standby("SELECT pg_reload_conf()")
            wait_until(
                lambda: "slotsync worker" not in backends(servers), 30, "slots are synchronized no more"
            )
            servers.on_primary(insert(300, first=1))
            servers.wait_for_replay()
            servers.standby.kill()
            servers.on_primary(insert(2000, first=1001))
            wait_for_row(3000)
            first = queued[:]
            servers.primary.kill()
            servers.standby.start()
            servers.standby.promote()
            servers.on_standby(insert(2000, first=4001))
            wait_for_row(6000)

    again = ids_by_row(queued[len(first) :])
    ids = ids_by_row(queued)
    assert ids.keys() == {*range(1, 301), *range(1001, 3001), *range(4001, 6001)}
    assert again.keys() == {*range(1, 301), *range(4001, 6001)}, "what both servers have came twice"
    assert all(len(found) == 1 for found in ids.values()), "a redelivery has the id of the first"
    assert len({task.id for task in queued}) == len(ids), "no two rows have one id"
    positions = defaultdict(set)
    for task in queued:
        assert task.event.new_record is not None
        positions[task.event.lsn, task.event.index].add(task.event.new_record["id"])
    assert any(len(rows) == 2 for rows in positions.values()), "the servers did write at the same positions"


def backends(servers: Pair) -> list[str]:
    return [kind for (kind,) in servers.on_standby("SELECT backend_type FROM pg_stat_activity")]


def test_a_promoted_server_without_the_slot(redis_url: str) -> None:
    with pair() as servers:
        walex = make_walex(redis_url, url=servers.url, failover=False)
        with pytest.raises(SlotLost, match="for the next time set failover=True"):
            fail_over(servers, walex)


def fail_over(servers: Pair, walex: WalEx) -> None:
    producer = Producer(walex)
    with in_thread(producer) as failures:
        wait_until(lambda: producer.streaming.is_set() or failures, 30)
        servers.wait_for_replay()
        servers.primary.kill()
        servers.standby.promote()
        wait_until(lambda: failures, 60, "the producer ends")


def test_an_old_primary_that_comes_back_is_not_read(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is the first of the hosts again, and no standby."""
    with pair() as servers:
        walex = make_walex(redis_url, url=servers.url)
        with running(walex) as producer:
            servers.wait_for_slot()
            servers.wait_for_replay()
            servers.primary.kill()
            servers.standby.promote()
            wait_until(
                lambda: servers.on_standby("SELECT 1 FROM pg_replication_slots WHERE active"),
                30,
                "it goes on",
            )
            servers.primary.start()
            with caplog.at_level(logging.WARNING):
                servers.on_standby("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots")
                complaint = "is on timeline 1, and timeline 2 has been read: an old primary"
                wait_until(lambda: complaint in caplog.text, 30)
            assert not servers.on_primary(
                "SELECT 1 FROM pg_replication_slots WHERE active AND slot_type = 'logical'"
            )
            servers.primary.stop("immediate")
            servers.on_standby("INSERT INTO items VALUES (7)")
            wait_until(lambda: 7 in ids_by_row(drain(redis_url, QUEUE)), 60, "it goes on with the new one")
            assert producer.streaming.is_set()


def test_a_slot_of_ours_becomes_a_failover_slot_and_a_standby_is_waited_for(redis_url: str) -> None:
    with pair() as servers:
        with running(make_walex(redis_url, url=servers.url, failover=False)):
            assert slot_of(servers) == (False, False)
        with running(make_walex(redis_url, url=servers.url)):
            assert slot_of(servers) == (True, False)
            servers.wait_for_slot()

        settings = make_walex(redis_url, url=servers.standby.url()).settings.slot_settings()
        connection = connect(settings.connection)
        server, slot = inspect_server(connection, settings.connection), find_slot(connection, settings)
        connection.close()
        assert (server.in_recovery, slot is not None and slot.synced) == (True, True)
        for failover in (True, False):
            with pytest.raises(
                PostgresUnavailable, match="is a standby: slot 'shop_walex' can't be read there"
            ):
                check_failover(server, slot, replace(settings, failover=failover))


def slot_of(servers: Pair) -> tuple[bool, bool]:
    ((failover, synced),) = servers.on_primary(
        f"SELECT failover, synced FROM pg_replication_slots WHERE slot_name = '{SLOT}'"
    )
    return failover, synced


CONNECTION = ConnectionSettings(hosts=(("localhost", 5432),), database="shop")


def test_an_older_server_has_no_failover_slots() -> None:
    settings = SlotSettings(
        connection=CONNECTION, name="shop_walex", publications=("events",), durable=True, failover=True
    )

    with pytest.raises(SetupError, match=r"needs Postgres 17 or newer.* is 16\n  fix: set failover=False"):
        check_failover(Server(160014, 1, "shop", 60.0), None, settings)
    check_failover(Server(170000, 1, "shop", 60.0), None, settings)


@pytest.mark.parametrize("met", [None, Cluster(1), Cluster(2, Timelines(3, (Switch(2, 7),)))])  # type: ignore[arg-type]
def test_another_cluster_or_a_later_timeline_is_read(met: Cluster | None) -> None:
    check_cluster(Cluster(1, Timelines(2)), met, CONNECTION)


def test_an_older_timeline_is_not() -> None:
    with pytest.raises(WalExError, match="timeline 2, and timeline 3"):
        check_cluster(Cluster(1, Timelines(2)), Cluster(1, Timelines(3)), CONNECTION)
