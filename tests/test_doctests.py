"""The examples in docstrings run."""

from __future__ import annotations

import doctest
from importlib import import_module
from pkgutil import walk_packages

import pytest

import walex_celery
from walex_celery import app

MODULES = sorted(module.name for module in walk_packages(walex_celery.__path__, "walex_celery."))


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    failed, _ = doctest.testmod(import_module(name))

    assert failed == 0


def test_the_first_example_of_all_is_among_them() -> None:
    """That of WalEx itself: it needs no server until a producer starts."""
    assert any(test.examples for test in doctest.DocTestFinder().find(app.WalEx, "WalEx"))
