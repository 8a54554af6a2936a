"""The modules that Celery loads are imported once, whoever asks for them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from celery import Celery, signals

from walex_celery import WalEx


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("shop", broker="memory://", set_as_current=False)
    yield app
    app.close()


@pytest.fixture
def imports(app: Celery) -> list[str]:
    """What has happened: an entry each time that Celery's modules were imported."""
    happened: list[str] = []

    def imported(**_: object) -> None:
        happened.append("imported")

    signals.import_modules.connect(imported, sender=app, weak=False)
    return happened


def make(app: Celery, name: str = "shop") -> WalEx:
    return WalEx(app, name=name)


def test_they_are_imported_once(app: Celery, imports: list[str]) -> None:
    """Django's fixup checks the whole project each time."""
    for walex in (make(app), make(app, "other")):
        walex.import_modules()
        walex.import_modules()

    assert imports == ["imported"]


def test_a_worker_imports_them_by_itself(app: Celery, imports: list[str]) -> None:
    walex = make(app)

    app.loader.import_default_modules()
    walex.import_modules()

    assert imports == ["imported"]


def test_a_module_may_ask_for_them_while_it_is_imported(app: Celery, imports: list[str]) -> None:
    walex = make(app)
    signals.import_modules.connect(lambda **_: walex.import_modules(), sender=app, weak=False)

    walex.import_modules()

    assert imports == ["imported"]


def test_a_second_thread_waits_until_they_are_there(app: Celery) -> None:
    walex = make(app)
    begun, go_on = threading.Event(), threading.Event()
    order: list[str] = []

    def slow(**_: object) -> None:
        begun.set()
        go_on.wait(20)
        order.append("imported")

    def ask() -> None:
        walex.import_modules()
        order.append("asked")

    signals.import_modules.connect(slow, sender=app, weak=False)
    threads = [threading.Thread(target=ask) for _ in range(2)]
    threads[0].start()
    assert begun.wait(20)
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join(20)

    assert order == ["imported", "asked", "asked"]


def test_what_a_module_raises_is_raised_each_time(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    """Else the second one to ask would go on with half of the handlers. Celery does not log it as well."""
    walex = make(app)
    app.conf.include = ["no_such_module_of_theirs"]
    signals.import_modules.connect(raises, sender=app)

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            walex.import_modules()

    assert caplog.records == []


def raises(**_: object) -> None:
    raise ZeroDivisionError
