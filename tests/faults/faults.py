"""The faults: each a context manager that does the harm, and undoes it at the end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Final, TypeAlias

from tests.broker.support import Proxy
from tests.faults.processes import Managed
from tests.faults.world import World
from walex_celery.testing._system import processes_in
from walex_celery.testing.servers import Server

#: Given the world and a number in [0, 1) that chooses among victims and ways.
Fault: TypeAlias = Callable[[World, float], AbstractContextManager[None]]


def _one_of(found: list[Managed], draw: float) -> Managed:
    return found[int(draw * len(found))]


@contextmanager
def _killed(process: Managed) -> Iterator[None]:
    process.kill()
    yield
    process.start()


def kill_producer(world: World, draw: float) -> AbstractContextManager[None]:
    """The active producer, or the one that stands by."""
    return _killed(_one_of(world.producers, draw))


@contextmanager
def kill_worker(world: World, draw: float) -> Iterator[None]:
    """A worker, with the tasks it has in hand, unless it has just ended by itself."""
    worker = _one_of(world.workers, draw)
    with world.mourning():
        worker.kill()
    yield
    worker.start()


@contextmanager
def kill_postgres(world: World, draw: float) -> Iterator[None]:
    """By SIGKILL, or by an immediate shutdown."""
    if draw < 0.5:
        world.postgres.kill()
    else:
        world.postgres.stop("immediate")
    yield
    world.postgres.start()


@contextmanager
def kill_broker(world: World, draw: float) -> Iterator[None]:
    """By SIGKILL."""
    world.broker.kill()
    yield
    world.broker.start()


@contextmanager
def _cut(proxy: Proxy, draw: float) -> Iterator[None]:
    """Once, or until the end."""
    proxy.refusing = draw < 0.5
    proxy.cut()
    yield
    proxy.refusing = False


def cut_postgres(world: World, draw: float) -> AbstractContextManager[None]:
    """The producers' connections to Postgres."""
    return _cut(world.postgres_proxy, draw)


def cut_broker(world: World, draw: float) -> AbstractContextManager[None]:
    """The producers' connections to the broker."""
    return _cut(world.broker_proxy, draw)


@contextmanager
def _delayed(proxy: Proxy, draw: float) -> Iterator[None]:
    """Late by up to 0.2 s, or not at all before the end."""
    if draw < 0.5:
        proxy.delay_seconds = 0.02 + draw * 0.36
        yield
        proxy.delay_seconds = 0.0
    else:
        proxy.stall()
        yield
        proxy.flow()


def delay_postgres(world: World, draw: float) -> AbstractContextManager[None]:
    """What producers and Postgres send each other."""
    return _delayed(world.postgres_proxy, draw)


def delay_broker(world: World, draw: float) -> AbstractContextManager[None]:
    """What producers and the broker send each other."""
    return _delayed(world.broker_proxy, draw)


@contextmanager
def fill_disk(world: World, draw: float) -> Iterator[None]:
    """The spool's, all but up to 4 KiB of it."""
    assert world.spool_disk is not None
    filler = world.spool_disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    if draw < 0.5:
        os.truncate(filler, filler.stat().st_size - 4096)
    yield
    filler.unlink()


@contextmanager
def _paused(process: Managed) -> Iterator[None]:
    process.pause()
    yield
    process.resume()


def pause_producer(world: World, draw: float) -> AbstractContextManager[None]:
    """By SIGSTOP."""
    return _paused(_one_of(world.producers, draw))


def pause_worker(world: World, draw: float) -> AbstractContextManager[None]:
    """By SIGSTOP."""
    return _paused(_one_of(world.workers, draw))


@contextmanager
def pause_server(world: World, draw: float) -> Iterator[None]:
    """Postgres or the broker, with all its processes, by SIGSTOP."""
    server: Server = world.postgres if draw < 0.5 else world.broker
    pids = processes_in(server.folder)
    _signal(pids, signal.SIGSTOP)
    yield
    _signal(pids, signal.SIGCONT)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


#: Every fault by its name, with how often it comes; what takes long to undo comes less often.
FAULTS: Final[dict[str, tuple[Fault, int]]] = {
    "kill producer": (kill_producer, 3),
    "kill worker": (kill_worker, 3),
    "kill Postgres": (kill_postgres, 3),
    "kill broker": (kill_broker, 3),
    "cut Postgres": (cut_postgres, 2),
    "cut broker": (cut_broker, 2),
    "delay Postgres": (delay_postgres, 2),
    "delay broker": (delay_broker, 2),
    "fill disk": (fill_disk, 3),
    "pause producer": (pause_producer, 1),
    "pause worker": (pause_worker, 1),
    "pause server": (pause_server, 1),
}


def possible(world: World, *, evenly: bool = False) -> dict[str, int]:
    """The faults that there can be, and how often: a disk can be filled where it is the spool's own."""
    disk = world.spool_disk
    own_disk = disk is not None and os.path.ismount(Path(disk))
    return {
        name: 1 if evenly else weight
        for name, (_, weight) in FAULTS.items()
        if name != "fill disk" or own_disk
    }
