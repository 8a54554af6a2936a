"""Secrets taken out of text from users' code and from libraries: exceptions and their tracebacks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, Final
from urllib.parse import quote

from celery import Celery
from kombu.utils.url import parse_url

from walex_celery.settings.model import WalExSettings

_URLS: Final = ("broker_url", "broker_read_url", "broker_write_url", "result_backend")
#: RabbitMQ's default password is no secret, and a word that any text may have.
_KNOWN_TO_ALL: Final = frozenset({"guest"})


def secrets_of(app: Celery, settings: WalExSettings) -> tuple[str, ...]:
    """The passwords of the database, the broker and the result backend, in each form, the longest first."""
    plain = {*settings.secrets(), *_of_celery(app)} - _KNOWN_TO_ALL
    forms = {form for secret in plain for form in (secret, quote(secret, safe=""))}
    return tuple(sorted(forms, key=len, reverse=True))


def _of_celery(app: Celery) -> Iterator[str]:
    for name in _URLS:
        value: Any = app.conf.get(name)
        urls = value if isinstance(value, list | tuple) else str(value or "").split(";")
        for url in urls:
            with suppress(Exception):  # not a url, so it has no password
                password = parse_url(str(url)).get("password")
                if password:
                    yield str(password)
    if password := app.conf.get("broker_password"):
        yield str(password)


def redact(text: str, secrets: Iterable[str]) -> str:
    """*text* with ``***`` in place of each of *secrets*."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text
