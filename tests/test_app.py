"""WalEx: one Celery application, its settings, handlers and event modules."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from importlib import import_module
from itertools import count
from pathlib import Path

import pytest
from celery import Celery, shared_task, signals

from walex_celery import ConfigurationError, Event, Filters, WalEx
from walex_celery.app import instances
from walex_celery.filters import Table

_packages = count()


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("shop", broker="memory://", set_as_current=False)
    yield app
    app.close()


def make(app: Celery, **settings: object) -> WalEx:
    return WalEx(app, **{"url": "postgresql://db/shop", "publication": "events", **settings})


class Package:
    """A package of the user's, written for one test."""

    def __init__(self, folder: Path) -> None:
        self.name = f"walex_test_{next(_packages)}"
        self._folder = folder

    def write(self, path: str, text: str = "") -> None:
        file = self._folder / self.name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
        for parent in file.relative_to(self._folder).parents[:-1]:
            (self._folder / parent / "__init__.py").touch()

    def names(self, walex: WalEx) -> list[str]:
        """The modules imported for *walex*, without the package's own name."""
        return [module.__name__.removeprefix(self.name + ".") for module in walex.import_modules()]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    monkeypatch.syspath_prepend(tmp_path)
    package = Package(tmp_path)
    yield package
    for name in [name for name in sys.modules if name.partition(".")[0] == package.name]:
        del sys.modules[name]


# Settings.


def test_nothing_is_read_before_it_is_needed(app: Celery) -> None:
    """Workers make a WalEx too, and have no database."""
    walex = WalEx(app, publication="events")

    with pytest.raises(ConfigurationError, match="database: missing"):
        _ = walex.settings


def test_a_keyword_that_is_no_setting_is_an_error(app: Celery) -> None:
    with pytest.raises(ConfigurationError, match=r"no setting 'publications'; it has .* publication"):
        WalEx(app, publications="events")


def test_the_application_configures_what_nothing_else_does(app: Celery) -> None:
    app.conf.update(walex_subscriptions=["users"], walex_durable_slot=True)

    settings = make(app, durable_slot=False).settings

    assert settings.subscriptions == (Table("public", "users"),)
    assert not settings.durable_slot


def test_configuration_with_a_namespace_as_django_has_it(app: Celery) -> None:
    app.config_from_object({"CELERY_WALEX_SLOT_NAME": "mine"}, namespace="CELERY")

    assert make(app).settings.slot == "mine"


@pytest.mark.parametrize(
    ("keyword", "environment", "conf", "name"),
    [
        ("keyword", "environment", "conf", "keyword"),
        (None, "environment", "conf", "environment"),
        (None, None, "conf", "conf"),
        (None, None, None, "shop"),
    ],
)
def test_the_name_is_the_application_s_unless_anything_says_another(
    keyword: str | None,
    environment: str | None,
    conf: str | None,
    name: str,
    app: Celery,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if environment:
        monkeypatch.setenv("WALEX_NAME", environment)
    if conf:
        app.conf.walex_name = conf

    assert make(app, name=keyword).settings.name == name


def test_an_application_without_a_name_must_name_its_instance() -> None:
    with pytest.raises(ConfigurationError, match="name: missing"):
        _ = make(Celery(broker="memory://", set_as_current=False)).settings


# Several in one process.


def test_several_are_isolated(app: Celery) -> None:
    first, second = (
        make(app, name="first", subscriptions=["a"]),
        make(app, name="second", subscriptions=["b"]),
    )

    first.on_insert("a")(lambda events: None)
    first.add_config("subscriptions", "c")

    assert instances(app) == {"first": first, "second": second}
    assert (len(first.handlers), len(second.handlers)) == (1, 0)
    assert list(map(str, first.settings.subscriptions)) == ["a", "c"]
    assert list(map(str, second.settings.subscriptions)) == ["b"]
    assert (first.settings.slot, second.settings.slot) == ("first_walex", "second_walex")


def test_the_same_name_twice_is_an_error(app: Celery) -> None:
    make(app)
    with pytest.raises(ConfigurationError, match="has a WalEx named 'shop' already"):
        make(app)


def test_another_application_may_have_the_same_name(app: Celery) -> None:
    other = Celery("shop", broker="memory://", set_as_current=False)

    assert instances(other) == {}
    assert make(app) is not make(other)


# Handlers.


def test_the_decorators(app: Celery) -> None:
    """What is decorated stays what it was."""
    walex = make(app)
    quiet = Filters(unwatched_fields=["updated_at"])

    def handle(events: list[Event]) -> None: ...

    assert walex.on_event("all", quiet, ["crm.add"])(handle) is handle
    walex.on_insert("users", {"unwatched_records": {"a": 1}})(handle)
    walex.on_update("sales.orders", functions=["crm.add"])(handle)
    walex.on_delete("sales:orders")(handle)
    walex.on_truncate("users", ["crm.add"])(handle)
    walex.on_message("audit", ["crm.add"])(handle)

    assert [(h.decorator, h.table and str(h.table), h.prefix, h.functions) for h in walex.handlers] == [
        ("on_event", None, None, ("crm.add",)),
        ("on_insert", "users", None, ()),
        ("on_update", "sales.orders", None, ("crm.add",)),
        ("on_delete", "sales.orders", None, ()),
        ("on_truncate", "users", None, ("crm.add",)),
        ("on_message", None, "audit", ("crm.add",)),
    ]
    assert next(iter(walex.handlers)).filters == quiet
    assert {h.batch for h in walex.handlers} == {handle}
    assert {h.module for h in walex.handlers} == {__name__}


def test_tasks_can_be_decorated(app: Celery) -> None:
    walex = make(app)

    @walex.on_update("users")
    @app.task(name="app.refresh")
    def refresh(event: Event) -> str:
        return "refreshed"

    @walex.on_update("users")
    @shared_task(name="app.announce")
    def announce(event: Event) -> None: ...

    assert [h.batch for h in walex.handlers] == [None, None]
    assert refresh.name == "app.refresh"
    assert refresh(None) == "refreshed", "it is still the task that it was"


# Event modules.

HANDLER = """
    from {app} import walex

    @walex.on_insert({table!r})
    def inserted(events): ...
"""


def test_event_modules_are_found_by_name_of_instance_and_table(app: Celery, package: Package) -> None:
    for module in ("events/users.py", "events/orders.py", "events/unsubscribed.py", "more.py"):
        package.write(module)
    walex = make(
        app,
        name=package.name,
        subscriptions=["users", "sales.orders", "todos"],
        modules=[f"{package.name}.more"],
    )

    assert package.names(walex) == ["more", "events.users", "events.orders"]


def test_all_tables_are_all_event_modules(app: Celery, package: Package) -> None:
    for module in ("events/users.py", "events/orders.py"):
        package.write(module)

    assert package.names(make(app, name=package.name, subscriptions=["*"])) == [
        "events.orders",
        "events.users",
    ]


def test_no_event_modules_are_no_error(app: Celery, package: Package) -> None:
    package.write("celery.py")

    assert package.names(make(app, name=package.name, subscriptions=["users", "*", "odd name"])) == []
    assert package.names(make(app, name="no such package", subscriptions=["users"])) == []


def test_handlers_of_event_modules_are_registered_once(app: Celery, package: Package) -> None:
    package.write("celery.py", "walex = None")
    package.write("events/users.py", HANDLER.format(app=f"{package.name}.celery", table="users"))
    walex = make(app, name=package.name, subscriptions=["users"])
    vars(import_module(f"{package.name}.celery"))["walex"] = walex

    walex.import_modules()
    walex.import_modules()

    assert [handler.name for handler in walex.handlers] == [f"{package.name}.events.users.inserted"]


def test_a_module_that_does_not_exist_is_an_error(app: Celery) -> None:
    for name in ("no.such.module", "not an identifier", "walex_celery.no_such"):
        with pytest.raises(ConfigurationError, match="modules: there is no module"):
            make(Celery(f"app {name}", set_as_current=False), name="shop", modules=[name]).import_modules()


def test_the_main_module_may_have_handlers(app: Celery) -> None:
    """A script: importlib's own search refuses its name."""
    assert make(app, modules=["__main__"]).import_modules() == [sys.modules["__main__"]]


def test_an_error_in_an_event_module_is_not_hidden(app: Celery, package: Package) -> None:
    package.write("events/users.py", "import no_such_module_of_theirs")

    with pytest.raises(ModuleNotFoundError, match="no_such_module_of_theirs"):
        make(app, name=package.name, subscriptions=["users"]).import_modules()


def test_an_error_in_the_package_of_an_event_module_is_not_hidden(app: Celery, package: Package) -> None:
    package.write("events/users.py")
    package.write("events/__init__.py", "import no_such_module_of_theirs")

    with pytest.raises(ModuleNotFoundError, match="no_such_module_of_theirs"):
        make(app, name=package.name, subscriptions=["users"]).import_modules()


def test_a_worker_imports_event_modules_with_its_own(app: Celery, package: Package) -> None:
    """So that it knows their tasks; without a database, a publication or a slot."""
    package.write("events/users.py")
    walex = WalEx(app, name=package.name, subscriptions=["users"])

    signals.import_modules.send(sender=app)

    assert f"{package.name}.events.users" in sys.modules
    assert len(walex.handlers) == 0


# Changes.


def test_listeners_are_told_of_changes_and_new_handlers(app: Celery) -> None:
    walex = make(app)
    calls: list[str] = []
    unlisten = walex.listen(lambda: calls.append("change"))

    walex.add_config("subscriptions", ["users"])
    walex.remove_config("subscriptions", ["users"])
    walex.replace_config("password", "new")
    walex.on_insert("users")(lambda events: None)
    assert len(calls) == 4

    with pytest.raises(ConfigurationError):
        walex.replace_config("name", "other")
    unlisten()
    walex.add_config("subscriptions", ["users"])
    assert len(calls) == 4


def test_a_module_added_is_imported(app: Celery, package: Package) -> None:
    package.write("more.py")
    package.write("events/users.py")
    walex = make(app, name=package.name)
    assert package.names(walex) == []

    walex.add_config("modules", f"{package.name}.more")
    walex.add_config("subscriptions", "users")

    assert package.names(walex) == ["more", "events.users"]


def test_no_repr_has_a_secret(app: Celery) -> None:
    walex = make(app, url="postgresql://me:hunter2@db/shop", password="hunter3")

    assert repr(walex) == "<WalEx shop>"
    assert "hunter" not in repr(walex.settings)


def test_the_url_s_password_is_not_in_what_a_worker_shows_of_its_configuration() -> None:
    """Promise 9: ``celery inspect conf``, ``celery report`` and Flower's page of a worker."""
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.walex_url = "postgresql://shop:hunter2@db:5433/shop"
    app.conf.walex_publication = "events"
    walex = WalEx(app)
    app.loader.import_default_modules()  # as a worker does when it starts
    assert "hunter2" not in str(app.conf.table(with_defaults=True))
    assert "hunter2" not in app.bugreport()
    assert app.conf.walex_url == "postgresql://shop:***@db:5433/shop"
    assert walex.settings.password is not None
    assert walex.settings.password.get_secret_value() == "hunter2"
