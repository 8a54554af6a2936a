"""Projects laid out as Celery's and Django's manuals have it, with their commands as users run them (promises 1, 8).

The files are the manuals', word for word, with lines of ours added where they say so. Celery's own loader imports the
modules with the handlers: ``include=``, ``imports=``, ``autodiscover_tasks()``, and Django's fixup.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support import Database, wait_until
from tests.support.project import Project

SECONDS = 60

#: "Next Steps", "Our Project"; its broker and backend are overridden by the environment.
NEXT_STEPS = {
    "proj/__init__.py": "",
    "proj/celery.py": """
        from celery import Celery

        app = Celery('proj',
                     broker='amqp://',
                     backend='rpc://',
                     include=['proj.tasks'])

        # Optional configuration, see the application user guide.
        app.conf.update(
            result_expires=3600,
        )

        # Ours, from here.
        from walex_celery import WalEx

        walex = WalEx(app, publication="events", subscriptions=["users"], durable_slot=True)

        if __name__ == '__main__':
            app.start()
        """,
    "proj/tasks.py": """
        from .celery import app


        @app.task
        def add(x, y):
            return x + y


        @app.task
        def mul(x, y):
            return x * y


        @app.task
        def xsum(numbers):
            return sum(numbers)


        # Ours, from here.
        from celery import current_task
        from .celery import walex


        @walex.on_insert("users", functions=["mail"])
        def inserted(events):
            with open("handled.txt", "a") as file:
                print(*(event.new_record["id"] for event in events), file=file)


        @app.task(queue="mail", priority=3)
        def mail(event):
            with open("mailed.txt", "a") as file:
                print(event.new_record["id"], current_task.request.delivery_info["priority"], file=file)
        """,
}

#: "First steps with Django", "Using Celery with Django".
DJANGO = {
    "manage.py": "",
    "proj/__init__.py": """
        # This will make sure the app is always imported when
        # Django starts so that shared_task will use this app.
        from .celery import app as celery_app

        __all__ = ('celery_app',)
        """,
    "proj/celery.py": """
        import os

        from celery import Celery

        # Set the default Django settings module for the 'celery' program.
        os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'proj.settings')

        app = Celery('proj')

        # Using a string here means the worker doesn't have to serialize
        # the configuration object to child processes.
        # - namespace='CELERY' means all celery-related configuration keys
        #   should have a `CELERY_` prefix.
        app.config_from_object('django.conf:settings', namespace='CELERY')

        # Load task modules from all registered Django apps.
        app.autodiscover_tasks()


        @app.task(bind=True, ignore_result=True)
        def debug_task(self):
            print(f'Request: {self.request!r}')


        # Ours, from here.
        from walex_celery import WalEx

        walex = WalEx(app)
        """,
    "proj/settings.py": """
        SECRET_KEY = "-"
        INSTALLED_APPS = ["django.contrib.contenttypes", "demoapp"]
        USE_TZ = True

        # Celery Configuration Options
        CELERY_TIMEZONE = "Australia/Tasmania"
        CELERY_TASK_TRACK_STARTED = True
        CELERY_TASK_TIME_LIMIT = 30 * 60

        # Ours, from here.
        CELERY_WALEX_PUBLICATION = "events"
        CELERY_WALEX_SUBSCRIPTIONS = ["users"]
        CELERY_WALEX_DURABLE_SLOT = True
        """,
    "demoapp/__init__.py": "",
    "demoapp/models.py": """
        from django.db import models


        class Widget(models.Model):
            name = models.CharField(max_length=140)


        # Ours, from here.
        class User(models.Model):
            class Meta:
                db_table = "users"
        """,
    "demoapp/tasks.py": """
        # Create your tasks here

        from demoapp.models import Widget

        from celery import shared_task


        @shared_task
        def add(x, y):
            return x + y


        @shared_task
        def mul(x, y):
            return x * y


        @shared_task
        def xsum(numbers):
            return sum(numbers)


        @shared_task
        def count_widgets():
            return Widget.objects.count()


        @shared_task
        def rename_widget(widget_id, name):
            w = Widget.objects.get(id=widget_id)
            w.name = name
            w.save()


        # Ours, from here.
        from celery import current_task
        from demoapp.models import User
        from proj.celery import walex


        @walex.on_insert(User, functions=["mail"])
        def inserted(events):
            with open("handled.txt", "a") as file:
                print(*(event.new_record["id"] for event in events), file=file)


        @shared_task(queue="mail", priority=3)
        def mail(event):
            with open("mailed.txt", "a") as file:
                print(event.new_record["id"], current_task.request.delivery_info["priority"], file=file)
        """,
}

#: Django's with an event module, which is imported by us and must find Django set up.
DJANGO_EVENTS = DJANGO | {
    "demoapp/tasks.py": "",
    "proj/events/__init__.py": "",
    "proj/events/users.py": DJANGO["demoapp/tasks.py"],
}

#: The modules with handlers by the other ways that Celery's manual names.
IMPORTS = NEXT_STEPS | {
    "proj/celery.py": NEXT_STEPS["proj/celery.py"]
    .replace("include=['proj.tasks']", "")
    .replace("result_expires=3600,", "result_expires=3600,\n            imports=('proj.tasks',),")
}
AUTODISCOVERED = NEXT_STEPS | {
    "proj/celery.py": NEXT_STEPS["proj/celery.py"]
    .replace("include=['proj.tasks']", "")
    .replace("# Ours, from here.", "app.autodiscover_tasks(['proj'])\n\n        # Ours, from here.")
}
#: The WalEx itself is made in a module that only Celery's loader imports.
WALEX_IN_TASKS = {
    "proj/__init__.py": "",
    "proj/celery.py": NEXT_STEPS["proj/celery.py"].partition("# Ours")[0],
    "proj/tasks.py": NEXT_STEPS["proj/tasks.py"].replace(
        "from .celery import walex",
        "from walex_celery import WalEx\n\n"
        '        walex = WalEx(app, publication="events", subscriptions=["users"], durable_slot=True)',
    ),
}

LAYOUTS = {
    "next_steps": NEXT_STEPS,
    "imports": IMPORTS,
    "autodiscovered": AUTODISCOVERED,
    "walex_in_tasks": WALEX_IN_TASKS,
    "django": DJANGO,
    "django_events": DJANGO_EVENTS,
}


class Layout:
    """A project, its database and its broker."""

    def __init__(self, files: Mapping[str, str], folder: Path, database: Database, broker_url: str) -> None:
        self.project = Project(folder)
        self.project.write(files)
        self.database = database
        self.environment = {
            "CELERY_BROKER_URL": broker_url,
            "CELERY_RESULT_BACKEND": "rpc://",
            "WALEX_URL": database.url,
            "WALEX_SLOT_NAME": database.name,
        }
        database.execute("CREATE TABLE users (id int PRIMARY KEY); CREATE PUBLICATION events FOR TABLE users")

    @contextmanager
    def running(self, *arguments: str, until: str) -> Iterator[None]:
        """``celery -A proj *arguments`` in a process of its own, once it has written *until*."""
        arguments = ("-A", "proj", *arguments)
        with self.project.command(*arguments, **self.environment) as process:
            wait_until(
                lambda: until in self.project.output(*arguments) or process.poll() is not None,
                SECONDS,
                f"{arguments} says {until!r}",
            )
            assert process.poll() is None, self.project.output(*arguments)
            yield

    def run(self, *arguments: str) -> tuple[int, str]:
        """The exit code and the output of ``celery -A proj *arguments``."""
        arguments = ("-A", "proj", *arguments)
        with self.project.command(*arguments, **self.environment) as process:
            code = process.wait(SECONDS)
        return code, self.project.output(*arguments)

    def lines(self, name: str) -> list[str]:
        """What a handler or a task has noted."""
        file = self.project.folder / name
        return file.read_text().split() if file.exists() else []


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest, tmp_path: Path, database: Database, redis_url: str) -> Layout:
    return Layout(LAYOUTS[request.param], tmp_path, database, redis_url)


def test_every_command_knows_the_handlers_of_modules_that_celery_loads(layout: Layout) -> None:
    """Setup, producer, worker, status and doctor: the change is handled, and its task runs."""
    code, output = layout.run("walex", "setup")
    assert code == 0, output
    assert "-- done" in output

    with ExitStack() as processes:
        processes.enter_context(
            layout.running("worker", "-l", "INFO", "-P", "solo", "-Q", "mail", until=" ready.")
        )
        processes.enter_context(layout.running("walex", "producer", until="streaming from"))
        layout.database.execute("INSERT INTO users VALUES (1)")
        wait_until(lambda: layout.lines("mailed.txt"), SECONDS, "the task has run")

        status, output = layout.run("walex", "status")
        assert status == 0, output
        _, examined = layout.run("walex", "doctor", "--json")

    assert layout.lines("handled.txt") == ["1"]
    # By the worker of the task's own queue, with its priority.
    assert layout.lines("mailed.txt") == ["1", "3"]
    severities = {finding["check"]: finding["severity"] for finding in json.loads(examined)["findings"]}
    for check in ("modules", "handlers_exist", "handlers_subscribed", "functions", "tasks_registered"):
        assert severities[check] == "ok", examined


BROKEN = NEXT_STEPS | {"proj/tasks.py": "import no_such_module_of_theirs"}


def test_a_module_that_cannot_be_imported_ends_what_needs_its_handlers(
    tmp_path: Path, database: Database, redis_url: str
) -> None:
    """A producer without half of its handlers would acknowledge their changes. ``status`` works nevertheless."""
    layout = Layout(BROKEN, tmp_path, database, redis_url)

    produced, said = layout.run("walex", "producer")
    status, _ = layout.run("walex", "status")
    doctor, examined = layout.run("walex", "doctor")

    assert produced == 1
    assert "No module named 'no_such_module_of_theirs'" in said
    assert database.execute("SELECT FROM pg_replication_slots WHERE database = current_database()") == []
    assert status == 69  # no producer answered
    assert doctor == 2
    assert "Traceback" not in examined
    assert examined.count("no_such_module_of_theirs") == 1
