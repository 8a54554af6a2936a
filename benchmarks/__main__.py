"""``python -m benchmarks``, which ``make bench`` calls."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import click
from rich.console import Console

from benchmarks.contenders import BY_NAME
from benchmarks.docs import write_docs
from benchmarks.plan import Plan, run_plan
from benchmarks.results import Results
from benchmarks.run import ROOT
from benchmarks.samples import Sample, read_samples, this_machine, write_samples
from benchmarks.servers import Persistence, Servers, start_servers
from benchmarks.shapes import SHAPES
from benchmarks.tables import drain_tables, growth_table, latency_table, target_table

_PAGE = ROOT / "docs" / "performance.md"
_PARTS = ("drains", "growth", "huge", "latency")


@click.command(context_settings={"show_default": True})
@click.option("--scale", default=1.0, help="Multiplies the number of events of each shape.")
@click.option(
    "--rounds", type=click.IntRange(min=1), default=3, help="How often each contender drains a shape."
)
@click.option("--quick", is_flag=True, help="One round at scale 0.05: about two minutes, for a first look.")
@click.option("--part", "parts", multiple=True, type=click.Choice(_PARTS), help="Only this part; repeatable.")
@click.option(
    "--shape", "shapes", multiple=True, type=click.Choice([s.name for s in SHAPES]), help="Only this."
)
@click.option("--contender", "contenders", multiple=True, type=click.Choice(list(BY_NAME)), help="Only this.")
@click.option("--minutes", default=18.0, help="After this time, start no further rounds.")
@click.option("--latency-seconds", default=12.0, help="How long each load of the latency part lasts.")
@click.option(
    "--valkey-persistence",
    type=click.Choice(get_args(Persistence)),
    default="off",
    help="Valkey's append-only file: none, synced each second, or at each write.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("build/bench/results.jsonl"),
    help="Where the JSON lines go.",
)
@click.option("--docs", is_flag=True, help="Write docs/performance.md's numbers, plot and JSON lines too.")
@click.option(
    "--report",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Measure nothing: report these JSON lines.",
)
def main(
    scale: float,
    rounds: int,
    quick: bool,
    parts: tuple[str, ...],
    shapes: tuple[str, ...],
    contenders: tuple[str, ...],
    minutes: float,
    latency_seconds: float,
    valkey_persistence: Persistence,
    output: Path,
    docs: bool,
    report: Path | None,
) -> None:
    """Drain the same WAL with pg_recvlogical, with the producer doing various work, and with what it replaces."""
    console = Console()
    if report is not None:
        samples = read_samples(report)
    else:
        if quick:
            scale, rounds, latency_seconds = scale * 0.05, 1, min(latency_seconds, 3.0)
        plan = Plan(scale, rounds, parts or _PARTS, shapes, contenders, latency_seconds, minutes)
        with (
            console.status("starting Postgres, Valkey and RabbitMQ"),
            start_servers(valkey_persistence) as servers,
        ):
            samples = _measure(console, plan, servers, valkey_persistence, output)
    results = Results(samples)
    tables = [*drain_tables(results), growth_table(results), latency_table(results), target_table(results)]
    for table in tables:
        if table.rows:
            table.print(console)
    if docs:
        write_docs(results, _PAGE)
        lines = _PAGE.with_suffix(".jsonl")
        lines.unlink(missing_ok=True)
        write_samples(lines, samples)
        console.print(f"written: {_PAGE}, {_PAGE.with_suffix('.svg')}, {lines}")


def _measure(
    console: Console, plan: Plan, servers: Servers, persistence: Persistence, output: Path
) -> list[Sample]:
    machine = this_machine(
        scale=plan.scale, rounds=plan.rounds, valkey_persistence=persistence, servers=servers.versions()
    )
    output.unlink(missing_ok=True)
    write_samples(output, [machine])
    samples: list[Sample] = [machine]
    for sample in run_plan(servers, plan, console.print):
        # Written one by one: an interrupted run keeps what it has measured.
        write_samples(output, [sample])
        samples.append(sample)
    console.print(f"JSON lines: {output}")
    return samples


if __name__ == "__main__":
    main()
