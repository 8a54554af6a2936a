"""Names that are almost those of settings: in the environment, in ``.env`` and in ``app.conf``.

A keyword that is no setting is an error. These places hold other names too, so only a likely mistake is reported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final

from dotenv import dotenv_values
from pydantic_settings import BaseSettings

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


def misspelt(settings: type[BaseSettings], conf: Mapping[str, Any]) -> list[str]:
    """A sentence for each name that looks like one of *settings* and is none.

    Args:
        settings: their model.
        conf: the Celery application's.
    """
    known = settings.model_fields.keys()
    found = []
    for where, given, prefix in _given(settings, conf):
        name = given.removeprefix(prefix).lower()
        if name in known or name in _NO_SETTINGS or _KUBERNETES.match(name):
            continue
        similar = [_ELSEWHERE[name]] if name in _ELSEWHERE else get_close_matches(name, known, 1, _SIMILAR)
        if similar:
            meant = prefix + (similar[0].upper() if prefix.isupper() else similar[0])
            found.append(f"{given} in {where} is not a setting, and is ignored: did you mean {meant}?")
    return found


def _given(settings: type[BaseSettings], conf: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Where a name is, the name, and its prefix."""
    prefix = settings.model_config["env_prefix"]
    for name in sorted(os.environ):
        if name.upper().startswith(prefix):
            yield "the environment", name, name[: len(prefix)]
    file = str(settings.model_config["env_file"])
    for name in sorted(dotenv_values(file)):
        if name.upper().startswith(prefix):
            yield file, name, name[: len(prefix)]
    for name in sorted(map(str, conf)):
        if name.startswith("walex_"):
            yield "app.conf", name, "walex_"
