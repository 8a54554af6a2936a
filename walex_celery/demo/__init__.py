"""``walex-celery demo``: the example shop on embedded servers, every process of it a real one."""

from walex_celery.demo.run import run_demo

__all__ = ["run_demo"]
