"""A message over the broker's limit goes by ``on_error``, and the stream goes on (promises 1, 2, 3)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from celery import Celery, Task, signals

from tests.broker.support import take_all, task_ids
from tests.support import Database, wait_until
from tests.support.failpoints import armed, killed_at
from tests.support.process import producer_process
from tests.support.producers import in_thread, make_app, running
from tests.support.queues import Queued, drain
from tests.support.shop import make_walex
from tests.support.slots import active, confirmed, written
from walex_celery import DeadLetter, Event, HandlerError, Lsn, Producer, Retry, Spool, WalEx
from walex_celery.dead_letters import Letter, open_dead_letters
from walex_celery.errors import MessageTooLarge
from walex_celery.operations.redelivery import Redelivery
from walex_celery.testing.servers import RabbitMQ, Valkey

#: The least that Valkey can be set to.
LIMIT = 1 << 20
#: Bytes of a note that is too large. 2 MiB fit into the socket's buffers, 10 MiB do not.
SIZES = (2 << 20, 10 << 20)


class Limited(NamedTuple):
    """A broker that accepts messages of up to LIMIT."""

    url: str
    setting: str
    set_limit: Callable[[int], object]


@pytest.fixture(scope="module")
def valkey_server() -> Iterator[Valkey]:
    with Valkey(settings={"proto-max-bulk-len": str(LIMIT)}) as server:
        yield server


@pytest.fixture
def limited_valkey(valkey_server: Valkey) -> Iterator[Limited]:
    def set_limit(size_bytes: int) -> None:
        with valkey_server.client() as client:
            client.config_set("proto-max-bulk-len", size_bytes)

    with valkey_server.client() as client:
        client.flushall()
    yield Limited(valkey_server.url(), "proto-max-bulk-len", set_limit)
    set_limit(LIMIT)


@pytest.fixture(scope="module")
def rabbitmq_server() -> Iterator[RabbitMQ]:
    with RabbitMQ(settings={"max_message_size": str(LIMIT)}) as server:
        yield server


@pytest.fixture
def limited_rabbitmq(rabbitmq_server: RabbitMQ) -> Iterator[Limited]:
    def set_limit(size_bytes: int) -> None:
        # Of channels that are opened from now on.
        rabbitmq_server.ctl("eval", f"application:set_env(rabbit, max_message_size, {size_bytes}).")

    yield Limited(rabbitmq_server.create_vhost(), "max_message_size", set_limit)
    set_limit(LIMIT)


@pytest.fixture(params=["valkey", "rabbitmq"])
def limited(request: pytest.FixtureRequest) -> Limited:
    broker: Limited = request.getfixturevalue(f"limited_{request.param}")
    return broker


def insert(shop: Database, *sizes: int, start: int = 1) -> None:
    """One transaction, whose rows have notes of these sizes."""
    rows = ", ".join(f"({number}, repeat('x', {size}))" for number, size in enumerate(sizes, start))
    shop.execute(f"INSERT INTO items VALUES {rows}")


def acknowledged(shop: Database, seconds: float = 30) -> None:
    end = written(shop)
    wait_until(lambda: confirmed(shop) >= end, seconds, "all is acknowledged")


def keys(queued: list[Queued]) -> list[int]:
    """The rows' keys in order, each task once: what is sent again has its first id."""
    once = {task.id: task.event.key["id"] for task in queued if task.event.key}
    return list(once.values())


def letters_of(walex: WalEx) -> dict[int, Letter]:
    """The dead letters, by the key of their event's row."""
    with open_dead_letters(walex.settings) as letters:
        found = [letters.find(letter.id)[1] for letter in letters.summaries()]
    by_key = {}
    for letter in found:
        (text,) = letter.events
        by_key[(Event.from_json(text).key or {})["id"]] = letter
    return by_key


@contextmanager
def until_halted(walex: WalEx) -> Iterator[list[BaseException]]:
    """A producer that ends by itself; at the end, the list has its error."""
    producer = Producer(walex)
    with suppress(HandlerError), in_thread(producer, 30) as failures:
        wait_until(producer.streaming.is_set, 20)
        yield failures
        wait_until(lambda: failures, 30, "it halts")


class Own(Task):  # type: ignore[misc, type-arg, unused-ignore]
    """Sends by itself."""

    abstract = True
    #: What its apply_async was told.
    errors: list[Exception]

    def apply_async(self, *args: Any, **options: Any) -> Any:
        try:
            return super().apply_async(*args, **options)
        except Exception as error:
            self.errors.append(error)
            raise


class Silent(Own):
    """Keeps silent about errors."""

    abstract = True

    def apply_async(self, *args: Any, **options: Any) -> Any:
        try:
            return super().apply_async(*args, **options)
        except Exception:
            return None


@pytest.fixture
def enqueuing(shop: Database, request: pytest.FixtureRequest) -> Callable[..., WalEx]:
    """Makes an instance whose task is published in a way of one's choice."""

    def heard(**named: Any) -> None: ...

    def changed(body: Any, headers: Any, **named: Any) -> None:
        # As one that encrypts: of this body no event can be made.
        argument = body[0][0]
        argument["secret"] = argument.pop("__value__")[::-1]
        del argument["__type__"]

    def make(way: str, broker: Limited, **settings: Any) -> WalEx:
        app = make_app(broker.url)
        request.addfinalizer(app.close)
        if way in ("receiver", "changed"):
            receiver = {"receiver": heard, "changed": changed}[way]
            signal: Any = signals.before_task_publish
            signal.connect(receiver, weak=False)
            request.addfinalizer(lambda: signal.disconnect(receiver))
        if way == "collect":
            app.conf.task_routes = (lambda name, *args, **options: {"queue": "celery"},)
        walex = make_walex(app, shop, **settings)

        def index(event: Event) -> None: ...

        base = {"apply_async": Own, "silent": Silent}.get(way)
        options: dict[str, Any] = {"base": base, "errors": []} if base else {}
        task: Any = app.task
        walex.on_insert("items")(task(name="index", **options)(index))
        return walex

    return make


WAYS = ("template", "receiver", "changed", "collect", "apply_async", "silent")


@pytest.mark.parametrize(("way", "size"), [("template", SIZES[1]), *((way, SIZES[0]) for way in WAYS)])
def test_a_dead_letter_and_the_stream_goes_on(
    shop: Database,
    limited: Limited,
    enqueuing: Callable[..., WalEx],
    caplog: pytest.LogCaptureFixture,
    way: str,
    size: int,
) -> None:
    walex = enqueuing(way, limited, on_error="dead_letter")
    with caplog.at_level(logging.INFO, "walex_celery"), running(walex) as producer:
        insert(shop, 1)
        insert(shop, 1, size, 1, size, start=2)
        insert(shop, 1, start=6)
        acknowledged(shop)
        insert(shop, 1, start=7)
        acknowledged(shop)
        assert sum(dict(producer.statistics.dead_letters()).values()) == 2
    if way == "changed":
        assert len(set(task_ids(take_all(limited.url, "celery")))) == 5
    else:
        assert keys(drain(limited.url, "celery")) == [1, 2, 4, 6, 7]
    letters = letters_of(walex)
    assert sorted(letters) == [3, 5]
    for letter in letters.values():
        assert (letter.kind, letter.handler, letter.error_type) == ("task", "index", "MessageTooLarge")
        assert f"larger than {limited.setting}, which is {LIMIT} bytes" in letter.error
        assert int(letter.error.partition("its message of ")[2].split()[0]) > size
        assert "fix: " in letter.error
        (text,) = letter.events
        assert len((Event.from_json(text).new_record or {})["note"]) == size
    told = [record.getMessage() for record in caplog.records if "the stream goes on" in record.getMessage()]
    assert len(told) == 2
    assert all(limited.setting in line and "fix: " in line and str(LIMIT) in line for line in told)


@pytest.mark.parametrize("way", ["apply_async", "silent"])
def test_a_task_with_its_own_apply_async_is_told(
    shop: Database, limited: Limited, enqueuing: Callable[..., WalEx], way: str
) -> None:
    """It may have taken a lock, which it releases then. One that keeps silent about it loses nothing either."""
    walex = enqueuing(way, limited, on_error="dead_letter")
    with running(walex):
        insert(shop, SIZES[0])
        acknowledged(shop)
    assert list(letters_of(walex)) == [1]
    if way == "apply_async":
        task: Any = walex.app.tasks["index"]
        (error,) = task.errors
        assert isinstance(error, MessageTooLarge)
        assert error.limit_bytes == LIMIT < error.size_bytes


def test_halt_acknowledges_nothing_and_goes_on_when_the_limit_was_raised(
    shop: Database, limited: Limited, enqueuing: Callable[..., WalEx]
) -> None:
    walex = enqueuing("template", limited)
    with until_halted(walex) as failures:
        insert(shop, 1)
        acknowledged(shop)
        before = confirmed(shop)
        insert(shop, 1, SIZES[0], 1, start=2)
    text = str(failures[0])
    for part in (
        "task index failed on 1 event(s) of transaction",
        "MessageTooLarge: The broker ",
        f"larger than {limited.setting}, which is {LIMIT} bytes",
        "policy: on_error=halt",
        "fix: raise that limit and start the producer again",
        'on_error="dead_letter"',
    ):
        assert part in text
    assert before <= confirmed(shop) < written(shop)
    assert letters_of(walex) == {}
    limited.set_limit(64 << 20)
    with running(walex):
        acknowledged(shop)
    assert keys(drain(limited.url, "celery")) == [1, 2, 3, 4]


def test_retry_goes_on_when_the_limit_is_raised(
    shop: Database, limited: Limited, enqueuing: Callable[..., WalEx], caplog: pytest.LogCaptureFixture
) -> None:
    walex = enqueuing("template", limited, on_error=Retry(limit=None, backoff=0.05, backoff_max=0.2))
    with caplog.at_level(logging.INFO, "walex_celery"), running(walex):
        insert(shop, 1, SIZES[0], 1, SIZES[0], 1)
        insert(shop, 1, start=6)
        wait_until(lambda: ", try 3; trying again" in caplog.text, 30)
        assert confirmed(shop) < written(shop)
        limited.set_limit(64 << 20)
        acknowledged(shop)
    assert keys(drain(limited.url, "celery")) == [1, 2, 3, 4, 5, 6]
    assert "task index succeeded on 1 event(s)" in caplog.text


def test_retry_then_a_dead_letter(shop: Database, limited: Limited, enqueuing: Callable[..., WalEx]) -> None:
    policy = Retry(limit=2, backoff=0.01, then="dead_letter")
    walex = enqueuing("template", limited, on_error=policy)
    with running(walex):
        insert(shop, 1, SIZES[0], SIZES[1], 1)
        acknowledged(shop)
    assert keys(drain(limited.url, "celery")) == [1, 4]
    assert {key: letter.tries for key, letter in letters_of(walex).items()} == {2: 3, 3: 3}


def test_a_stop_while_it_waits_acknowledges_nothing(
    shop: Database, limited: Limited, enqueuing: Callable[..., WalEx], caplog: pytest.LogCaptureFixture
) -> None:
    walex = enqueuing("template", limited, on_error=Retry(backoff=300, backoff_max=300))
    ends: list[Lsn] = []

    def stopped_while_it_waits() -> None:
        with running(walex):
            insert(shop, 1, SIZES[0])
            ends.append(written(shop))
            wait_until(lambda: "trying again" in caplog.text, 30)

    with pytest.raises(MessageTooLarge):
        stopped_while_it_waits()
    assert confirmed(shop) < ends[0]
    limited.set_limit(64 << 20)
    with running(walex):
        acknowledged(shop)
    assert keys(drain(limited.url, "celery")) == [1, 2]


def test_the_policy_is_that_of_the_handler_that_wants_the_event(shop: Database, limited: Limited) -> None:
    """Two handlers have the same task, and different policies."""
    app = make_app(limited.url)
    walex = make_walex(app, shop, on_error="halt")

    @app.task(name="index")
    def index(event: Event) -> None: ...

    walex.on_delete("items", on_error="halt")(index)
    walex.on_insert("items", {"unwatched_records": {"id": 2}}, on_error="halt")(index)
    walex.on_insert("items", {"unwatched_records": {"id": 1}}, on_error=DeadLetter())(index)
    with running(walex):
        insert(shop, SIZES[0], start=2)
        acknowledged(shop)
    assert list(letters_of(walex)) == [2]
    app.close()


@pytest.mark.parametrize("way", ["spool", "exactly once"])
def test_with_a_spool_and_exactly_once(
    shop: Database, limited_valkey: Limited, enqueuing: Callable[..., WalEx], tmp_path: Path, way: str
) -> None:
    settings: dict[str, Any] = (
        {"message_middleware": Spool(tmp_path / "spool")}
        if way == "spool"
        else {"exactly_once_enqueue": True}
    )
    walex = enqueuing("template", limited_valkey, on_error="dead_letter", **settings)
    for start in (1, 11):
        found: list[Queued] = []
        expected = [{"id": start + number} for number in (0, 2, 4)]

        def all_came(found: list[Queued] = found, expected: list[dict[str, int]] = expected) -> bool:
            found += drain(limited_valkey.url, "celery")
            return [task.event.key for task in found] == expected

        with running(walex):
            insert(shop, 1, SIZES[0], 1, start=start)
            insert(shop, SIZES[1], start=start + 3)
            insert(shop, 1, start=start + 4)
            wait_until(all_came, 30, "each once")
    assert sorted(letters_of(walex)) == [2, 4, 12, 14]


def test_many_in_one_batch_are_refused_together(
    shop: Database, limited: Limited, enqueuing: Callable[..., WalEx]
) -> None:
    """In order, and none of the others is sent twice without need."""
    walex = enqueuing("template", limited, on_error="dead_letter")
    with running(walex):
        for start in range(1, 41, 10):
            insert(shop, *([1, 1, SIZES[0], 1, 1] * 2), start=start)
        acknowledged(shop)
    large = {number for number in range(1, 41) if number % 5 == 3}
    assert keys(drain(limited.url, "celery")) == [number for number in range(1, 41) if number not in large]
    assert letters_of(walex).keys() == large


def test_a_dead_letter_that_is_retried(
    shop: Database, limited: Limited, enqueuing: Callable[..., WalEx]
) -> None:
    walex = enqueuing("template", limited, on_error="dead_letter")
    with running(walex):
        insert(shop, 1, SIZES[0])
        acknowledged(shop)
    (letter,) = letters_of(walex).values()
    with open_dead_letters(walex.settings) as letters:
        redelivery = Redelivery(walex, letters)
        assert redelivery.attempt(letter.id) is False
        assert redelivery.failures[letter.id].tries == 2
        assert limited.setting in redelivery.failures[letter.id].error
        limited.set_limit(64 << 20)
        assert Redelivery(walex, letters).attempt(letter.id) is True
        assert letters.count() == 0
    queued = drain(limited.url, "celery")
    assert keys(queued) == [1, 2]
    assert queued[-1].id == letter.task_id


@pytest.mark.parametrize(("kind", "once"), [("valkey", False), ("valkey", True), ("rabbitmq", False)])
def test_kill_9_between_the_letter_and_the_acknowledgement(
    database: Database,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    once: bool,
) -> None:
    """It comes again, and is the same letter; nothing is lost."""
    limited: Limited = request.getfixturevalue(f"limited_{kind}")
    monkeypatch.setenv("WALEX_ON_ERROR", "dead_letter")
    monkeypatch.setenv("WALEX_EXACTLY_ONCE_ENQUEUE", str(once))
    log = tmp_path / "producer.log"
    database.execute("CREATE TABLE items (id int PRIMARY KEY, note text)")
    database.execute("CREATE PUBLICATION events FOR TABLE items")
    database.execute("SELECT pg_create_logical_replication_slot('crash_walex', 'pgoutput')")
    before = confirmed(database)
    insert(database, 1, SIZES[0], 1)
    insert(database, SIZES[1], 1, start=4)
    for point in ("letter-stored", "tasks-confirmed"):
        with producer_process(database, limited.url, log, failpoints=armed(point)) as process:
            killed_at(process, point, log)
        wait_until(lambda: not active(database), 30, "Postgres notices")
        assert confirmed(database) < written(database)
    with producer_process(database, limited.url, log) as process:
        acknowledged(database, 60)
        process.terminate()
        assert process.wait(30) == 0, log.read_text()
    assert confirmed(database) > before
    queued = drain(limited.url, "crash")
    assert keys(queued) == [1, 3, 5]
    assert not once or len(queued) == 3
    walex = make_walex(Celery(set_as_current=False), database, name="crash")
    assert sorted(letters_of(walex)) == [2, 4]


def test_a_valkey_that_does_not_show_its_limit(
    shop: Database, valkey_server: Valkey, enqueuing: Callable[..., WalEx], limited_valkey: Limited
) -> None:
    """As managed services do; then its refusal is all that is known."""
    with valkey_server.client() as client:
        client.acl_setuser(
            "shop", enabled=True, passwords=["+secret"], keys="*", channels="*", commands=["+@all", "-config"]
        )
    url = limited_valkey.url.replace("redis://", "redis://shop:secret@")
    walex = enqueuing("template", limited_valkey._replace(url=url), on_error="dead_letter")
    with running(walex):
        insert(shop, 1, SIZES[0], 1, SIZES[1], 1)
        acknowledged(shop)
    assert keys(drain(limited_valkey.url, "celery")) == [1, 3, 5]
    letters = letters_of(walex)
    assert sorted(letters) == [2, 4]
    assert all("larger than proto-max-bulk-len\n" in letter.error for letter in letters.values())
