"""Decorators used wrongly: refused, with the line that is right (promise 8)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, shared_task

from tests.support import Database
from tests.support.project import Project
from walex_celery import ConfigurationError, Event, Filters, Producer, WalEx
from walex_celery.errors import PostgresUnavailable

#: Where a test's own line is.
HERE = __name__


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("shop", broker="memory://", set_as_current=False)
    yield app
    app.close()


@pytest.fixture
def walex(app: Celery) -> WalEx:
    return WalEx(
        app,
        url="postgresql://127.0.0.1:1/shop",
        publication="events",
        subscriptions=["users"],
        reconnect_timeout=0.1,
    )


def handle(events: list[Event]) -> None:
    """A batch handler."""


def refusal(misuse: Callable[[], object]) -> str:
    """What *misuse* is refused with, without the line's number."""
    with pytest.raises(ConfigurationError) as raised:
        misuse()
    place, _, rest = str(raised.value).partition(", line ")
    return f"{place}:{rest.partition(':')[2]}"


def at_start(walex: WalEx) -> str:
    """What the producer ends with before it connects to anything."""
    with pytest.raises(ConfigurationError) as raised:
        Producer(walex).run()
    return str(raised.value)


# Without parentheses.


@pytest.mark.parametrize(
    ("decorator", "fix"),
    [
        ("on_event", '@walex.on_event("users")'),
        ("on_insert", '@walex.on_insert("users")'),
        ("on_update", '@walex.on_update("users")'),
        ("on_delete", '@walex.on_delete("users")'),
        ("on_truncate", '@walex.on_truncate("users")'),
        ("on_message", '@walex.on_message("prefix")'),
    ],
)
def test_a_decorator_without_parentheses(walex: WalEx, app: Celery, decorator: str, fix: str) -> None:
    @app.task(name="send")
    def send(event: Event) -> None: ...

    for decorated in (handle, send, lambda events: None):
        assert refusal(lambda decorated=decorated: getattr(walex, decorator)(decorated)) == (  # type: ignore[misc]
            f"{decorator} in {HERE}: it stands without parentheses, and would register nothing\n  fix: {fix}"
        )
    assert len(walex.handlers) == 0
    assert not vars(app)["finalized"]


# Arguments in the wrong place.


def test_functions_as_the_second_argument(walex: WalEx) -> None:
    assert refusal(lambda: walex.on_insert("users", ["welcome", "crm.add"])) == (  # type: ignore[arg-type]
        f"on_insert in {HERE}: the second argument is filters, not a list; functions come third, or by name\n"
        "  fix: @walex.on_insert(..., functions=['welcome', 'crm.add'])"
    )


def test_a_task_as_the_second_argument(walex: WalEx, app: Celery) -> None:
    @app.task(name="welcome")
    def welcome(event: Event) -> None: ...

    expected = (
        f"on_update in {HERE}: the second argument is filters, not a task; functions come third, or by name, "
        "as a list\n  fix: @walex.on_update(..., functions=[...])"
    )
    assert refusal(lambda: walex.on_update("users", welcome)) == expected  # type: ignore[arg-type]
    assert refusal(lambda: walex.on_update("users", [welcome])).endswith("functions=[...])")  # type: ignore[arg-type]
    assert not vars(app)["finalized"]


def test_filters_in_the_place_of_functions(walex: WalEx) -> None:
    quiet: Any = Filters(unwatched_fields=["seen"])

    assert "functions are a list of tasks or of their names, not Filters(" in refusal(
        lambda: walex.on_truncate("users", quiet)
    )


# A task or a signature where a function is expected.


def test_a_signature_decorated(walex: WalEx, app: Celery) -> None:
    @app.task(name="shop.mail")
    def mail(event: Event) -> None: ...

    assert refusal(lambda: walex.on_insert("users")(mail.s().set(queue="slow"))) == (
        f"on_insert in {HERE}: it decorates a signature of shop.mail, which would be called in the producer, "
        "with a list\n  fix: give the task its options, @app.task(queue='slow') or task_routes, and decorate the task "
        "itself, or name it: functions=['shop.mail']"
    )
    assert len(walex.handlers) == 0


def test_a_chain_decorated(walex: WalEx, app: Celery) -> None:
    @app.task(name="shop.mail")
    def mail(event: Event) -> None: ...

    said = refusal(lambda: walex.on_insert("users")(chain(mail.s(), mail.s())))

    assert "it decorates a signature of celery.chain" in said
    assert said.endswith("\n  fix: decorate a task that calls it: def send(event): chain(...).delay()")


def test_a_signature_among_functions(walex: WalEx, app: Celery) -> None:
    @app.task(name="shop.mail")
    def mail(event: Event) -> None: ...

    assert refusal(lambda: walex.on_insert("users", functions=[mail.s().set(priority=3)])).endswith(
        "\n  fix: give the task its options, @app.task(priority=3) or task_routes, and decorate the task itself, or "
        "name it: functions=['shop.mail']"
    )


def test_a_class_of_tasks_decorated(walex: WalEx, app: Celery) -> None:
    class Mail(app.Task):  # type: ignore[misc,name-defined]
        name = "shop.mail"

    assert "decorates a function or a Celery task, not <class" in refusal(
        lambda: walex.on_insert("users")(Mail)
    )


# The decorators in the wrong order.


WRONG_ORDER = (
    "handler {module}.{name}: @app.task stands above @walex.on_insert(users), so the function would be called in the "
    "producer, with a list of events, and no task be sent\n"
    "  fix: put @walex.on_insert(...) above @app.task"
)


def test_the_task_above_the_handler(walex: WalEx, app: Celery) -> None:
    @app.task(name="send")
    @walex.on_insert("users")
    def send(event: Event) -> None: ...

    assert at_start(walex) == WRONG_ORDER.format(module=HERE, name="send")


def test_a_bound_task_above_the_handler(walex: WalEx, app: Celery) -> None:
    @app.task(bind=True, autoretry_for=(OSError,), max_retries=2)
    @walex.on_insert("users")
    def bound(self: Any, event: Event) -> None: ...

    assert at_start(walex) == WRONG_ORDER.format(module=HERE, name="bound")


def test_a_shared_task_above_the_handler(walex: WalEx) -> None:
    @shared_task(name="shop.send")
    @walex.on_insert("users")
    def shared(event: Event) -> None: ...

    assert at_start(walex) == WRONG_ORDER.format(module=HERE, name="shared")


def test_a_task_and_another_decorator_above_the_handler(walex: WalEx, app: Celery) -> None:
    def logged(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def call(*arguments: Any) -> None:
            function(*arguments)

        return call

    @app.task
    @logged
    @walex.on_insert("users")
    def wrapped(event: Event) -> None: ...

    assert at_start(walex) == WRONG_ORDER.format(module=HERE, name="wrapped")


def test_the_right_order_is_right(walex: WalEx, app: Celery) -> None:
    @walex.on_insert("users")
    @app.task(name="send")
    def send(event: Event) -> None: ...

    walex.on_insert("users")(handle)
    walex.on_insert("users")(lambda events: None)

    with pytest.raises(PostgresUnavailable):  # it goes on to Postgres
        Producer(walex).run()


# As users meet it: the application's own module has the mistake.

MODULE = """
from celery import Celery
from walex_celery import WalEx

app = Celery("shop", broker="memory://")
walex = WalEx(app, publication="events", subscriptions=["users"])

{misuse}
"""

MISUSES = {
    "no parentheses": (
        "@walex.on_insert\ndef inserted(events): ...",
        "on_insert in shop, line 8: it stands without parentheses",
    ),
    "a list second": (
        '@walex.on_insert("users", ["welcome"])\ndef inserted(events): ...',
        "on_insert in shop, line 8: the second argument is filters",
    ),
    "a signature": (
        "@app.task\ndef mail(event): ...\n\n"
        'walex.on_insert("users")(app.signature("shop.mail").set(queue="slow"))',
        "on_insert in shop, line 11: it decorates a signature of shop.mail",
    ),
    "the task above": (
        '@app.task\n@walex.on_insert("users")\ndef mail(event): ...',
        "handler shop.mail: @app.task stands above @walex.on_insert(users)",
    ),
}


@pytest.mark.parametrize("misuse", MISUSES)
def test_commands_report_it_in_one_short_finding(misuse: str, tmp_path: Path, database: Database) -> None:
    """Even in the module that ``-A`` names, of which Celery would print a traceback."""
    code, expected = MISUSES[misuse]
    project = Project(tmp_path)
    project.write({"shop.py": MODULE.format(misuse=code)})
    producer, doctor = ("-A", "shop", "walex", "producer"), ("-A", "shop", "walex", "doctor", "--json")

    with project.command(*producer, WALEX_URL=database.url) as process:
        assert process.wait(60) == 78, project.output(*producer)
    with project.command(*doctor, WALEX_URL=database.url) as process:
        assert process.wait(60) == 2, project.output(*doctor)

    said = project.output(*producer)
    assert f"ConfigurationError: {expected}" in said
    assert "\n  fix: " in said
    assert "Traceback" not in said
    findings = json.loads(project.output(*doctor))["findings"]
    (found,) = [finding for finding in findings if finding["sentence"].startswith(expected)]
    assert found["severity"] == "error"
    assert len(found["mend"]) == 1
    assert database.execute("SELECT FROM pg_replication_slots WHERE database = current_database()") == []
