"""A kombu connection under a deadline: failover URLs, TLS and heartbeats are kombu's; errors are ours."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from typing import Any, Final

from celery import Celery
from kombu import Connection
from kombu.exceptions import OperationalError
from kombu.transport import TRANSPORT_ALIASES

from walex_celery.broker.templates.wire import Item
from walex_celery.errors import BrokerUnavailable, ConfigurationError, MessageTooLarge, PublishRefused

#: What to install for a transport, by the scheme of its URL.
_LIBRARIES: Final = {
    **dict.fromkeys(("redis", "rediss", "sentinel"), "walex-celery[redis]"),
    **dict.fromkeys(("sqs", "SQS"), "kombu[sqs]"),
    **dict.fromkeys(("sqla", "sqlalchemy"), "kombu[sqlalchemy]"),
    **dict.fromkeys(("kafka", "confluentkafka"), "kombu[confluentkafka]"),
    **dict.fromkeys(("slmq", "SLMQ"), "kombu[slmq]"),
    **{
        name: f"kombu[{name}]"
        for name in (
            "azureservicebus", "azurestoragequeues", "consul", "gcpubsub", "librabbitmq", "mongodb", "pgmq", "pyro",
            "qpid", "zookeeper",
        )
    },
}  # fmt: skip


class Link:
    """Opens the broker connection that the app's settings name; its texts have no secrets.

    Args:
        app: whose ``broker_write_url`` and broker settings count.
        timeout_seconds: for connecting, and for each wait on the broker.
        sender: the node that events are sent as; ``None`` for one made of process and host.
        options: transport options that hold unless the user set them.
    """

    def __init__(
        self, app: Celery, timeout_seconds: float, *, sender: str | None = None, **options: Any
    ) -> None:
        self.app = app
        self.sender = sender
        self.timeout_seconds = timeout_seconds
        self._options = options
        self.connection = self._new()

    def _new(self) -> Connection:
        given: dict[str, Any] = dict(self.app.conf.broker_transport_options or {})
        try:
            connection: Connection = self.app.connection_for_write(
                heartbeat=self.app.conf.broker_heartbeat,
                transport_options={**self._options, **given},
            )
        except ValueError:
            # Its text quotes what it took for the port, which may be half of a password.
            raise ConfigurationError(
                "broker_url can't be read as a URL. Special characters in its password must be "
                "percent-encoded (/ as %2F, # as %23, @ as %40)."
            ) from None
        except Exception as error:
            raise self._bad_transport(error) from error
        return connection

    @property
    def url(self) -> str:
        """The address in use, with the password masked."""
        url = self.scrub(str(self.connection.as_uri()))
        user = self.connection.userid
        return url.replace("://**:**@", f"://{user}:**@") if user else url

    @property
    def driver_name(self) -> str:
        """Name of the library that the URL's transport uses: "redis", "py-amqp" ..."""
        try:
            return str(self.connection.transport.driver_name)
        except Exception as error:
            raise self._bad_transport(error) from error

    def _bad_transport(self, error: Exception) -> ConfigurationError:
        """Return the error for a transport that kombu can't load: it raises KeyError, ImportError and others."""
        conf = self.app.conf
        scheme = str(conf.broker_write_url or conf.broker_url).partition(":")[0]
        library = _LIBRARIES.get(scheme.partition("+")[0])
        if library is not None:
            fix = f"correct broker_url, or install its library: pip install '{library}'"
        elif scheme in TRANSPORT_ALIASES:
            fix = "correct broker_url, or install its library: see kombu's documentation of the transport"
        else:
            fix = "correct broker_url, which begins with the transport's name (amqp://, redis://, sqs:// ...)"
        reason = str(error.args[0] if isinstance(error, KeyError) else error).rstrip(
            "."
        )  # str() quotes a KeyError's
        return ConfigurationError(f"The broker's transport {scheme!r} can't be used: {reason}\n  fix: {fix}")

    def scrub(self, text: str) -> str:
        """Return ``text`` without the broker's password."""
        passwords = {self.connection.password, self.app.conf.broker_password}
        for password in passwords:
            if isinstance(password, str) and password:
                text = text.replace(f":{password}@", ":**@")
                if len(password) > 3:  # shorter ones would cut words to pieces
                    text = text.replace(password, "**")
        return text

    def connect(self) -> Any:
        """Return the transport's connection, trying each failover URL once.

        Raises:
            BrokerUnavailable: none of them answered within the deadline.
            PublishRefused: the broker refused the login.
        """
        deadline = time.monotonic() + self.timeout_seconds
        attempts = max(1, len(self.connection.alt or ()))
        for attempt in range(attempts):
            try:
                # One attempt, no sleep: the caller has its own backoff.
                self.connection.ensure_connection(max_retries=0, reraise_as_library_errors=False)
                return self.connection.connection
            except Exception as error:  # every driver has its own tree of errors
                self.drop()
                if is_login_error(error):
                    raise self._refused_login(error) from error
                if attempt + 1 == attempts or time.monotonic() > deadline:
                    raise self.unavailable("could not be reached", error) from error
                self.connection.maybe_switch_next()
        raise AssertionError("unreachable")

    def _refused_login(self, error: Exception) -> PublishRefused:
        from walex_celery.broker.drivers import driver_of  # whose drivers build on this module

        refused = driver_of(self).refusal_of(self, error, "the login")
        if refused is not None and "NOPERM" in str(refused):
            return refused  # user and password are right
        return PublishRefused(
            f"The broker {self.url} refused the login: {self.scrub(str(error))}. "
            "Correct the user and password in broker_url."
        )

    def unavailable(self, what: str, error: BaseException | None = None) -> BrokerUnavailable:
        """Return the error to raise when the broker is unreachable."""
        cause = f": {self.scrub(_text(error))}" if error is not None else ""
        return BrokerUnavailable(
            f"The broker {self.url} {what}{cause}. What was not confirmed is kept and will be sent again."
        )

    def too_large(
        self, sizes: Iterable[tuple[Item, int]], limit_bytes: int | None, setting: str, fix: str
    ) -> MessageTooLarge:
        """Return the error to raise for messages that the broker does not accept.

        Args:
            sizes: the messages, with the size of each in bytes; at least one.
            limit_bytes: the largest that it accepts; ``None`` if it does not say.
            setting: the limit's name.
            fix: how to raise the limit, as the beginning of a sentence.
        """
        allowed = setting if limit_bytes is None else f"{setting}, which is {limit_bytes} bytes"
        errors = [
            MessageTooLarge(
                f"The broker {self.url} refuses task {item[0].task!r} for {item[0]}: its message of {size} bytes is "
                f"larger than {allowed}\n"
                f"  fix: {fix}; or publish fewer of the table's columns",
                task=item[0].task,
                task_id=str(item[1]),
                size_bytes=size,
                limit_bytes=limit_bytes,
                message=item,
            )
            for item, size in sizes
        ]
        errors[0].each = tuple(errors)
        return errors[0]

    def forget_declarations(self) -> None:
        """Have queues and exchanges declared again, although kombu remembers that they were: the broker lost one."""
        declared: set[Any] | None = self.connection.declared_entities
        if declared is not None:
            declared.clear()

    def next_host(self) -> None:
        """After a failure: drop the connection, and try the next failover URL first."""
        self.drop()
        with contextlib.suppress(Exception):
            self.connection.maybe_switch_next()

    def drop(self) -> None:
        """Forget the connection without talking to the broker; never raises."""
        with contextlib.suppress(Exception):
            self.connection.collect(socket_timeout=0.1)

    def close(self) -> None:
        """Close the connection; never raises."""
        with contextlib.suppress(Exception):
            self.connection.release()


def is_login_error(error: BaseException | None) -> bool:
    """Whether the broker said that the user or password is wrong, in any driver's words."""
    while error is not None:
        if type(error).__name__ in ("AccessRefused", "AuthenticationError", "NoPermissionError"):
            return True
        text = str(error)
        if text.startswith(("NOAUTH", "WRONGPASS", "NOPERM")) or "ACCESS_REFUSED" in text:
            return True
        error = error.__cause__ if isinstance(error, OperationalError) else None
    return False


def _text(error: BaseException | None) -> str:
    return str(error).rstrip(".") or type(error).__name__
