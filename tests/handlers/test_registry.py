"""What on_* registers, and how functions are found."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from celery import Celery, shared_task

from walex_celery import ConfigurationError, Event
from walex_celery.events.shape import Shape
from walex_celery.filters import Table
from walex_celery.handlers.misuse import is_task
from walex_celery.handlers.registry import Handler, Registry, resolve_functions

USERS = Table("public", "users")
SHAPE = Shape({"id": "integer", "name": "text", "active": "bool", "data": "jsonb"}, {})


def handle(events: list[Event]) -> None:
    """A batch handler."""


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("shop", broker="memory://", set_as_current=False)
    yield app
    app.close()


@pytest.fixture
def module() -> Iterator[ModuleType]:
    """A module of the user's, where handlers and their functions are."""
    module = ModuleType("shop_handlers")
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


def add(kind: str, target: Any, decorated: Any = handle, functions: Any = (), **filters: Any) -> Handler:
    return Registry().add(kind, target, filters, functions, decorated, "shop_handlers")


# Registration.


def test_a_plain_function_is_a_batch_handler() -> None:
    handler = add("on_insert", "users", functions=["send_welcome"])

    assert (handler.batch, handler.functions) == (handle, ("send_welcome",))
    assert (handler.decorator, handler.table, handler.name) == ("on_insert", USERS, "shop_handlers.handle")


def test_a_task_is_a_function_not_a_batch_handler(app: Celery) -> None:
    @app.task(name="registered.refresh")
    def refresh(event: Event) -> None: ...

    @shared_task(name="registered.announce")
    def announce(event: Event) -> None: ...

    for task in (refresh, announce):
        handler = add("on_update", "users", task, ["other"])
        assert handler.batch is None
        assert handler.functions == (task, "other")


def test_registering_a_task_does_not_finalize_the_application() -> None:
    """Else tasks that are defined after it would not have the configuration that is read after it."""
    app = Celery("unfinished", broker="memory://", set_as_current=False)

    @app.task(name="unfinished.refresh")
    def refresh(event: Event) -> None: ...

    add("on_update", "users", refresh)

    assert is_task(refresh)
    assert not vars(app)["finalized"]


def test_handlers_keep_their_order() -> None:
    registry = Registry()
    added = [registry.add("on_insert", table, None, (), handle, __name__) for table in ("b", "a", "c")]

    assert list(registry) == added
    assert len(registry) == 3


@pytest.mark.parametrize("everything", ["all", "*"])
def test_all_tables(everything: str) -> None:
    handler = add("on_event", everything)

    assert handler.table is None
    assert handler.wants(Table("any", "table"), "truncate")


def test_a_table_of_the_same_name_in_another_schema_is_another_one() -> None:
    handler = add("on_event", "sales.orders")

    assert handler.wants(Table("sales", "orders"), "insert")
    assert not handler.wants(Table("public", "orders"), "insert")
    assert not handler.wants(Table("sales", "items"), "insert")


def test_a_table_named_all_can_be_told_from_all_tables() -> None:
    assert add("on_event", Table("public", "all")).table == Table("public", "all")


@pytest.mark.parametrize(
    ("kind", "types"),
    [
        ("on_event", {"insert", "update", "delete", "truncate"}),
        ("on_insert", {"insert"}),
        ("on_update", {"update"}),
        ("on_delete", {"delete"}),
        ("on_truncate", {"truncate"}),
        ("on_message", {"message"}),
    ],
)
def test_the_types_that_each_kind_sees(kind: str, types: set[str]) -> None:
    handler = add(kind, "users" if kind != "on_message" else "*")

    assert {
        type for type in ("insert", "update", "delete", "truncate", "message") if handler.wants(USERS, type)
    } == types


async def coroutine(events: list[Event]) -> None: ...


def generator(events: list[Event]) -> Iterator[None]:
    yield


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("on_insert", 42), "names no table"),
        (("on_insert", "users", "handle"), "decorates a function or a Celery task, not 'handle'"),
        (("on_insert", "users", handle, "send_welcome"), "functions are a list"),
        (("on_insert", "users", handle, None), "functions are a list"),
        (("on_insert", "users", handle, [handle]), "is no Celery task"),
        (("on_insert", "users", coroutine), "coroutine is a coroutine"),
        (("on_insert", "users", generator), "generator is a coroutine or a generator"),
        (("on_message", None), "prefix of messages is a string"),
        (("on_message", 42), "prefix of messages is a string"),
    ],
)
def test_what_can_not_be_registered(arguments: tuple[Any, ...], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        add(*arguments)


# Functions.


def test_functions_by_object_by_name_in_the_module_and_by_task_name(app: Celery, module: ModuleType) -> None:
    @app.task(name="shop.by_object")
    def by_object(event: Event) -> None: ...

    @app.task(name="shop.by_attribute")
    def by_attribute(event: Event) -> None: ...

    @app.task(name="crm.by_name")
    def by_name(event: Event) -> None: ...

    @app.task(name="undotted")
    def undotted(event: Event) -> None: ...

    module.by_attribute = by_attribute  # type: ignore[attr-defined]

    functions = [by_object, "by_attribute", "crm.by_name", "undotted", "elsewhere.tasks.unknown"]
    resolved = resolve_functions(app, add("on_insert", "users", functions=functions))

    # A task of another code base is known by its name only.
    assert [getattr(task, "name", task) for task in resolved] == [
        "shop.by_object",
        "shop.by_attribute",
        "crm.by_name",
        "undotted",
        "elsewhere.tasks.unknown",
    ]
    assert resolved[:4] == [app.tasks[task.name] for task in resolved[:4]]


def test_a_shared_task_is_the_one_of_the_application(app: Celery) -> None:
    @shared_task(name="shop.shared")
    def shared(event: Event) -> None: ...

    (task,) = resolve_functions(app, add("on_insert", "users", shared))

    assert task is app.tasks["shop.shared"]
    assert task.app is app


def test_an_attribute_of_the_module_goes_before_a_task_of_that_name(app: Celery, module: ModuleType) -> None:
    @app.task(name="notify")
    def other(event: Event) -> None: ...

    @app.task(name="shop.notify")
    def notify(event: Event) -> None: ...

    module.notify = notify  # type: ignore[attr-defined]

    (task,) = resolve_functions(app, add("on_insert", "users", functions=["notify"]))

    assert task.name == "shop.notify"


def test_a_name_that_means_nothing_is_an_error(app: Celery, module: ModuleType) -> None:
    with pytest.raises(ConfigurationError, match="no function 'send_welcom' in shop_handlers"):
        resolve_functions(app, add("on_insert", "users", functions=["send_welcom"]))


def test_a_function_of_the_module_that_is_no_task_is_an_error(app: Celery, module: ModuleType) -> None:
    module.handle = handle  # type: ignore[attr-defined]

    with pytest.raises(ConfigurationError, match=r"shop_handlers\.handle is no Celery task; put @app\.task"):
        resolve_functions(app, add("on_insert", "users", functions=["handle"]))
