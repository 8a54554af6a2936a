"""Writes the numbers into docs/performance.md, between its markers, and the plot beside it."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.plot import plot_ratios
from benchmarks.results import Results
from benchmarks.samples import Machine
from benchmarks.tables import Table, drain_tables, growth_table, latency_table, target_table


def write_docs(results: Results, page: Path) -> None:
    """Fill the parts of *page*, and write the plot as an SVG file of the same name.

    Raises:
        ValueError: the page has not the markers ``<!-- bench:NAME -->`` and ``<!-- /bench:NAME -->``.
    """
    text = page.read_text()
    for name, content in _parts(results).items():
        text = replace_part(text, name, content)
    page.write_text(text)
    page.with_suffix(".svg").write_text(plot_ratios(results))


def replace_part(text: str, name: str, content: str) -> str:
    """*text* with *content* between the markers of *name*."""
    begin, end = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"there are no markers {begin} and {end}")
    return pattern.sub(lambda _: f"{begin}\n{content}\n{end}", text, count=1)


def _parts(results: Results) -> dict[str, str]:
    return {
        "machine": _machine(results.machine),
        "targets": target_table(results).markdown(),
        "drains": "\n".join(map(_titled, drain_tables(results))),
        "latency": latency_table(results).markdown(),
        "growth": growth_table(results).markdown(),
    }


def _titled(table: Table) -> str:
    return f"### {table.title[0].upper()}{table.title[1:]}\n\n{table.markdown()}"


def _machine(machine: Machine | None) -> str:
    if machine is None:
        return ""
    versions = ", ".join(f"{name} {number}" for name, number in machine.versions.items())
    return (
        f"Measured on {machine.date}: {machine.cores} cores ({machine.cpu}), {machine.memory_gib:g} GiB, "
        f"{machine.system}; Python {machine.python}, {versions}. "
        f"Servers and clients share the cores. Rounds: {machine.rounds}, at scale {machine.scale:g}; "
        f"Valkey's append-only file: {machine.valkey_persistence}.\n"
    )
