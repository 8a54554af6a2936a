"""The benchmark does not rot: each contender and shape, a few events each (DESIGN.md section 5)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.backlog import Backlog, filled, rounded
from benchmarks.contenders import BASELINE, BY_NAME, CONTENDERS, Contender
from benchmarks.docs import replace_part, write_docs
from benchmarks.latency import measure_latency
from benchmarks.plan import Plan, run_plan
from benchmarks.results import Results
from benchmarks.run import ROOT, run_drain
from benchmarks.samples import (
    DrainSample,
    LatencySample,
    Sample,
    read_samples,
    this_machine,
    write_samples,
)
from benchmarks.servers import Servers
from benchmarks.shapes import SHAPES, SINGLE, Shape
from benchmarks.tables import drain_tables, growth_table, latency_table, target_table
from benchmarks.targets import verdicts
from walex_celery.testing.servers import Postgres, RabbitMQ, Valkey

EVENTS = 60


@pytest.fixture
def servers(postgres: Postgres, valkey: Valkey, redis_url: str, rabbitmq: RabbitMQ) -> Servers:
    return Servers(postgres, valkey, redis_url, rabbitmq)


@pytest.fixture(scope="module")
def backlog(postgres: Postgres) -> Iterator[Backlog]:
    with filled(postgres, SINGLE, [EVENTS]) as filled_backlog:
        yield filled_backlog


@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda contender: contender.name)
def test_each_contender_drains_every_event_once(
    servers: Servers, backlog: Backlog, contender: Contender
) -> None:
    sample = run_drain(servers, backlog, contender, EVENTS + 1, 1)

    # That each event was handled, or became its tasks, has been checked where they are counted.
    assert sample.events == EVENTS + 1
    assert sample.rate > 0
    assert sample.server_cpu_seconds is not None
    expected_ways = {"publish": ("template",), "publish_three": ("template",), "signal": ("collect",)}
    assert sample.ways == expected_ways.get(contender.work, sample.ways)


@pytest.mark.parametrize("shape", SHAPES[1:], ids=lambda shape: shape.name)
def test_each_shape_has_the_events_that_it_says(servers: Servers, shape: Shape) -> None:
    events = rounded(shape, EVENTS)
    with filled(servers.postgres, shape, [events]) as filled_backlog:
        sample = run_drain(servers, filled_backlog, BY_NAME["one-column"], events + 1, 1)

    assert sample.events == events + 1


def test_a_transaction_is_drained_and_counted_while_its_queue_is_emptied(servers: Servers) -> None:
    plan = Plan(scale=0.001, rounds=1, parts=["huge"])

    short, long = run_plan(servers, plan, lambda line: None)

    assert isinstance(short, DrainSample)
    assert isinstance(long, DrainSample)
    assert (short.events, long.events) == (51, 5051)


def test_what_the_servers_take_includes_backends_that_have_ended(servers: Servers) -> None:
    before = servers.cpu_seconds()
    assert before is not None
    with closing(servers.postgres.connect()) as opened, opened.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM generate_series(1, 3000000)")
        worked = servers.cpu_seconds()
    after = servers.cpu_seconds()

    assert worked is not None
    assert worked > before
    assert after is not None
    assert after >= worked


def test_latency_is_timed_in_a_real_worker(servers: Servers) -> None:
    bare, commit = measure_latency(servers, "valkey", [100], seconds=0.5, rounds=1)

    assert (bare.source, commit.source) == ("delay", "commit")
    assert commit.count == 50
    assert 0 < commit.p50 <= commit.p99 <= commit.p999


def drained(contender: str, round_number: int, seconds: float) -> DrainSample:
    return DrainSample(
        "single", contender, round_number, 1000, seconds, 0.5, 64 << 20, server_cpu_seconds=0.25
    )


SAMPLES: list[Sample] = [
    # A slow second round: the ratio of its pair is what counts.
    drained(BASELINE, 1, 1.0),
    drained(BASELINE, 2, 10.0),
    drained(BASELINE, 3, 1.0),
    drained("valkey", 1, 2.0),
    drained("valkey", 2, 20.0),
    drained("valkey", 3, 4.0),
    LatencySample("valkey", "delay", 100, 100.0, 1000, 0.002, 0.004, 0.005),
    LatencySample("valkey", "commit", 100, 100.0, 1000, 0.004, 0.030, 0.040),
    DrainSample("growth", "valkey", 1, 1000, 1.0, 0.5, 64 << 20),
    DrainSample("growth", "valkey", 1, 10_000, 12.0, 0.5, 70 << 20),
]


def test_a_ratio_is_the_median_of_the_rounds_pairs() -> None:
    results = Results(SAMPLES)

    assert results.ratio("single", "valkey") == 0.5
    assert results.rate("single", "valkey") == 250
    assert results.cpu_per_million("single", "valkey") == 500
    assert results.server_cpu_per_million("single", "valkey") == 250
    assert results.server_cpu_per_million("growth", "valkey") is None


def test_targets_tell_what_is_reached_and_what_was_not_measured() -> None:
    told = {verdict.target.work: verdict.text for verdict in verdicts(Results(SAMPLES))}

    assert told["one function, Valkey, single rows: of `pg_recvlogical`"] == "yes"
    assert told["one function, Valkey, single rows: times `delay()`"] == "not measured"
    assert told["commit to task, 100/s, Valkey: p50 above `delay()`"] == "yes"
    assert told["commit to task, 100/s, Valkey: p99 above `delay()`"] == "**no**"
    assert told["drain time of a backlog ten times as long: above ten times"] == "**no**"


def test_results_survive_their_file_and_reach_the_documentation(tmp_path: Path) -> None:
    machine = this_machine(scale=1, rounds=3, valkey_persistence="off", servers={"Postgres": "18.4"})
    lines, page = tmp_path / "results.jsonl", tmp_path / "performance.md"
    write_samples(lines, [machine, *SAMPLES])
    shutil.copy(ROOT / "docs" / "performance.md", page)

    results = Results(read_samples(lines))
    write_docs(results, page)
    write_docs(results, page)

    text = page.read_text()
    assert text.count("| one function, Valkey | 250 | 0.50 |") == 1
    assert "Postgres 18.4" in text
    assert page.with_suffix(".svg").read_text().startswith("<svg")
    for table in [
        *drain_tables(results), growth_table(results), latency_table(results), target_table(results)
    ]:  # fmt: skip
        table.print(Console(quiet=True))


def test_a_page_without_markers_is_told() -> None:
    with pytest.raises(ValueError, match="<!-- bench:drains -->"):
        replace_part("nothing here", "drains", "")
