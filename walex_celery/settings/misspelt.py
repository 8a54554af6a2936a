"""Names that are almost those of settings: in the environment, in ``.env`` and in ``app.conf``.

A keyword that is no setting is an error. These places hold other names too, so only a likely mistake is reported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Final

from dotenv import dotenv_values
from pydantic_settings import BaseSettings

from walex_celery.settings.url import URL_PARTS

#: Read elsewhere: ``walex_celery._failpoints``, ``walex_celery._speedups``.
_NO_SETTINGS: Final = frozenset({"failpoints", "native"})
#: What other programs call it.
_ELSEWHERE: Final = {
    "database_url": "url", "dsn": "url", "uri": "url", "host": "hostname", "user": "username", "pass": "password",
    "db": "database", "dbname": "database", "db_name": "database", "tables": "subscriptions", "slot": "slot_name",
}  # fmt: skip
#: What Kubernetes sets for a service named walex.
_KUBERNETES: Final = re.compile(r"service_(host|port)|port_\d+_")
#: From ``difflib``; 1 is equal.
_SIMILAR: Final = 0.75


def misspelt(settings: type[BaseSettings], keywords: Collection[str], conf: Mapping[str, Any]) -> list[str]:
    """A sentence for each name that looks like one of *settings* and is none.

    Args:
        settings: their model.
        keywords: the settings that are given as such.
        conf: the Celery application's.
    """
    known = settings.model_fields.keys()
    in_conf = sorted(
        map(str, conf)
    )  # Celery reads its configuration when it is first asked, and then has a namespace
    prefixes = _conf_prefixes(conf)
    found = []
    for where, given, prefix in _given(settings, in_conf, prefixes):
        name = given.removeprefix(prefix).lower()
        if name not in known and (meant := _meant(name, known)):
            found.append(_sentence(given, where, _spelt(prefix, meant)))
    found += [
        _sentence(given, "app.conf", _spelt(prefixes[0], meant))
        for given, meant in _unread(in_conf, known, prefixes)
        if not _has_value(meant, settings, keywords, conf)
    ]
    return found


def _sentence(given: str, where: str, meant: str) -> str:
    return f"{given} in {where} is not a setting, and is ignored: did you mean {meant}?"


def _spelt(prefix: str, name: str) -> str:
    return prefix + (name.upper() if prefix.isupper() else name)


def _meant(name: str, known: Collection[str]) -> str | None:
    """The setting that *name*, which is none, was likely to be."""
    if name in _NO_SETTINGS or _KUBERNETES.match(name):
        return None
    return _ELSEWHERE.get(name) or next(iter(get_close_matches(name, known, 1, _SIMILAR)), None)


def _conf_prefixes(conf: Mapping[str, Any]) -> tuple[str, ...]:
    """What settings begin with in ``app.conf``: ``walex_``, after ``CELERY_WALEX_`` if that is its namespace."""
    namespaces = [getattr(part, "prefix", None) for part in (conf, *getattr(conf, "maps", ()))]
    return (*(_spelt(namespace, "walex_") for namespace in namespaces if namespace), "walex_")


def _given(
    settings: type[BaseSettings], in_conf: Sequence[str], prefixes: tuple[str, ...]
) -> Iterator[tuple[str, str, str]]:
    """Where a name is that is read, or would be if it were a setting; the name, and its prefix."""
    prefix = settings.model_config["env_prefix"]
    for where, names in _files(settings):
        for name in sorted(names):
            if name.upper().startswith(prefix):
                yield where, name, name[: len(prefix)]
    for name in in_conf:
        for begins in prefixes:
            if name.startswith(begins):
                yield "app.conf", name, begins


def _files(settings: type[BaseSettings]) -> Iterator[tuple[str, Collection[str]]]:
    yield "the environment", os.environ
    file = str(settings.model_config["env_file"])
    yield file, dotenv_values(file)


def _unread(
    in_conf: Sequence[str], known: Collection[str], prefixes: tuple[str, ...]
) -> Iterator[tuple[str, str]]:
    """Names in ``app.conf`` that are not read because of their case or their namespace, and the settings they mean.

    Such as ``WALEX_URL`` in Django's settings instead of ``CELERY_WALEX_URL``.
    """
    for given in in_conf:
        match = re.fullmatch(r"(?:celery_)?walex_(\w+)", given, re.IGNORECASE)
        if match is None or any(given == _spelt(prefix, match[1].lower()) for prefix in prefixes):
            continue
        name = match[1].lower()
        if name in known:
            yield given, name
        elif not given.startswith(prefixes) and (meant := _meant(name, known)):
            yield given, meant


def _has_value(
    name: str, settings: type[BaseSettings], keywords: Collection[str], conf: Mapping[str, Any]
) -> bool:
    """Whether the setting is given anywhere: a project may have one of its own, out of which it makes ours."""
    names = {name, "url"} if name in URL_PARTS else {name}
    prefix = settings.model_config["env_prefix"]
    written = {given.upper() for _, found in _files(settings) for given in found}
    return any(
        each in keywords or f"walex_{each}" in conf or f"{prefix}{each.upper()}" in written for each in names
    )
