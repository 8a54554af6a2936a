"""WalEx: binds a Celery application, settings and handlers.

Workers load this module too, so what only a producer needs is imported where it is used.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import threading
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from celery import Celery, signals
from pydantic import SecretStr

from walex_celery.errors import ConfigurationError
from walex_celery.filters import ALL_TABLES, Filters, Table
from walex_celery.handlers.celery_modules import CeleryModules
from walex_celery.handlers.kinds import DELETE, INSERT, MESSAGE, ON_EVENT, TRUNCATE, UPDATE
from walex_celery.handlers.misuse import is_decorated
from walex_celery.handlers.registry import Registry, handler_of
from walex_celery.settings.model import EventModules, WalExSettings, load_settings
from walex_celery.settings.url import without_password

if TYPE_CHECKING:
    from walex_celery.handlers.policies import OnError
    from walex_celery.settings.changes import Reloaded

Decorated = TypeVar("Decorated")
_FilterArgument = Filters | Mapping[str, Any] | None

_INSTANCES = "_walex_instances"


class WalEx:
    """Listens to changes of a Postgres database's tables, for one Celery application.

    Args:
        app: the Celery application whose tasks handle the events.
        **settings: any setting of :class:`~walex_celery.settings.model.WalExSettings`; those not given here come from
            ``WALEX_*`` variables, ``.env`` and ``app.conf.walex_*``, in that order. They are read, and a
            :class:`~walex_celery.errors.ConfigurationError` raised for those that are wrong, when the producer
            starts: workers need no database.

    Raises:
        ConfigurationError: for a keyword that is no setting, or an instance of the same name.

    >>> from celery import Celery
    >>> app = Celery("shop", broker="memory://")
    >>> walex = WalEx(app, name="shop", url="postgresql://localhost/shop",
    ...               publication="events", subscriptions=["users", "sales.orders"])
    >>> @walex.on_insert("users")
    ... def users_inserted(events):
    ...     print([event.new_record["email"] for event in events])
    """

    def __init__(self, app: Celery, **settings: Any) -> None:
        self.app = app
        self.handlers = Registry()
        # A debugger or an error tracker shows what objects hold.
        self._keywords = {
            key: SecretStr(value) if key in ("url", "password") and isinstance(value, str) else value
            for key, value in settings.items()
        }
        self._settings: WalExSettings | None = None
        # As their sources last gave them.
        self._loaded: WalExSettings | None = None
        self._hidden: dict[str, Any] = {}
        self._lock = threading.RLock()
        self._listeners: list[Callable[[], None]] = []
        # Handlers that a command has found wrong, and not reported yet.
        self._refused: list[ConfigurationError] = []
        self._modules_imported = False
        named: dict[str, WalEx] = vars(app).setdefault(_INSTANCES, {})
        name = settings.get("name") or app.main or "walex"
        caller = sys._getframe(1)
        place = f"WalEx() in {caller.f_globals.get('__name__')}, line {caller.f_lineno}"
        unknown = sorted(settings.keys() - WalExSettings.model_fields.keys())
        if unknown:
            self._refuse(place, "", _no_setting(unknown))
        if name in named:
            # Commands know the first one.
            named[name]._refuse(
                place,
                "",
                ConfigurationError(
                    f"this Celery application has a WalEx named {name!r} already\n  fix: give this one another name="
                ),
            )
        named.setdefault(name, self)
        # A worker must know the tasks that event modules define, as it knows those of Celery's own imports=.
        signals.import_modules.connect(self._on_import_modules, sender=app)

    def __repr__(self) -> str:
        return f"<WalEx {self._keywords.get('name') or self.app.main}>"

    @property
    def settings(self) -> WalExSettings:
        """The settings in force.

        Raises:
            ConfigurationError: naming every one that is missing or wrong.
        """
        with self._lock:
            if self._refused and self._keywords.keys() - WalExSettings.model_fields.keys():
                raise self._refused[0]
            if self._settings is None:
                self._settings = self._loaded = load_settings(self._keywords, self._conf())
            return self._settings

    def _conf(self) -> Mapping[str, Any]:
        # The application's own name is the default, after all other sources.
        return ChainMap(self._hidden, self.app.conf, {"walex_name": self.app.main} if self.app.main else {})

    def _hide_url(self) -> None:
        """Take the password out of ``app.conf.walex_url``, which a worker shows to ``inspect conf`` and Flower.

        Celery masks what is named ``..._password``, and the urls of brokers and backends, but not this one.
        """
        url = self.app.conf.get("walex_url")
        if isinstance(url, str) and url and "walex_url" not in self._hidden:
            self._hidden["walex_url"] = SecretStr(url)
            self.app.conf["walex_url"] = without_password(url)

    # Handlers: a decorator for each kind of event (handlers/kinds.py), and on_event. The order of arguments is that of
    # Elixir's WalEx: table, filters, functions.

    def on_event(
        self,
        table: Any,
        filters: _FilterArgument = None,
        functions: Sequence[Any] = (),
        *,
        on_error: OnError | str | None = None,
    ) -> Callable[[Decorated], Decorated]:
        """Handle every insert, update, delete and truncate of *table*, or of all subscribed tables (``"all"``).

        Args:
            table: ``"users"``, ``"sales.orders"``, ``"sales:orders"``, a model class, or ``"all"``.
            filters: a :class:`~walex_celery.Filters`, or a mapping of the same.
            functions: Celery tasks to enqueue for each event: objects, names in the handler's own module, or
                names of tasks.
            on_error: what happens when the batch handler raises, or a task can't be made of an event: ``"halt"``,
                ``"retry"``, ``"dead_letter"``, or a :class:`~walex_celery.Retry`; default: setting ``on_error``.

        Decorates a plain function, which is called in the producer with the list of events of a transaction,
        or a Celery task, which is enqueued once an event.

        Raises:
            ConfigurationError: for an argument that can't be one.
        """
        return self._register(ON_EVENT, table, filters, functions, on_error)

    def on_insert(
        self,
        table: Any,
        filters: _FilterArgument = None,
        functions: Sequence[Any] = (),
        *,
        on_error: OnError | str | None = None,
    ) -> Callable[[Decorated], Decorated]:
        """Handle inserts into *table*; arguments as :meth:`on_event`."""
        return self._register(INSERT.decorator, table, filters, functions, on_error)

    def on_update(
        self,
        table: Any,
        filters: _FilterArgument = None,
        functions: Sequence[Any] = (),
        *,
        on_error: OnError | str | None = None,
    ) -> Callable[[Decorated], Decorated]:
        """Handle updates of *table*; arguments as :meth:`on_event`."""
        return self._register(UPDATE.decorator, table, filters, functions, on_error)

    def on_delete(
        self,
        table: Any,
        filters: _FilterArgument = None,
        functions: Sequence[Any] = (),
        *,
        on_error: OnError | str | None = None,
    ) -> Callable[[Decorated], Decorated]:
        """Handle deletes from *table*; arguments as :meth:`on_event`."""
        return self._register(DELETE.decorator, table, filters, functions, on_error)

    def on_truncate(
        self, table: Any, functions: Sequence[Any] = (), *, on_error: OnError | str | None = None
    ) -> Callable[[Decorated], Decorated]:
        """Handle a TRUNCATE of *table*; arguments as :meth:`on_event`."""
        return self._register(TRUNCATE.decorator, table, None, functions, on_error)

    def on_message(
        self, prefix: str, functions: Sequence[Any] = (), *, on_error: OnError | str | None = None
    ) -> Callable[[Decorated], Decorated]:
        """Handle messages written with ``pg_logical_emit_message(..., prefix, content)``; ``"*"`` for all.

        ``event.content`` holds the bytes. Needs Postgres 14 or newer.
        """
        return self._register(MESSAGE.decorator, prefix, None, functions, on_error)

    def _register(
        self,
        name: str,
        target: Any,
        filters: _FilterArgument,
        functions: Sequence[Any],
        on_error: OnError | str | None,
    ) -> Callable[[Decorated], Decorated]:
        caller = sys._getframe(2)
        place = f"{name} in {caller.f_globals.get('__name__')}, line {caller.f_lineno}"

        def decorate(decorated: Decorated) -> Decorated:
            # A task's proxy does not have its module, and asking it would finalize the app; the caller's is the same.
            module = sys._getframe(1).f_globals.get("__name__", "__main__")
            try:
                self.handlers.add(name, target, filters, functions, decorated, module, on_error)
            except ConfigurationError as error:
                self._refuse(place, name, error)
            else:
                self._notify()
            return decorated

        try:
            handler_of(name, target, filters, functions, on_error)
        except ConfigurationError as error:
            self._refuse(place, name, error)
            # Without parentheses, the target is what was decorated.
            return target if is_decorated(target) else _left_alone
        return decorate

    def _refuse(self, place: str, name: str, error: ConfigurationError) -> None:
        """Raise *error*, with its place; or let a command do so when it has imported all modules.

        Celery would print a traceback of what the application's module raises, with the reason as its last line.
        """
        error = ConfigurationError(f"{place}: {str(error).removeprefix(f'{name}: ')}")
        if self._modules_imported or not _in_walex_command():
            raise error
        self._refused.append(error)

    # Changes while the producer runs.

    def add_config(self, key: str, values: Any) -> None:
        """Add *values* (one or a list) to ``subscriptions``, ``modules`` or ``publication``.

        A running producer applies it at the next transaction boundary.

        Raises:
            ConfigurationError: for another key, or a wrong value.
        """
        self._change("add", key, values)

    def remove_config(self, key: str, values: Any) -> None:
        """Remove *values* (one or a list); otherwise as :meth:`add_config`."""
        self._change("remove", key, values)

    def replace_config(self, key: str, value: Any) -> None:
        """Replace a setting; the producer reconnects where it concerns the connection or the slot.

        Raises:
            ConfigurationError: for a key that may not change while running, or a wrong value.
        """
        self._change("replace", key, value)

    def reload(self) -> Reloaded:
        """Read the settings again from the environment, ``.env`` and ``app.conf``, and apply what is different.

        The way for a new password to reach a running producer. What :meth:`add_config` and its like changed stays,
        unless its source has changed too.

        Raises:
            ConfigurationError: naming every setting that is missing or wrong now; nothing was changed.
        """
        from walex_celery.settings.changes import reloaded

        with self._lock:
            current = self.settings
            assert self._loaded is not None
            now = load_settings(self._keywords, self._conf())
            found = reloaded(current, self._loaded, now)
            for name in found.settings.modules if "modules" in found.changed else ():
                _require(name)
            self._settings, self._loaded = found.settings, now
        if found.changed:
            self._notify()
        return found

    def _change(self, action: str, key: str, value: Any) -> None:
        from walex_celery.settings.changes import changed

        with self._lock:
            settings = changed(self.settings, action, key, value)
            middlewares = self.settings.message_middleware, settings.message_middleware
            if key == "message_middleware" and self._listeners and any(map(_is_spool, middlewares)):
                raise ConfigurationError(
                    "a spool can't be put in or taken out while the producer runs; restart the producer"
                )
            # Raised here, where the change is asked for: in the running producer it would be the end of it.
            for name in settings.modules if key == "modules" else ():
                _require(name)
            self._settings = settings
        self._notify()

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call *listener* (from any thread) after each change of settings or handlers.

        Returns a function that ends this.
        """
        with self._lock:
            self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _notify(self) -> None:
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    # Event modules.

    def import_modules(self) -> list[ModuleType]:
        """Import the modules with handlers: ``<name>.events.<table>`` for each subscription, and ``modules``.

        Before them, once, those that Celery loads in a worker: ``include``, ``imports``, ``autodiscover_tasks()``; with
        Django's fixup, Django is set up first.

        Returns:
            Those of ``modules``, and the event modules.

        Raises:
            ConfigurationError: ``modules`` names one that does not exist; or, in a command of ``celery walex``, a
                decorator was used wrongly.
        """
        load_celery_modules(self.app)
        modules = self._import_event_modules()
        if self._refused:
            raise self._refused[0]
        self._modules_imported = True
        return modules

    def _import_event_modules(self) -> list[ModuleType]:
        wanted = load_settings(self._keywords, self._conf(), EventModules)
        with self._lock:
            if self._settings is not None:
                wanted = self._settings
        package = f"{wanted.name}.events"
        modules = []
        for name in wanted.modules:
            _require(name)
            modules.append(importlib.import_module(name))
        for subscription in wanted.subscriptions:
            modules += _event_modules(package, subscription)
        return modules

    def _on_import_modules(self, **_: Any) -> None:
        modules = CeleryModules.of(self.app)
        if not modules.loading:  # if we load them, ours follow
            modules.celery_loads()
            self._hide_url()
            self._import_event_modules()


def _no_setting(unknown: list[str]) -> ConfigurationError:
    known = sorted(WalExSettings.model_fields)
    close = [match for name in unknown for match in get_close_matches(name, known, n=1)]
    fix = f"\n  fix: did you mean {' and '.join(f'{name}=' for name in close)}?" if close else ""
    return ConfigurationError(
        f"there is no setting {', '.join(map(repr, unknown))}; it has {', '.join(known)}{fix}"
    )


def _left_alone(decorated: Decorated) -> Decorated:
    return decorated


def _in_walex_command() -> bool:
    """Whether this thread runs ``celery walex``, which imports modules and reports what is wrong with them."""
    click = sys.modules.get("click")  # only Celery's commands load it
    context = click.get_current_context(silent=True) if click is not None else None
    return context is not None and context.find_root().invoked_subcommand == "walex"


def _is_spool(middleware: object) -> bool:
    # By what it says of itself: a worker that imports this module has no use for the spool's.
    return bool(getattr(middleware, "needs_durable_slot", False))


def _event_modules(package: str, subscription: Table | str) -> list[ModuleType]:
    if isinstance(subscription, Table):
        name = f"{package}.{subscription.name}"
        return [importlib.import_module(name)] if _exists(name) else []
    if subscription == ALL_TABLES and _exists(package):
        parent = importlib.import_module(package)
        found = pkgutil.iter_modules(getattr(parent, "__path__", ()))
        return [importlib.import_module(f"{package}.{module.name}") for module in found]
    return []


def _require(module: str) -> None:
    if not _exists(module):
        raise ConfigurationError(
            f"modules: there is no module {module!r} to import\n"
            "  fix: correct modules=, or put the module where Python finds it (PYTHONPATH)"
        )


def _exists(module: str) -> bool:
    if not all(part.isidentifier() for part in module.split(".")):
        return False
    if module in sys.modules:  # find_spec refuses __main__
        return True
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError as error:
        # A parent that is missing is no error; something missing that a parent imports is.
        if error.name is not None and (module == error.name or module.startswith(error.name + ".")):
            return False
        raise


def load_celery_modules(app: Celery) -> None:
    """Import what Celery loads when a worker of *app* starts, unless that was done; see :class:`CeleryModules`."""
    CeleryModules.of(app).load()


def instances(app: Celery) -> dict[str, WalEx]:
    """The WalEx objects made for *app*, by name."""
    return dict(vars(app).get(_INSTANCES, {}))
