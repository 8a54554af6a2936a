"""From nothing to an event in a worker, following only the lines that ``walex doctor`` prints.

The transcript is in docs/operations/doctor.md, and held to what is printed here: WALEX_UPDATE_DOCS=1 writes it there.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import Database, wait_until
from tests.support.project import Project
from walex_celery.testing.servers import Postgres, Valkey

DOCS = Path(__file__).parents[2] / "docs" / "operations" / "doctor.md"
BEGIN, END = (
    "<!-- doctor's transcript: written by tests/operations/test_from_nothing.py -->\n",
    "<!-- its end -->",
)

INSERT = "INSERT INTO users (id, email) VALUES (1, 'ada@example.com')"

# A queue that nobody consumes, filters that need old values, and settings from the environment.
SHOP = """
    import os
    from celery import Celery
    from walex_celery import Filters, WalEx

    app = Celery("shop", broker=os.environ["BROKER_URL"])
    app.conf.task_routes = {"shop.send_welcome_email": {"queue": "mails"}}
    walex = WalEx(app, publication="events", subscriptions=["users"], durable_slot=True)

    @walex.on_event("users", Filters(unwatched_fields=["updated_at"]))
    @app.task
    def send_welcome_email(event):
        print(f"a task ran: {event.type} of {event.new_record['email']}")
"""


class Newcomer:
    """Somebody who does what the doctor says, and nothing else."""

    def __init__(self, project: Project, postgres: Postgres, valkey: Valkey, stack: ExitStack) -> None:
        self.project = project
        self.database = Database(postgres, "shop")
        self.valkey = valkey
        self.environment = {
            "WALEX_URL": postgres.url("shop", user="shop", password="sesame-open"),
            "BROKER_URL": valkey.url(),
            "COLUMNS": "80",
        }
        self.transcript = ""
        self._stack = stack
        self._started: list[tuple[str, ...]] = []

    def doctor(self) -> int:
        """Ask; what it says goes into the transcript."""
        paths = os.pathsep.join([str(self.project.folder), *filter(None, sys.path)])
        asked = subprocess.run(
            [sys.executable, "-m", "celery", "-A", "shop", "walex", "doctor"],
            cwd=self.project.folder,
            env={**os.environ, **self.environment, "PYTHONPATH": paths},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
        assert asked.stderr == ""
        assert "sesame-open" not in asked.stdout
        self.said = asked.stdout
        printed = asked.stdout.replace(f"-p {self.valkey.port} ", "-p 6379 ").replace(
            f":{self.valkey.port}/", ":6379/"
        )
        self.transcript += (
            f"```text\n$ celery -A shop walex doctor\n{printed}$ echo $?\n{asked.returncode}\n```\n"
        )
        return asked.returncode

    def follow(self) -> None:
        """Enter each line that was printed, once, where it says."""
        entered: list[str] = []
        for line in self.said.splitlines():
            if not line.startswith("    ") or line in entered:
                continue
            entered.append(line)
            where, _, text = line.strip().partition(" ")
            text = text.strip()
            if where == "SQL":
                self.database.execute(text)
            else:
                assert where == "shell", f"nothing else is to be followed blindly: {line}"
                self._shell(text)
        assert entered, f"the doctor is not content, and prints no line to follow:\n{self.said}"

    def _shell(self, line: str) -> None:
        words = shlex.split(line)
        if words[:2] == ["systemctl", "restart"]:
            assert words[2:] == ["postgresql"]
            self.database.server.restart()  # it runs under no systemd here
        elif words[0] == "redis-cli":
            assert words[1:5] == ["-h", "127.0.0.1", "-p", str(self.valkey.port)]
            with self.valkey.client() as client:
                client.execute_command(*words[5:])
                wait_until(lambda: client.info("persistence")["aof_rewrite_in_progress"] == 0)
        else:
            assert words[0] == "celery"
            self.start(*words[1:])

    def start(self, *arguments: str) -> None:
        """Start ``celery``, and wait until it is there."""
        if "worker" in arguments:
            arguments += ("-P", "solo", "-l", "info")
        self._stack.enter_context(self.project.command(*arguments, **self.environment))
        self._started.append(arguments)
        ready = "ready." if "worker" in arguments else "streaming"
        wait_until(lambda: ready in self.project.output(*arguments), 60, f"{arguments} is there")

    def logs(self) -> str:
        """What all that it started has written."""
        return "\n".join(self.project.output(*arguments) for arguments in self._started)


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Newcomer]:
    """Every default is wrong."""
    project = Project(tmp_path)
    project.write({"shop.py": SHOP})
    with (
        Postgres(settings={"wal_level": "replica", "fsync": "off"}) as postgres,
        Valkey(append_only=False) as valkey,
        ExitStack() as stack,
    ):
        postgres.create_database("shop")
        newcomer = Newcomer(project, postgres, valkey, stack)
        newcomer.database.execute("CREATE ROLE shop LOGIN PASSWORD 'sesame-open'")
        newcomer.database.execute(
            "CREATE TABLE users (id int PRIMARY KEY, email text, updated_at timestamptz DEFAULT now())"
        )
        newcomer.start("-A", "shop", "worker")
        yield newcomer


def test_following_the_doctor_leads_to_an_event_in_a_worker(newcomer: Newcomer) -> None:
    assert newcomer.doctor() == 2
    for check in (
        "wal_level", "publication_exists", "old_values", "role_may_replicate", "queues_consumed", "broker_durability",
    ):  # fmt: skip
        assert f"[{check}]" in newcomer.said
    for _ in range(4):
        newcomer.follow()
        newcomer.transcript += "\nEnter all of these lines and ask again:\n\n"
        if newcomer.doctor() == 0:
            break
    assert newcomer.said.startswith("✓ shop: 0 errors, 0 warnings"), newcomer.said
    newcomer.database.execute(INSERT)
    wait_until(lambda: "a task ran: insert of ada@example.com" in newcomer.logs(), 30, "the task ran")
    newcomer.transcript += (
        f'\nAnd the event arrives:\n\n```text\n$ psql -c "{INSERT}"\n'
        "[mails@...] a task ran: insert of ada@example.com\n```\n"
    )

    told = DOCS.read_text()
    before, begin, rest = told.partition(BEGIN)
    transcript, end, after = rest.partition(END)
    if os.environ.get("WALEX_UPDATE_DOCS"):
        DOCS.write_text(before + begin + newcomer.transcript + end + after)
    else:
        assert transcript == newcomer.transcript
