"""``walex-celery demo``: runs the example shop, with real processes, on embedded servers."""

from walex_celery.demo.run import run_demo

__all__ = ["run_demo"]
