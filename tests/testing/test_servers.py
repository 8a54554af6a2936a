"""The servers that all other tests stand on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg2
import pytest
from kombu import Connection

from tests.support import Database, wait_until
from walex_celery.testing._system import processes_in
from walex_celery.testing.servers import Postgres, RabbitMQ, Server, ServerUnavailable, Valkey

FAST = {"fsync": "off"}


def small_postgres() -> Postgres:
    return Postgres(settings=FAST)


@pytest.fixture
def own_postgres() -> Postgres:
    return small_postgres()


def query(server: Postgres, statement: str, dbname: str = "postgres") -> list[tuple[object, ...]]:
    return Database(server, dbname).execute(statement)


def processes_named(text: str) -> list[str]:
    listing = subprocess.run(["ps", "-A", "-o", "pid=,args="], stdout=subprocess.PIPE, text=True, check=True)
    return [line for line in listing.stdout.splitlines() if text in line]


def is_running(pid: int) -> bool:
    # A process whose parent is gone may stay a zombie for long where process 1 does not wait for it.
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def assert_nothing_left(server: Server) -> None:
    assert not server.folder.exists()
    assert processes_named(str(server.folder)) == []
    assert not is_port_open(server.port)


def is_port_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# -- Postgres ------------------------------------------------------------------------------------------


def test_postgres_is_ready_for_logical_replication(postgres: Postgres) -> None:
    assert query(postgres, "SHOW wal_level") == [("logical",)]
    assert query(postgres, "SHOW server_encoding") == [("UTF8",)]
    assert int(str(query(postgres, "SHOW max_replication_slots")[0][0])) == 20
    assert (postgres.bin_dir / "pg_recvlogical").exists()
    assert (postgres.bin_dir / "pgbench").exists()


def test_postgres_wants_the_password(postgres: Postgres) -> None:
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        postgres.connect(password="wrong")


def test_postgres_url_and_dsn_reach_the_same_database(database: Database) -> None:
    for address in (database.url, database.dsn):
        with psycopg2.connect(address) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT current_database()")
            assert cursor.fetchone() == (database.name,)
        connection.close()


def test_password_with_hostile_characters() -> None:
    with Postgres(password="a b'c\\d@e/f:g%h", settings=FAST) as server:
        assert query(server, "SELECT 1") == [(1,)]
        psycopg2.connect(server.url()).close()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_postgres_restart_keeps_port_and_data(mode: str) -> None:
    with small_postgres() as server:
        port = server.port
        query(server, "CREATE TABLE kept AS SELECT 1 AS id")
        server.restart("fast" if mode == "fast" else "immediate")
        assert (server.port, query(server, "SELECT id FROM kept")) == (port, [(1,)])


def test_postgres_recovers_from_kill() -> None:
    with small_postgres() as server:
        query(server, "CREATE TABLE kept AS SELECT 1 AS id")
        server.kill()
        assert not server.running
        assert processes_in(server.folder) == []
        server.start()
        assert query(server, "SELECT id FROM kept") == [(1,)]


def test_postgres_recovers_when_its_process_is_killed_by_others() -> None:
    with small_postgres() as server:
        query(server, "CREATE TABLE kept AS SELECT 1 AS id")
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not server.running)
        server.start()
        assert query(server, "SELECT id FROM kept") == [(1,)]


def test_a_paused_server_can_be_stopped() -> None:
    with small_postgres() as server:
        os.kill(server.pid, signal.SIGSTOP)
        server.stop()
        assert not server.running


def test_two_postgres_at_once() -> None:
    with small_postgres() as one, small_postgres() as other:
        assert one.port != other.port
        query(one, "CREATE TABLE only_here (id int)")
        assert query(other, "SELECT to_regclass('only_here')") == [(None,)]


def test_encoding_of_a_database(postgres: Postgres) -> None:
    name = postgres.create_database(encoding="LATIN1")
    assert query(postgres, "SHOW server_encoding", name) == [("LATIN1",)]
    postgres.drop_database(name)


def test_alter_system_survives_a_restart() -> None:
    with small_postgres() as server:
        query(server, "ALTER SYSTEM SET wal_level = 'replica'")
        server.restart()
        assert query(server, "SHOW wal_level") == [("replica",)]


def test_a_wrong_setting_shows_the_servers_own_words() -> None:
    with pytest.raises(ServerUnavailable, match="no_such_setting"):
        Postgres(settings={"no_such_setting": "1"}).__enter__()


def test_drop_database_with_an_active_slot(postgres: Postgres, tmp_path: Path) -> None:
    name = postgres.create_database()
    program = str(postgres.bin_dir / "pg_recvlogical")
    recvlogical = [program, "--dbname", postgres.dsn(name), "--slot", "held"]
    subprocess.run([*recvlogical, "--create-slot", "--plugin", "test_decoding"], check=True)
    with subprocess.Popen([*recvlogical, "--start", "--no-loop", "--file", str(tmp_path / "out")]) as reader:
        wait_until(lambda: query(postgres, "SELECT 1 FROM pg_replication_slots WHERE active"))
        postgres.drop_database(name)
        reader.wait(10)
    assert query(postgres, "SELECT 1 FROM pg_replication_slots") == []


# -- Valkey --------------------------------------------------------------------------------------------


def test_valkey_keeps_what_it_confirmed() -> None:
    with Valkey() as server:
        port = server.port
        ends: dict[str, Callable[[], None]] = {
            "stop": server.stop,
            "kill": server.kill,
            "immediate": lambda: server.stop("immediate"),
        }
        for name, end in ends.items():
            with server.client() as client:
                client.set(name, "kept")
            end()
            assert not server.running
            server.start()
        with server.client() as client:
            assert client.exists(*ends) == 3
        assert server.port == port


def test_valkey_with_a_password() -> None:
    with Valkey(password='pass "word@\\') as server:
        with server.client() as client:
            assert client.ping()
        assert processes_named("word@") == []


# -- RabbitMQ ------------------------------------------------------------------------------------------


def send(url: str, text: str) -> None:
    confirmed = Connection(url, transport_options={"confirm_publish": True})
    with confirmed as connection, connection.SimpleQueue("q") as queue:
        queue.put(text)


def receive(url: str) -> object:
    with Connection(url) as connection, connection.SimpleQueue("q") as queue:
        message = queue.get(timeout=5)
        message.ack()
        return message.payload


def test_a_second_rabbitmq_keeps_what_it_confirmed(rabbitmq: RabbitMQ) -> None:
    with RabbitMQ() as server:
        url = server.create_vhost("only/here")
        assert "only/here" not in rabbitmq.ctl("list_vhosts")
        send(url, "kept by a clean stop")
        server.restart()
        assert receive(url) == "kept by a clean stop"
        send(url, "kept by a crash")
        server.kill()
        assert processes_in(server.folder) == []
        server.start()
        # The acknowledgement of the first may be lost in the crash, the second message not.
        assert receive(url) == "kept by a crash" or receive(url) == "kept by a crash"
    assert_nothing_left(server)


def test_vhost_name_is_not_code(rabbitmq: RabbitMQ) -> None:
    with pytest.raises(ValueError, match="not a name"):
        rabbitmq.create_vhost('">>], init:stop(), [<<"')


def test_each_test_has_an_empty_broker(broker_url: str) -> None:
    with Connection(broker_url) as connection, connection.SimpleQueue("q") as queue:
        with pytest.raises(queue.Empty):
            queue.get_nowait()
        queue.put("left behind")


test_each_test_has_an_empty_broker_again = test_each_test_has_an_empty_broker


# -- all -----------------------------------------------------------------------------------------------


def test_nothing_is_left_behind() -> None:
    with small_postgres() as postgres, Valkey() as valkey:
        pids = [postgres.pid, valkey.pid]
    assert not any(is_running(pid) for pid in pids)
    assert_nothing_left(postgres)
    assert_nothing_left(valkey)


@pytest.mark.parametrize(
    ("kind", "end"),
    [
        ("Postgres", signal.SIGKILL),
        ("RabbitMQ", signal.SIGKILL),
        ("Valkey", signal.SIGKILL),
        ("Valkey", signal.SIGTERM),
        ("Valkey", signal.SIGINT),
    ],
)
def test_a_server_does_not_outlive_who_started_it(kind: str, end: signal.Signals) -> None:
    # A shell that runs tests in the background has SIGINT ignored, and its children inherit that.
    program = f"""if True:
        import signal
        from walex_celery.testing.servers import {kind}
        signal.signal(signal.SIGINT, signal.default_int_handler)
        server = {kind}().start()
        print(server.pid, server.folder, flush=True)
        input()
    """
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as starter:
        assert starter.stdout is not None
        pid, folder = starter.stdout.readline().split()
        assert is_running(int(pid))
        starter.send_signal(end)
        starter.wait(10)
    wait_until(lambda: not is_running(int(pid)), message="server gone")
    wait_until(lambda: not Path(folder).exists(), message="folder gone")
    wait_until(lambda: not processes_named(folder), message="helpers gone")


def test_a_server_that_is_not_started_leaves_no_folder() -> None:
    server = Valkey()
    folder = server.folder
    del server
    assert not folder.exists()


def test_pid_of_a_stopped_server() -> None:
    with pytest.raises(ServerUnavailable, match="is not running"):
        print(Valkey().pid)
