"""Why a task's messages can't all be made from one template: what runs, or differs, for each."""

from __future__ import annotations

import inspect
import sys
from types import FunctionType
from typing import Any

from celery import Celery, signals
from celery.app.amqp import AMQP
from celery.app.routes import MapRoute
from celery.app.task import Task
from celery.backends.base import Backend
from kombu import Producer

SIGNALS = ("before_task_publish", "after_task_publish", "task_sent")

#: What instrumentation patches, and the module whose code it is when it doesn't.
_PATCHABLE: tuple[tuple[Any, str, str], ...] = (
    (Task, "apply_async", "celery.app.task"),
    (Celery, "send_task", "celery.app.base"),
    (AMQP, "as_task_v2", "celery.app.amqp"),
    (AMQP, "_create_task_sender", "celery.app.amqp"),
    (Producer, "publish", "kombu.messaging"),
    (Producer, "_publish", "kombu.messaging"),
)


def own_publish(app: Celery, task: Any) -> str | None:
    """Return why the task's own ``apply_async`` or the app's own ``send_task`` must run, if one must."""
    if type(app).send_task is not Celery.send_task or "send_task" in vars(app):
        return "the app overrides send_task"
    if task is None:
        return None
    if "apply_async" in vars(task):
        return "the task overrides apply_async"
    if type(task).apply_async is not Task.apply_async:
        # The task's own class is one that Celery made, with the function's name.
        base = next(cls for cls in type(task).__mro__ if "apply_async" in vars(cls))
        return f"{base.__name__} overrides apply_async"
    return None


def receivers(task_name: str) -> str | None:
    """Return which publish signal has a receiver, if one has."""
    for name in SIGNALS:
        if getattr(signals, name).has_listeners(task_name):
            return f"a receiver of the signal {name} is connected"
    return None


def per_message(app: Celery, task: Any) -> str | None:
    """Return what must run or be computed for each message, if anything; signals apart."""
    for owner, name, module in _PATCHABLE:
        if _is_patched(getattr(owner, name), module):
            return f"{owner.__name__}.{name} is patched (instrumentation)"
    if any(not isinstance(route, MapRoute) for route in app.amqp.routes):
        return "task_routes has a callable router"
    if type(app.amqp) is not AMQP:
        return "the app has an amqp class of its own"
    if app.conf.task_protocol != 2:
        return f"task_protocol is {app.conf.task_protocol}"
    if task is not None:
        if type(task).shadow_name is not Task.shadow_name:
            return "the task computes its shadow_name"
        if task.expires is not None:
            return "expires makes a message's TTL depend on when it is sent"
    on_task_call = getattr(type(app.backend), "on_task_call", Backend.on_task_call)
    if not on_task_call.__module__.startswith("celery.backends."):
        return "the result backend notes each task (on_task_call)"
    return None


def surroundings() -> tuple[Any, ...]:
    """Return what the reasons depend on and what may change while running; cheap, compared at each flush."""
    return (
        *(len(getattr(signals, name).receivers or ()) for name in SIGNALS),
        *(getattr(owner, name) for owner, name, _ in _PATCHABLE),
    )


def _is_patched(function: Any, module: str) -> bool:
    """Whether the code is not the library's: ``functools.wraps`` copies names, but not the file."""
    if type(function) is not FunctionType:
        return True
    return inspect.getsourcefile(function.__code__) != inspect.getsourcefile(sys.modules[module])
