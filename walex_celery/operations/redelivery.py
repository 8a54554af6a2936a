"""Retries dead letters: calls the batch handler here, or enqueues the task with its original id."""

from __future__ import annotations

from walex_celery.app import WalEx
from walex_celery.broker import Publisher
from walex_celery.dead_letters import DeadLetters, Letter
from walex_celery.errors import ConfigurationError, MessageTooLarge
from walex_celery.events.event import Event
from walex_celery.handlers.registry import BatchHandler
from walex_celery.pipeline.handler_runner import failure_of
from walex_celery.settings.redaction import secrets_of


class Redelivery:
    """Retries the dead letters of *walex*, one at a time.

    Args:
        walex: the application; its event modules are imported.
        letters: where they are stored.

    Attributes:
        failures: letters that failed again, with their new error.
    """

    def __init__(self, walex: WalEx, letters: DeadLetters) -> None:
        walex.import_modules()
        self._walex = walex
        self._letters = letters
        self.failures: dict[str, Letter] = {}

    def attempt(self, id: str) -> bool | None:
        """Retry a letter; returns whether it succeeded, or ``None`` if it is gone or being retried elsewhere.

        Raises:
            ConfigurationError: its handler does not exist any more.
            WalExError: the stores or the broker can't be reached.
        """
        if not self._letters.attempt(id, self._try):
            return None
        return id not in self.failures

    def _try(self, letter: Letter) -> Letter | None:
        events = [Event.from_json(text) for text in letter.events]
        if letter.kind == "batch":
            batch = self._batch_handler(letter)
            try:
                batch(events)
            except Exception as error:
                return self._failed(letter, error)
            return None
        return self._enqueue(letter, events[0])

    def _enqueue(self, letter: Letter, event: Event) -> Letter | None:
        # An unreachable broker is no failure of the letter.
        publisher = Publisher.open(self._walex.app, timeout_seconds=self._walex.settings.publish_timeout)
        try:
            function = publisher.prepare(self._walex.app.tasks.get(letter.handler, letter.handler))
            publisher.declare()
            try:
                publisher.add(function, letter.task_id, event.to_json(), repr(event))
            except Exception as error:
                return self._failed(letter, error)
            try:
                publisher.flush()
                publisher.confirm()
            except MessageTooLarge as error:
                return self._failed(letter, error)
        finally:
            publisher.close()
        return None

    def _failed(self, letter: Letter, error: Exception) -> Letter:
        failure = failure_of(error, secrets_of(self._walex.app, self._walex.settings))
        failed = self.failures[letter.id] = letter.failed_again(failure.type, failure.text, failure.traceback)
        return failed

    def _batch_handler(self, letter: Letter) -> BatchHandler:
        for handler in self._walex.handlers:
            if handler.batch and (handler.name, handler.registration) == (
                letter.handler,
                letter.registration,
            ):
                return handler.batch
        raise ConfigurationError(
            f"dead letter {letter.id} is of {letter.handler}, {letter.registration}, which is not registered any more\n"
            "  fix: register a handler with that name and table again, or discard the letter"
        )
