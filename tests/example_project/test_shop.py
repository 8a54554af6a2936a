"""The whole shop: load generator, producer and worker as processes, on each broker (promises 1 and 3)."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.example_project.support import PROJECT, Shop
from walex_celery.demo.processes import Producer, Worker


def test_every_change_has_its_effects(shop: Shop, broker_url: str, tmp_path: Path) -> None:
    report = tmp_path / "made.json"
    environment = {**shop.environment(), "BROKER_URL": broker_url}

    with Producer(PROJECT, environment) as producer, Worker(PROJECT, environment):
        # The producer dies; what is changed without it waits in the slot for the next one.
        os.kill(producer.pid, signal.SIGKILL)
        made = shop.run("load.py", "--count=100", "--rate=200", "--seed=3", f"--report={report}")
        assert made.returncode == 0, made.stderr
        producer.restart()

        checked = shop.run("check.py", str(report), "--wait=40")

    assert checked.returncode == 0, checked.stdout + checked.stderr
