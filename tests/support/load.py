"""Rows that are inserted while producers come and go, and what must have become of them."""

from __future__ import annotations

import random
import threading
from collections import defaultdict

from tests.support import Database
from tests.support.queues import Queued

#: Rows of a round: what is inserted while a producer starts, and once it streams. A slow machine starts producers
#: slowly, but inserts as fast as any: without a bound the backlog at the end would be of minutes.
STARTING_ROWS, STREAMING_ROWS = 3_000, 2_000


class Load(threading.Thread):
    """Inserts rows until stopped, in transactions of 1 to 50; counts what it committed."""

    def __init__(self, database: Database, seed: int) -> None:
        super().__init__(daemon=True)
        self.committed = 0
        self._allowed = 1 << 62
        self._database = database
        self._random = random.Random(seed)
        self._stop_asked = threading.Event()

    def run(self) -> None:
        connection = self._database.connect()
        with connection.cursor() as cursor:
            while not self._stop_asked.wait(0.002):
                if self.committed >= self._allowed:
                    continue
                rows = self._random.choice([1, 1, 1, 5, 50])
                first = self.committed + 1
                cursor.execute("INSERT INTO items SELECT generate_series(%s, %s)", (first, first + rows - 1))
                self.committed += rows
        connection.close()

    def allow(self, rows: int) -> None:
        """Insert no more than about *rows* from now on."""
        self._allowed = self.committed + rows

    def __enter__(self) -> Load:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_asked.set()
        self.join()


def check_complete(queued: list[Queued], rows: int) -> None:
    """Each row's task is there, always with the same id, and the rows' first tasks are in the order of commits."""
    ids: dict[int, set[str]] = defaultdict(set)
    first_seen = []
    for task in queued:
        assert task.event.new_record is not None
        row = task.event.new_record["id"]
        if row not in ids:
            first_seen.append(row)
        ids[row].add(task.id)
    assert ids.keys() == set(range(1, rows + 1))
    assert all(len(found) == 1 for found in ids.values())
    assert len({next(iter(found)) for found in ids.values()}) == rows
    # Promise 2: whatever was replayed, each row's first task came in the order of commits.
    assert first_seen == sorted(first_seen)
