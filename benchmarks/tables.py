"""The report as tables: rows of text, which the terminal and the documentation both show."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.contenders import BASELINE, CONTENDERS
from benchmarks.latency import BARE, RATES
from benchmarks.results import Results
from benchmarks.shapes import SHAPES
from benchmarks.targets import MIB, verdicts

_NONE = "–"  # noqa: RUF001 - a dash, for what was not measured


class Table(msgspec.Struct, frozen=True):
    """A titled table; all columns but the first are numbers."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def markdown(self) -> str:
        """The table as Markdown, without its title."""
        lines = [self.header, ("---", *["---:"] * (len(self.header) - 1)), *self.rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def print(self, console: Console) -> None:
        """Print it."""
        shown = RichTable(title=self.title, title_justify="left")
        for number, name in enumerate(self.header):
            shown.add_column(_plain(name), justify="right" if number else "left")
        for row in self.rows:
            shown.add_row(*map(_plain, row))
        console.print(shown)


def _plain(text: str) -> str:
    return text.replace("`", "").replace("**", "")


def drain_tables(results: Results) -> list[Table]:
    """One table a shape."""
    header = ("contender", "events/s", "of `pg_recvlogical`", "CPU s per million", "the servers'", "peak MiB")
    tables = []
    for shape in SHAPES:
        rows = []
        for contender in CONTENDERS:
            drains = results.drains(shape.name, contender.name)
            if not drains:
                continue
            # Ready-made messages come from nowhere: their ratio to a drain says nothing.
            compared = contender.work != "ready_made" and contender.name != BASELINE
            ratio = results.ratio(shape.name, contender.name) if compared else None
            rows.append((
                contender.title,
                _number(results.rate(shape.name, contender.name), ",.0f"),
                _number(ratio, ".3f" if ratio is not None and ratio < 0.1 else ".2f"),
                _number(results.cpu_per_million(shape.name, contender.name), ".1f"),
                _number(results.server_cpu_per_million(shape.name, contender.name), ".1f"),
                _number((results.peak_bytes(shape.name, contender.name) or 0) / MIB, ".0f"),
            ))  # fmt: skip
        if rows:
            events = max(
                sample.events
                for contender in CONTENDERS
                for sample in results.drains(shape.name, contender.name)
            )
            tables.append(Table(f"{shape.title} ({events - 1:,} events)", header, rows))
    return tables


def latency_table(results: Results) -> Table:
    """Commit to task."""
    rows = []
    for broker, label in (("valkey", "Valkey"), ("classic", "RabbitMQ")):
        for source, rate in ((BARE, RATES[0]), *(("commit", rate) for rate in RATES)):
            sample = results.latency(broker, source, rate)
            if sample is not None:
                what = "`delay()`" if source == BARE else "COMMIT"
                rows.append((
                    f"{label}: since {what}, {rate:,}/s",
                    f"{sample.rate:,.0f}",
                    f"{sample.count:,}",
                    *(_number(value * 1000, ".2f") for value in (sample.p50, sample.p99, sample.p999)),
                ))  # fmt: skip
    header = ("to a task's first line", "a second, reached", "timed", "p50 ms", "p99 ms", "p99.9 ms")
    return Table("latency", header, rows)


def growth_table(results: Results) -> Table:
    """The long drains next to the short ones."""
    rows = []
    for shape, label in (("growth", "backlog of single rows"), ("huge", "one transaction")):
        drains = results.drains(shape, "valkey")
        for size in sorted({sample.events for sample in drains}):
            of_size = [sample for sample in drains if sample.events == size]
            middle = sorted(sample.seconds for sample in of_size)[len(of_size) // 2]
            peak = max(sample.peak_bytes for sample in of_size)
            rows.append(
                (f"{label}, {size - 1:,} rows", f"{middle:.2f}", f"{size / middle:,.0f}", f"{peak / MIB:.1f}")
            )
    return Table("growth (one function, Valkey)", ("backlog", "seconds", "events/s", "peak MiB"), rows)


def target_table(results: Results) -> Table:
    """What must be reached, and whether it is."""
    rows = []
    for verdict in verdicts(results):
        target = verdict.target
        unit = f" {target.unit}" if target.unit else ""
        bound = f"{'at least' if target.kind == 'least' else 'at most'} {target.bound:g}{unit}"
        value = _NONE if verdict.value is None else f"{verdict.value:.2f}{unit}"
        by_cpu = (
            _number(target.by_cpu(results), ".2f") + unit if target.by_cpu(results) is not None else _NONE
        )
        rows.append((target.work, bound, value, by_cpu, verdict.text))
    return Table("targets", ("work", "asked", "measured", "by CPU seconds", "reached"), rows)


def _number(value: float | None, form: str) -> str:
    return _NONE if value is None else format(value, form)
