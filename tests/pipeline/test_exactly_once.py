"""``exactly_once_enqueue``: no task is enqueued twice and none is lost, whatever is killed, cut or frozen."""

from __future__ import annotations

import logging
import random
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from celery import Celery
from redis import Redis

from tests.broker.support import Proxy, publishing
from tests.broker.test_cuts import disturbing
from tests.support import Database, shop, wait_until
from tests.support.failpoints import Pause, armed, killed_at
from tests.support.load import STARTING_ROWS, STREAMING_ROWS, Load
from tests.support.process import producer_process
from tests.support.producers import make_app, running, unconfirmed
from tests.support.queues import drain
from tests.support.slots import active, confirmed, confirmed_flush, written
from walex_celery import ConfigurationError, Event, HandlerError, Producer, WalEx, process_message_async
from walex_celery._failpoints import Name
from walex_celery.telemetry.activity import Doing
from walex_celery.testing.servers import Postgres

KILLS = 4
#: Seconds for a process to start on a busy machine.
START = 120
SCHEMA = "CREATE TABLE items (id int PRIMARY KEY); CREATE PUBLICATION events FOR TABLE items"
SLOT = "SELECT pg_create_logical_replication_slot('{}_walex', 'pgoutput')"


def check_exact(url: str, queue: str, rows: int) -> None:
    """Each row's task is in the queue once, in the order of commits."""
    queued = drain(url, queue)
    assert [task.event.key["id"] for task in queued if task.event.key] == [*range(1, rows + 1)]
    assert len({task.id for task in queued}) == rows


@pytest.fixture
def chance() -> random.Random:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # pytest shows it when the test fails
    return random.Random(seed)


def make_enqueuing(app: Celery, database: Database, **settings: object) -> WalEx:
    return shop.make_enqueuing(app, database, **({"exactly_once_enqueue": True} | settings))


def run_to_the_end(database: Database, url: str, log: Path, done: int) -> None:
    """A last producer, until everything is acknowledged and so many tasks are there."""
    end = written(database)
    with producer_process(database, url, log) as process, Redis.from_url(url) as client:
        # It may have nothing left to do; but it is to be ended as a producer, not as a Python that starts.
        wait_until(lambda: active(database), START, "the producer streams")
        wait_until(lambda: confirmed(database) >= end and client.llen("crash") >= done, START, "all is done")
        process.terminate()
        assert process.wait(30) == 0, log.read_text()


@pytest.mark.parametrize("spooled", [False, True], ids=["stream", "spool"])
def test_kill_9_at_random_moments_enqueues_each_task_once(
    database: Database,
    redis_url: str,
    tmp_path: Path,
    chance: random.Random,
    monkeypatch: pytest.MonkeyPatch,
    spooled: bool,
) -> None:
    monkeypatch.setenv("WALEX_EXACTLY_ONCE_ENQUEUE", "true")
    if spooled:
        monkeypatch.setenv("WALEX_MESSAGE_MIDDLEWARE", "tests.sources.spool.crash_spool.spool")
        monkeypatch.setenv("SPOOL_FOLDER", str(tmp_path / "spool"))
    log = tmp_path / "producer.log"
    database.execute(SCHEMA)
    database.execute(SLOT.format("crash"))
    with Load(database, chance.randrange(1 << 32)) as load, Redis.from_url(redis_url) as client:
        for _ in range(KILLS):
            before = client.llen("crash")
            load.allow(STARTING_ROWS + STREAMING_ROWS)
            with producer_process(database, redis_url, log) as process:
                wait_until(
                    lambda: client.llen("crash") > before or process.poll() is not None,  # noqa: B023
                    START,
                )
                threading.Event().wait(chance.uniform(0, 0.5))
                assert process.poll() is None, log.read_text()
                process.send_signal(signal.SIGKILL)
                process.wait()
            wait_until(lambda: not active(database), START)
    run_to_the_end(database, redis_url, log, load.committed)
    check_exact(redis_url, "crash", load.committed)


def test_kill_9_in_the_middle_of_a_huge_transaction(
    database: Database, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its chunks go out one by one; the next producer gets all of it again, and goes on where the last one was."""
    monkeypatch.setenv("WALEX_EXACTLY_ONCE_ENQUEUE", "true")
    rows, log = 60_000, tmp_path / "producer.log"
    database.execute(SCHEMA)
    database.execute(SLOT.format("crash"))
    database.execute("INSERT INTO items SELECT generate_series(1, %s)", (rows,))
    with Redis.from_url(redis_url) as client:
        for turn in (2, 10):
            before = client.llen("crash")
            with producer_process(
                database, redis_url, log, failpoints=armed("tasks-confirmed", turn=turn)
            ) as process:
                killed_at(process, "tasks-confirmed", log)
            wait_until(lambda: not active(database), START)
            assert before < client.llen("crash") < rows
    run_to_the_end(database, redis_url, log, rows)
    check_exact(redis_url, "crash", rows)


def test_a_broker_connection_that_is_cut_and_stalled(
    database: Database, redis_url: str, chance: random.Random
) -> None:
    """Also between the script and its reply."""
    database.execute(SCHEMA)
    port = urlsplit(redis_url).port or 0
    with Proxy(port) as proxy:
        app = make_app(redis_url.replace(f":{port}", f":{proxy.port}"))
        walex = make_enqueuing(app, database, publish_timeout=1)
        with running(walex) as producer:
            with Load(database, chance.randrange(1 << 32)) as load, disturbing(proxy, chance):
                wait_until(lambda: load.committed > 4000, 60)
            end = written(database)
            wait_until(lambda: producer.confirmed_lsn >= end or confirmed(database) >= end, 60)
    check_exact(redis_url, "celery", load.committed)


@pytest.mark.parametrize("middleware", [None, process_message_async], ids=["stream", "middleware"])
def test_backends_that_are_terminated(
    database: Database, redis_url: str, chance: random.Random, middleware: Callable[..., None] | None
) -> None:
    """The same producer gets again what it has enqueued; a middleware may hand both copies on."""
    database.execute(SCHEMA)
    walex = make_enqueuing(make_app(redis_url), database, message_middleware=middleware)
    with running(walex) as producer:
        with Load(database, chance.randrange(1 << 32)) as load:
            for connects in range(2, 6):
                threading.Event().wait(chance.uniform(0, 0.5))
                database.execute(
                    "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active"
                )
                wait_until(lambda: producer.statistics.connects >= connects, 20)  # noqa: B023
        end = written(database)
        wait_until(lambda: confirmed(database) >= end, 60)
    check_exact(redis_url, "celery", load.committed)


@pytest.mark.parametrize(
    "name", ["tasks-added", "tasks-written", "reply-unread", "tasks-confirmed", "acknowledged"]
)
def test_kill_9_at_each_step_of_a_batch(
    database: Database, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Name
) -> None:
    """The third batch of five or more, each of which is stored together with its position."""
    monkeypatch.setenv("WALEX_EXACTLY_ONCE_ENQUEUE", "true")
    rows, log = 10_000, tmp_path / "producer.log"
    database.execute(SCHEMA)
    database.execute(SLOT.format("crash"))
    database.execute("INSERT INTO items SELECT generate_series(1, %s)", (rows,))
    turn = 1 if name == "acknowledged" else 3
    with producer_process(database, redis_url, log, failpoints=armed(name, turn=turn)) as process:
        killed_at(process, name, log)
    wait_until(lambda: not active(database), START)
    run_to_the_end(database, redis_url, log, rows)
    check_exact(redis_url, "crash", rows)


def test_kill_9_between_the_script_and_its_reply(
    database: Database, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tasks are in the queue, and the producer that sent them does not know."""
    monkeypatch.setenv("WALEX_EXACTLY_ONCE_ENQUEUE", "true")
    log = tmp_path / "producer.log"
    database.execute(SCHEMA)
    database.execute(SLOT.format("crash"))
    database.execute("INSERT INTO items SELECT generate_series(1, 10)")
    pause = Pause("reply-unread", tmp_path / "paused")
    with (
        producer_process(database, redis_url, log, failpoints=pause) as process,
        Redis.from_url(redis_url) as client,
    ):
        pause.wait()
        wait_until(lambda: client.llen("crash") == 10, START, "the script has run")
        process.kill()
        process.wait()
    wait_until(lambda: not active(database), START)
    run_to_the_end(database, redis_url, log, 10)
    check_exact(redis_url, "crash", 10)


@contextmanager
def frozen_at(pause: Pause, process: subprocess.Popen[bytes], database: Database) -> Iterator[None]:
    """*process* stands still with all its threads, and the server has given its connection up."""
    pause.wait()
    process.send_signal(signal.SIGSTOP)
    try:
        pause.end()
        # As wal_sender_timeout would.
        database.execute(
            "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE active"
        )
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def test_a_frozen_producer_that_wakes_up_is_fenced(
    database: Database, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It still has tasks in hand that the one that took over has enqueued."""
    monkeypatch.setenv("WALEX_EXACTLY_ONCE_ENQUEUE", "true")
    database.execute(SCHEMA)
    database.execute(SLOT.format("crash"))
    database.execute("INSERT INTO items SELECT generate_series(1, 30000)")
    log = tmp_path / "frozen.log"
    pause = Pause("tasks-added", tmp_path / "paused", turn=3)
    with (
        producer_process(database, redis_url, log, failpoints=pause) as frozen,
        Redis.from_url(redis_url) as client,
        ExitStack() as others,
    ):
        with frozen_at(pause, frozen, database):
            assert 0 < client.llen("crash") < 30_000
            second = others.enter_context(
                producer_process(database, redis_url, tmp_path / "second.log", "--standby")
            )
            wait_until(lambda: client.llen("crash") == 30_000, START)
        wait_until(lambda: "another producer has taken over" in log.read_text(), START)
        database.execute("INSERT INTO items VALUES (30001)")
        wait_until(lambda: client.llen("crash") == 30_001, START)
        second.terminate()
        assert second.wait(30) == 0
        database.execute("INSERT INTO items VALUES (30002)")
        wait_until(lambda: client.llen("crash") == 30_002, START, "the first one goes on without a restart")
    check_exact(redis_url, "crash", 30_002)


@pytest.mark.parametrize("name", ["reply-unread", "tasks-confirmed"])
def test_a_frozen_producer_with_nothing_left_to_enqueue_waits_for_its_slot(
    database: Database, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Name
) -> None:
    """All its tasks are in the broker: there is nothing to be refused, only its connection is gone."""
    monkeypatch.setenv("WALEX_EXACTLY_ONCE_ENQUEUE", "true")
    database.execute(SCHEMA)
    database.execute(SLOT.format("crash"))
    database.execute("INSERT INTO items SELECT generate_series(1, 10)")
    log = tmp_path / "frozen.log"
    pause = Pause(name, tmp_path / "paused")
    with (
        producer_process(database, redis_url, log, failpoints=pause) as frozen,
        Redis.from_url(redis_url) as client,
        ExitStack() as others,
    ):
        with frozen_at(pause, frozen, database):
            wait_until(lambda: client.llen("crash") == 10, START)
            second = others.enter_context(
                producer_process(database, redis_url, tmp_path / "second.log", "--standby")
            )
            wait_until(lambda: active(database), START)
            database.execute("INSERT INTO items VALUES (11)")
            wait_until(lambda: client.llen("crash") == 11, START)
        wait_until(lambda: "is in use by the backend" in log.read_text(), START)
        second.terminate()
        assert second.wait(30) == 0
        database.execute("INSERT INTO items VALUES (12)")
        wait_until(lambda: client.llen("crash") == 12, START, "the first one goes on without a restart")
        assert "another producer has taken over" not in log.read_text()
    check_exact(redis_url, "crash", 12)


def test_a_broker_that_lost_the_position_costs_nothing_but_the_promise(
    database: Database, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """After FLUSHDB, without a restart."""
    database.execute(SCHEMA)
    with (
        caplog.at_level(logging.INFO, "walex_celery"),
        running(make_enqueuing(make_app(redis_url), database)),
    ):
        database.execute("INSERT INTO items VALUES (1)")
        wait_until(lambda: confirmed(database) >= written(database))
        with Redis.from_url(redis_url) as client:
            client.flushdb()
        database.execute("INSERT INTO items VALUES (2)")
        end = written(database)
        wait_until(lambda: confirmed(database) >= end, 30)
    assert [task.event.key for task in drain(redis_url, "celery")] == [{"id": 2}]
    assert "or the key was deleted" in caplog.text


def test_what_was_refused_is_not_taken_for_done(database: Database, redis_url: str) -> None:
    """Another one took over, and the first takes over again: it reads again what it has not stored (promise 1)."""
    database.execute(SCHEMA)
    port = urlsplit(redis_url).port or 0
    seen: list[Event] = []
    with Proxy(port) as proxy:
        walex = make_enqueuing(make_app(redis_url.replace(f":{port}", f":{proxy.port}")), database)

        @walex.on_insert("items")
        def noted(events: list[Event]) -> None:
            seen.extend(events)
            if len(seen) == 3:
                proxy.stall()

        with running(walex) as producer:
            database.execute("INSERT INTO items VALUES (1)")
            wait_until(lambda: confirmed(database) >= written(database))
            key, _ = position_of(redis_url)
            with publishing(make_app(redis_url), exactly_once=True) as other:
                other.take_over(key.decode())
            database.execute("INSERT INTO items VALUES (2)")
            waits = (Doing.BROKER, Doing.BROKER_DOWN)
            wait_until(
                lambda: len(seen) == 3 and unconfirmed(producer) and producer.activity.now.doing in waits, 20
            )
            assert producer.confirmed_lsn <= seen[-1].lsn
            proxy.flow()
            end = written(database)
            wait_until(lambda: confirmed(database) >= end, 30)
    assert [event.key for event in seen] == [{"id": 1}, {"id": 2}, {"id": 2}]
    check_exact(redis_url, "celery", 2)


def test_what_a_halt_leaves_half_done_is_not_enqueued(database: Database, redis_url: str) -> None:
    """The second of three tasks can't be made, and the producer halts: the first one comes again at the next start."""
    database.execute(SCHEMA)
    broken = True

    def route(name: str, args: Any, *_: object, **__: object) -> None:
        if broken and Event.from_json(args[0]["__value__"]).index == 1:
            raise LookupError("no queue for it")

    app = make_app(redis_url)
    app.conf.task_routes = (route,)
    walex = make_enqueuing(app, database)

    # Read at once: the first transaction's task goes out with what is left of the second.
    database.execute(SLOT.format("shop"))
    database.execute("INSERT INTO items VALUES (1)")
    database.execute("INSERT INTO items VALUES (2), (3), (4)")

    def run_into_it() -> None:
        with running(walex) as producer:
            wait_until(lambda: producer.activity.now.doing is Doing.ENDED, 20)

    with pytest.raises(HandlerError, match="no queue for it"):
        run_into_it()
    with Redis.from_url(redis_url) as client:
        assert client.llen("celery") == 1
    broken = False
    with running(walex):
        end = written(database)
        wait_until(lambda: confirmed(database) >= end, 30)
    check_exact(redis_url, "celery", 4)


def test_messages_outside_of_transactions_are_not_skipped(database: Database, redis_url: str) -> None:
    """Their LSN is where the next commit record may begin."""
    database.execute(SCHEMA)
    app = make_app(redis_url)
    walex = make_enqueuing(app, database)

    @walex.on_message("note")
    @app.task(name="noted")
    def noted(event: Event) -> None: ...

    with running(walex), database.connect() as session, session.cursor() as cursor:
        for number in range(1, 41):
            cursor.execute(
                "BEGIN; INSERT INTO items VALUES (%s);"
                " SELECT pg_logical_emit_message(false, 'note', 'n'); COMMIT",
                (number,),
            )
        end = written(database)
        wait_until(lambda: confirmed(database) >= end)
    names = [task.name for task in drain(redis_url, "celery")]
    assert (names.count("index"), names.count("noted")) == (40, 40)


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


def position_of(redis_url: str) -> tuple[bytes, int]:
    with Redis.from_url(redis_url) as client:
        (key,) = client.keys("walex:*")
        return key, int(client.hget(key, "position") or 0)


def test_after_a_promotion_what_both_timelines_have_is_not_enqueued_again(
    own_postgres: Postgres, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    database = Database(own_postgres, own_postgres.create_database())
    database.execute(SCHEMA)
    walex = make_enqueuing(make_app(redis_url), database)
    with running(walex):
        database.execute("INSERT INTO items SELECT generate_series(1, 5)")
        end = written(database)
        wait_until(lambda: confirmed_flush(database, "shop_walex") >= end)
    # The slot as a standby server may have it: behind what was enqueued.
    database.execute(SLOT.format("behind"))
    database.execute("INSERT INTO items SELECT generate_series(6, 9)")
    database.execute("INSERT INTO items VALUES (10)")
    with running(walex):
        end = written(database)
        wait_until(lambda: confirmed_flush(database, "shop_walex") >= end)
    database.execute("SELECT pg_drop_replication_slot('shop_walex')")
    database.execute("SELECT pg_copy_logical_replication_slot('behind_walex', 'shop_walex')")
    own_postgres.stop()
    own_postgres._write(own_postgres.data_dir / "standby.signal", "")
    own_postgres.start()
    database.execute("SELECT pg_promote()")
    database.execute("INSERT INTO items VALUES (11)")
    with caplog.at_level(logging.INFO, "walex_celery"), running(walex):
        end = written(database)
        wait_until(lambda: confirmed_flush(database, "shop_walex") >= end)
    assert "is in the broker, and not enqueued again" in caplog.text
    check_exact(redis_url, "celery", 11)
    assert position_of(redis_url)[1] >> 96 == 2


def test_a_position_ahead_of_postgres_says_nothing(
    database: Database, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As after restoring the database from a copy: new changes come at positions that were passed before."""
    database.execute(SCHEMA)
    walex = make_enqueuing(make_app(redis_url), database)
    with running(walex):
        database.execute("INSERT INTO items VALUES (1)")
        end = written(database)
        wait_until(lambda: confirmed(database) >= end)
    key, position = position_of(redis_url)
    with Redis.from_url(redis_url) as client:
        client.hset(key, "position", str(position + (1 << 40 << 32)))
    with caplog.at_level(logging.WARNING, "walex_celery"), running(walex):
        database.execute("INSERT INTO items VALUES (2)")
        end = written(database)
        wait_until(lambda: confirmed(database) >= end)
    assert "it was restored from a copy" in caplog.text
    check_exact(redis_url, "celery", 2)


def test_what_it_can_t_be_kept_for_is_one_clear_error(
    database: Database, amqp_url: str, redis_url: str
) -> None:
    with pytest.raises(ConfigurationError, match="exactly_once_enqueue: it needs a durable slot"):
        _ = make_enqueuing(make_app(redis_url), database, durable_slot=False).settings
    with pytest.raises(ConfigurationError, match=r"exactly_once_enqueue needs Redis or Valkey"):
        Producer(make_enqueuing(make_app(amqp_url), database)).run()
    assert not database.execute("SELECT 1 FROM pg_replication_slots WHERE slot_name = 'shop_walex'")
