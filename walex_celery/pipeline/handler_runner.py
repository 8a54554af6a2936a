"""Calls what may fail, a batch handler or the making of a task, under the policy that it has (``on_error.py``)."""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final, NamedTuple

from celery import Celery

from walex_celery._failpoints import failpoint
from walex_celery.dead_letters import Store, letter_of, store_to_write
from walex_celery.errors import HandlerError, MessageTooLarge, WalExError
from walex_celery.events.event import Event
from walex_celery.handlers.policies import DeadLetter, Halt, OnError, Retry, may_dead_letter
from walex_celery.handlers.registry import Handler
from walex_celery.postgres.timeline import Cluster
from walex_celery.retry.backoff import Backoff
from walex_celery.settings.model import WalExSettings
from walex_celery.settings.redaction import redact, secrets_of
from walex_celery.telemetry.activity import Activity, Doing
from walex_celery.telemetry.log_fields import fields_of, in_hand
from walex_celery.telemetry.statistics import Statistics

logger = logging.getLogger("walex_celery.calling")

#: Characters of an error's text, and of its traceback, that are kept: some errors quote all that they were given.
LONGEST_TEXT: Final = 20_000


class Stopped(Exception):
    """The producer was asked to stop while a failure was dealt with: what failed is not done."""


class Failure(NamedTuple):
    """An exception in words, without this application's secrets."""

    type: str
    text: str
    traceback: str
    where: str


class HandlerRunner:
    """Calls batch handlers, and deals with what they, or the making of tasks, raise.

    Args:
        app: its broker's password is redacted.
        settings: their policy, where a handler has none, and where dead letters go; ``None``: all failures halt.
        statistics: where calls, errors and dead letters are counted.
        activity: where calls and waits are reported.
        stopping: ends waits.
    """

    def __init__(
        self,
        app: Celery,
        settings: WalExSettings | None,
        statistics: Statistics,
        activity: Activity,
        stopping: threading.Event,
    ) -> None:
        self._app = app
        self._settings = settings
        self._statistics = statistics
        self._activity = activity
        self._stopping = stopping
        self._cluster = Cluster(0)
        self._store: Store | None = None
        self._stores_for: WalExSettings | None = None

    def prepare(self, settings: WalExSettings, handlers: Iterable[Handler], cluster: Cluster) -> None:
        """Go by *settings* from now on; open the store of dead letters, if there may be any.

        Raises:
            SetupError, ConfigurationError: they can't be stored where the setting says.
            PostgresUnavailable: Postgres can't be asked.
        """
        self._settings = settings
        self._cluster = cluster
        if self._stores_for is not settings:
            # It may be another database.
            self.close()
        if any(may_dead_letter(self.policy(handler)) for handler in handlers):
            self._opened_store(settings)

    def policy(self, handler: Handler) -> OnError:
        """What happens when *handler* fails."""
        if handler.on_error is not None:
            return handler.on_error
        return Halt() if self._settings is None else self._settings.on_error

    def close(self) -> None:
        """Close the store of dead letters."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def call(self, handler: Handler, events: Sequence[Event]) -> None:
        """Call a batch handler; returns when it has, or when its failure is stored.

        Raises:
            HandlerError: it raised, and its policy is to halt; its error is the cause.
            Stopped: the producer was asked to stop before it returned.
        """
        name = handler.name
        before = self._activity.begin(Doing.HANDLER, name)
        try:
            self._call_once(handler, name, events)
        except Exception as error:
            self.apply_policy(error, handler, events, partial(self._call_once, handler, name, events))
        finally:
            self._activity.begin(*before)

    def _call_once(self, handler: Handler, name: str, events: Sequence[Event]) -> None:
        assert handler.batch is not None
        tally = self._statistics.handler(name)
        began = time.perf_counter()
        token = in_hand.set((name, events))
        _close_old_django_connections()
        try:
            # A list of its own: what it does to that is not to be seen by the next try, nor by a dead letter.
            handler.batch(list(events))
        except Exception as error:
            tally.raised(error, time.perf_counter() - began)
            raise
        finally:
            in_hand.reset(token)
            _close_old_django_connections()
        tally.returned(len(events), time.perf_counter() - began)

    def apply_policy(
        self,
        error: Exception,
        handler: Handler,
        events: Sequence[Event],
        again: Callable[[], object],
        *,
        task: str = "",
        task_id: str = "",
    ) -> bool:
        """Do what the policy of *handler* says about *error*; whether *again* worked, rather than a letter was stored.

        Args:
            error: what was raised.
            handler: whose policy counts.
            events: what failed.
            again: does it again.
            task: the name of the task that could not be made; empty if it is the batch handler that failed.
            task_id: its id.

        Raises:
            HandlerError, Stopped: as :meth:`call`.
        """
        policy = self.policy(handler)
        what = f"task {task}" if task else f"batch handler {handler.name}"
        fields = fields_of(task or handler.name, events)
        began, tries = time.monotonic(), 1
        if isinstance(policy, Retry):
            waits = Backoff(None, first=policy.backoff, longest=policy.backoff_max)
            of = "" if policy.limit is None else f" of {policy.limit + 1}"
            while policy.limit is None or tries <= policy.limit:
                delay = waits.next_delay()
                failure = self._failure(error)
                logger.warning(
                    "%s failed on %s: %s%s, try %d%s; trying again in %.1f s",
                    what, _position(events), failure.type, failure.where, tries, of, delay,
                    extra={**fields, "try": tries, "seconds": round(delay, 3)},
                )  # fmt: skip
                if self._stopping.wait(delay):
                    raise Stopped(f"{what} is not tried again: the producer stops")
                self._activity.begin(Doing.HANDLER, task or handler.name)
                tries += 1
                try:
                    again()
                except Exception as another:
                    error = another
                else:
                    logger.info("%s succeeded on %s at try %d", what, _position(events), tries, extra=fields)
                    return True
        failure = self._failure(error)
        if isinstance(policy, DeadLetter) or (isinstance(policy, Retry) and policy.then == "dead_letter"):
            self._put_aside(error, failure, what, handler, events, fields, tries, task, task_id)
            return False
        seconds = time.monotonic() - began
        durable = self._settings is None or self._settings.durable_slot
        raise _halting(error, failure, what, events, fields, policy, f"{tries} in {seconds:.1f} s", durable)

    def _put_aside(
        self,
        error: Exception,
        failure: Failure,
        what: str,
        handler: Handler,
        events: Sequence[Event],
        fields: dict[str, object],
        tries: int,
        task: str,
        task_id: str,
    ) -> None:
        settings = self._settings
        assert settings is not None
        letter = letter_of(
            events,
            instance=settings.name,
            system_identifier=self._cluster.system_identifier,
            timeline=self._cluster.timelines.of(events[0].lsn),
            handler=task or handler.name,
            registration="" if task else handler.registration,
            task_id=task_id,
            error_type=failure.type,
            error=failure.text,
            traceback=failure.traceback,
            tries=tries,
        )
        backoff = Backoff(settings.reconnect_timeout)
        while True:
            try:
                store = self._opened_store(settings)
                store.add(letter)
                break
            except WalExError as trouble:
                if self._stopping.is_set():
                    raise Stopped(f"{what} failed, and its dead letter is not stored") from trouble
                try:
                    backoff.wait(trouble, self._stopping, level=logging.ERROR)
                except WalExError:
                    policy = self.policy(handler)
                    halt = _halting(
                        error, failure, what, events, fields, policy, str(tries), settings.durable_slot
                    )
                    halt.args = (f"{halt}\n  the dead letter could not be stored: {trouble}",)
                    raise halt from error
        failpoint("letter-stored")
        self._statistics.dead_lettered(letter.handler)
        logger.warning(
            "%s failed on %s: %s%s; its %d event(s) are dead letter %s, try %d, and the stream goes on",
            what, _position(events), failure.type, failure.where, len(events), letter.id, tries,
            extra={**fields, "dead_letter": letter.id, "try": tries},
        )  # fmt: skip

    def _opened_store(self, settings: WalExSettings) -> Store:
        if self._store is None:
            self._store = store_to_write(settings)
            self._stores_for = settings
        return self._store

    def _failure(self, error: Exception) -> Failure:
        secrets = () if self._settings is None else secrets_of(self._app, self._settings)
        failure = failure_of(error, secrets)
        if isinstance(error, MessageTooLarge):
            # Its text is ours, without row data; where it was raised says nothing to anybody.
            in_one_line = failure.text.replace("\n ", ";")
            return failure._replace(where=f" ({in_one_line})")
        return failure


def _close_old_django_connections() -> None:
    """Close the connections of Django's ORM that broke or are too old (``CONN_MAX_AGE``), as Django does for a request.

    Otherwise one that was cut once is used, and fails, for ever.
    """
    # Not imported: where Django is not used, it is not loaded.
    database = sys.modules.get("django.db")
    if database is not None and sys.modules["django.conf"].settings.configured:
        database.close_old_connections()


def failure_of(error: Exception, secrets: Iterable[str]) -> Failure:
    """*error* in words: of its traceback the part that is not ours."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    last = traceback.extract_tb(frames)[-1:]
    where = f" in {last[0].filename}, line {last[0].lineno}" if last else ""
    try:
        text = str(error)
    except Exception:
        text = "<its str() failed>"
    whole = "".join(traceback.format_exception(type(error), error, frames)).rstrip()
    return Failure(type(error).__name__, _short(redact(text, secrets)), _short(redact(whole, secrets)), where)


def _short(text: str) -> str:
    if len(text) <= LONGEST_TEXT:
        return text
    # Of a traceback both ends count.
    half = LONGEST_TEXT // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters ...\n{text[-half:]}"


def _position(events: Sequence[Event]) -> str:
    first = events[0]
    return f"{len(events)} event(s) of transaction {first.xid} at LSN {first.lsn}"


def _halting(
    error: Exception,
    failure: Failure,
    what: str,
    events: Sequence[Event],
    fields: dict[str, object],
    policy: OnError,
    tries: str,
    durable: bool,
) -> HandlerError:
    first, last = events[0], events[-1]
    some = f"{first!r}" if first is last else f"{first!r} to {last!r}"
    after = f"\n  tries: {tries}" if isinstance(policy, Retry) else ""
    again = (
        "it comes again at the next start"
        if durable
        else "it does not come again, because the slot is temporary and ends with the producer"
    )
    before, fix = "everything before this transaction", "repair the handler"
    if isinstance(error, MessageTooLarge):
        # It was already among tasks on their way to the broker.
        before, fix = "what the broker had confirmed before", "raise that limit"
    halt = HandlerError(
        f"{what} failed on {_position(events)}: {failure.type}: {failure.text}\n"
        f"  committed: {first.timestamp:%Y-%m-%d %H:%M:%S.%f %Z}; events {first.index} to {last.index} of it\n"
        f"  events: {some}\n"
        f"  policy: on_error={policy}{after}\n"
        f"  acknowledged: {before}, and nothing of this transaction: {again}\n"
        f"  fix: {fix} and start the producer again; or, for the stream to go on without these events,\n"
        '  on_error="dead_letter" (or WALEX_ON_ERROR=dead_letter) stores them to be tried again later'
        + (
            ""
            if durable
            else "\n  fix: for a transaction to come again, durable_slot=True (WALEX_DURABLE_SLOT=true)"
        )
    )
    halt.fields = {**fields, "exception": failure.type, "traceback": failure.traceback}
    halt.traceback = failure.traceback
    halt.__cause__ = error
    return halt
