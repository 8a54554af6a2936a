"""Commands that messages suggest name the application as it was given."""

from __future__ import annotations

import pytest

from walex_celery._invocation import celery_command


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ("-A shop walex doctor", "celery -A shop"),
        ("-Ashop walex doctor", "celery -A shop"),
        ("--app shop walex doctor", "celery -A shop"),
        ("--app=shop.celery:app walex doctor", "celery -A shop.celery:app"),
        ("--workdir=/srv/shop -A shop walex doctor", "celery -A shop --workdir /srv/shop"),
        ("-b redis://:secret@host -A shop walex doctor", "celery -A shop"),
        ("walex doctor", "celery -A <module>"),
    ],
)
def test_the_application_is_that_of_the_command_line(arguments: str, command: str) -> None:
    assert celery_command(["/usr/bin/celery", *arguments.split()], {}) == command


def test_what_a_shell_would_split_is_quoted() -> None:
    assert celery_command(["celery", "--workdir", "/srv/my shop", "-A", "shop"], {}) == (
        "celery -A shop --workdir '/srv/my shop'"
    )


@pytest.mark.parametrize("variable", ["APP", "CELERY_APP"])
def test_the_application_may_come_from_the_environment(variable: str) -> None:
    assert celery_command(["celery", "walex", "doctor"], {variable: "shop"}) == "celery -A shop"
    assert celery_command(["celery", "-A", "other", "walex"], {variable: "shop"}) == "celery -A other"
