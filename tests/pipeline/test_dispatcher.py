"""What becomes of a chunk: handlers in order, then tasks, each once and with its own id (promises 1 to 3)."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from celery import Celery, signals

from tests import messages as m
from tests.pipeline.test_assembler import ORDERS, ORDERS_RELATION, USERS, USERS_RELATION, Listener
from walex_celery import ConfigurationError, Event, Filters, HandlerError
from walex_celery.broker import Publisher
from walex_celery.events.task_id import parse_task_id
from walex_celery.filters import Table
from walex_celery.handlers.registry import Handler
from walex_celery.pipeline import dispatcher as dispatch
from walex_celery.pipeline.assembler import Chunk
from walex_celery.pipeline.dispatcher import Dispatcher
from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.timeline import Switch, Timelines


class Sent:
    """A task as it lies in the queue."""

    def __init__(self, envelope: bytes) -> None:
        message = json.loads(envelope)
        headers = message["headers"]
        self.task, self.id, self.argsrepr = headers["task"], headers["id"], headers["argsrepr"]
        self.body: list[Any] = json.loads(base64.b64decode(message["body"]))


class Producing:
    """A dispatcher on a real broker, and the listener that feeds it."""

    def __init__(self, app: Celery, handlers: list[Handler]) -> None:
        self.app = app
        self.publisher = Publisher.open(app, timeout_seconds=10)
        self.dispatcher = Dispatcher(app, self.publisher, "shop")
        self.dispatcher.prepare(handlers, 42)
        self.listener = Listener(*handlers)

    def chunk(self, *payloads: bytes) -> Chunk:
        (chunk,) = self.listener.feed(m.begin(), USERS_RELATION, ORDERS_RELATION, *payloads, m.commit())
        return chunk

    def dispatch(self, *payloads: bytes) -> list[Sent]:
        """The tasks in the queue after a transaction of *payloads*."""
        self.dispatcher.dispatch(self.chunk(*payloads))
        self.publisher.flush()
        self.publisher.confirm()
        with self.app.connection_for_read() as connection:
            client: Any = vars(connection.default_channel)["client"]
            envelopes = list(reversed(client.lrange("celery", 0, -1)))
            client.delete("celery")
        return [Sent(envelope) for envelope in envelopes]

    def close(self) -> None:
        self.publisher.close()


@pytest.fixture
def calls() -> list[tuple[str, list[int]]]:
    """What batch handlers were called with: their name, and the indexes of the events."""
    return []


def handler(
    name: str,
    calls: list[tuple[str, list[int]]] | None = None,
    *,
    table: str | None = None,
    functions: tuple[Any, ...] = (),
    filters: Filters | None = None,
) -> Handler:
    def batch(events: list[Event]) -> None:
        assert calls is not None
        calls.append((name, [event.index for event in events]))
        if name == "failing":
            raise ValueError("as it does")

    named = None if table is None else Table("public", table)
    wanted = filters or Filters()
    batch.__name__ = name
    return Handler("on_event", named, None, wanted, functions, batch if calls is not None else None, __name__)


INSERTS = [m.insert(ORDERS, b"1"), m.insert(USERS, b"1", b"a"), m.insert(USERS, b"2", b"b")]


def test_handlers_are_called_in_the_order_registered_each_with_its_events(
    app: Celery, calls: list[tuple[str, list[int]]]
) -> None:
    """Whichever table's event came first."""
    quiet = Filters(unwatched_records={"name": "a"})
    producing = Producing(
        app,
        [
            handler("users", calls, table="users"),
            handler("all", calls),
            handler("quiet", calls, filters=quiet),
        ],
    )

    assert producing.dispatch(*INSERTS) == []
    assert calls == [("users", [1, 2]), ("all", [0, 1, 2]), ("quiet", [0, 2])]
    producing.close()


def test_tasks_are_enqueued_event_by_event(app: Celery) -> None:
    producing = Producing(
        app,
        [handler("all", functions=("crm.a", "crm.b")), handler("users", table="users", functions=("crm.c",))],
    )

    tasks = producing.dispatch(*INSERTS)

    assert [(task.task, parse_task_id(task.id).index) for task in tasks] == [
        ("crm.a", 0), ("crm.b", 0),
        ("crm.a", 1), ("crm.b", 1), ("crm.c", 1),
        ("crm.a", 2), ("crm.b", 2), ("crm.c", 2),
    ]  # fmt: skip
    assert {parse_task_id(task.id).lsn for task in tasks} == {m.COMMIT_LSN}
    assert tasks[2].argsrepr == "<Event insert users id=1 lsn=0/16B3748>"
    assert tasks[2].body[0][0]["__type__"] == "walex.event"
    statistics = producing.dispatcher.statistics
    assert (statistics.events, statistics.tasks, statistics.transactions) == (3, 8, 1)
    producing.close()


def test_tasks_keep_the_order_of_events_however_their_messages_are_made(app: Celery) -> None:
    """Promise 2. A signal's receiver makes that of ``crm.b`` need more than a template."""
    listen: Any = lambda **_: None  # noqa: E731 - a receiver is compared by identity
    signals.before_task_publish.connect(listen, sender="crm.b")
    try:
        producing = Producing(
            app,
            [
                handler("users", table="users", functions=("crm.a",)),
                Handler("on_event", Table("sales", "orders"), None, Filters(), ("crm.b",), None, __name__),
            ],
        )
        tables = (USERS, USERS, ORDERS, USERS, ORDERS, ORDERS, USERS)
        tasks = producing.dispatch(
            *(m.insert(USERS, b"1", b"a") if table == USERS else m.insert(ORDERS, b"1") for table in tables)
        )
        ways = [function.way for function in producing.dispatcher.functions]
        producing.close()
    finally:
        signals.before_task_publish.disconnect(listen, sender="crm.b")

    assert ways == ["template", "collect"]
    assert [(task.task, parse_task_id(task.id).index) for task in tasks] == [
        ("crm.a" if table == USERS else "crm.b", index) for index, table in enumerate(tables)
    ]


def test_a_function_of_two_handlers_is_one_task(app: Celery) -> None:
    producing = Producing(
        app, [handler("all", functions=("crm.a",)), handler("users", functions=("crm.a", "crm.a"))]
    )

    assert len(producing.dispatch(INSERTS[0])) == 1
    producing.close()


def test_a_redelivery_has_the_same_ids_and_another_instance_others(app: Celery) -> None:
    """Promise 3."""
    handlers = [handler("all", functions=("crm.a", "crm.b"))]
    first, again, other = (Producing(app, handlers) for _ in range(3))
    other.dispatcher.prepare(handlers, 43)

    ids = [task.id for task in first.dispatch(*INSERTS)]

    assert len(set(ids)) == 6
    assert [task.id for task in again.dispatch(*INSERTS)] == ids
    assert not {task.id for task in other.dispatch(*INSERTS)} & set(ids)
    for producing in (first, again, other):
        producing.close()


def test_after_a_failover_ids_are_others_from_the_switch_on(app: Celery) -> None:
    """What was committed before it may come again, and keeps its id (promise 3)."""
    handlers = [handler("all", functions=("crm.a",))]
    before, after, later = (Producing(app, handlers) for _ in range(3))
    after.dispatcher.follow(Timelines(2, (Switch(1, Lsn(m.COMMIT_LSN)),)))
    later.dispatcher.follow(Timelines(2, (Switch(1, Lsn(m.COMMIT_LSN + 1)),)))

    (task,), (other,), (same,) = (producing.dispatch(INSERTS[0]) for producing in (before, after, later))

    assert (same.id, other.id != task.id) == (task.id, True)
    assert parse_task_id(other.id).lsn == m.COMMIT_LSN
    for producing in (before, after, later):
        producing.close()


def test_a_handler_that_fails_enqueues_nothing_and_says_where(
    app: Celery, calls: list[tuple[str, list[int]]]
) -> None:
    producing = Producing(app, [handler("failing", calls, functions=("crm.a",)), handler("later", calls)])

    with pytest.raises(HandlerError) as caught:
        producing.dispatch(*INSERTS)

    assert [name for name, _ in calls] == ["failing"]
    assert isinstance(caught.value.__cause__, ValueError)
    for part in (
        "failing failed on 3 event(s)",
        "transaction 742",
        "LSN 0/16B3748",
        "ValueError: as it does",
    ):
        assert part in str(caught.value)
    assert producing.publisher.unconfirmed_count == 0
    producing.close()


def test_a_function_that_means_nothing_is_told_before_anything_is_sent(app: Celery) -> None:
    with pytest.raises(ConfigurationError, match="no function 'nonsense'"):
        Producing(app, [handler("all", functions=("nonsense",))])


def test_two_functions_whose_ids_would_be_the_same_are_refused(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "function_digest", lambda *parts: 7)

    with pytest.raises(ConfigurationError, match=r"'crm\.a' and 'crm\.b' would get the same ids"):
        Producing(app, [handler("all", functions=("crm.a", "crm.b"))])
