"""How this process was started, for the commands that messages suggest: what they print can be run as it is."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Final

#: Of Celery's own options, those that say which application it is. None of them holds a secret.
_OPTIONS: Final = {"-A": "-A", "--app": "-A", "--workdir": "--workdir", "--config": "--config"}
#: What Celery's ``-A`` and ``celery`` commands read if there is no option.
_VARIABLES: Final = ("CELERY_APP", "APP")
#: Where the application is not known: a producer that a program of the user's runs.
UNKNOWN: Final = "<module>"


def celery_command(argv: Sequence[str] | None = None, environment: Mapping[str, str] | None = None) -> str:
    """The ``celery`` command for this application, as it was called: ``celery -A shop``.

    Args:
        argv: the process's; default: this one's.
        environment: likewise.

    >>> celery_command(["/usr/bin/celery", "-A", "shop", "-b", "redis://:secret@host", "walex", "producer"], {})
    'celery -A shop'
    """
    given = _options((sys.argv if argv is None else argv)[1:])
    variables = os.environ if environment is None else environment
    application = next((variables[name] for name in _VARIABLES if variables.get(name)), UNKNOWN)
    options = {"-A": application} | given
    if options["-A"] != UNKNOWN:
        options = {name: shlex.quote(value) for name, value in options.items()}
    return " ".join(["celery", *(f"{name} {value}" for name, value in options.items())])


def _options(arguments: Sequence[str]) -> dict[str, str]:
    """The options of *arguments*, up to the command, by their canonical names."""
    found: dict[str, str] = {}
    left = iter(arguments)
    for argument in left:
        name, joined, value = argument.partition("=")
        if argument.startswith("-A") and len(argument) > 2:
            found["-A"] = argument.removeprefix("-A").removeprefix("=")
        elif name in _OPTIONS:
            found[_OPTIONS[name]] = value if joined else next(left, "")
    return {name: value for name, value in found.items() if value}
