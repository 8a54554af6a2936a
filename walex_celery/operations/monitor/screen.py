"""Renders a status for the terminal; problems are red."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from walex_celery.events.event import printable
from walex_celery.operations.monitor.status import SlotStatus, StatusReport
from walex_celery.telemetry.activity import Doing
from walex_celery.telemetry.progress import human_bytes, human_seconds
from walex_celery.telemetry.report import DurationStatus, ProducerStatus

_GOOD: Final = {Doing.STREAMING.value, Doing.HANDLER.value, Doing.BROKER.value, Doing.MIDDLEWARE.value}
_BAD: Final = {Doing.BROKER_DOWN.value, Doing.RETRYING.value, Doing.ENDED.value}
#: Lags above these are shown in yellow.
_LATE_SECONDS: Final = 30.0
_LATE_BYTES: Final = 64 * 1024 * 1024
_BAR_WIDTH: Final = 30
#: Characters of a handler's name that fit beside its numbers at 120 columns.
_LONGEST_NAME: Final = 36


def render(report: StatusReport) -> RenderableType:
    """The whole report."""
    parts: list[RenderableType] = [_producer(producer) for producer in report.producers]
    parts.append(_slot(report.slot, report.instance))
    parts += [Text(f"! {printable(problem)}", style="bold red") for problem in report.problems]
    return Group(*parts)


def _plain(text: str) -> Text:
    """*text* as it is: names may hold escape sequences, or what Rich would take for markup."""
    return Text(printable(text))


def _rate(per_second: float) -> str:
    """A rate that is not shown as zero while something comes.

    >>> _rate(31_200.4), _rate(0.04), _rate(0)
    ('31,200', '0.04', '0')
    """
    return f"{per_second:,.0f}" if per_second >= 10 or not per_second else f"{per_second:.2g}"


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    return grid


def _producer(found: ProducerStatus) -> Panel:
    colour = "green" if found.state in _GOOD else "red" if found.state in _BAD else "yellow"
    state = Text.assemble(("● ", colour), (found.state, f"bold {colour}"))
    if found.state_detail:
        state.append(f"  {printable(found.state_detail)}")
    if found.state not in ("streaming",) and found.state_seconds >= 1:
        state.append(f"  for {human_seconds(found.state_seconds)}", style="dim")
    up = (datetime.now(UTC) - found.started).total_seconds()
    grid = _grid()
    grid.add_row("state", state)
    grid.add_row("lag", _lag(found))
    grid.add_row(
        "rate",
        f"{_rate(found.events_per_second)} events/s   {_rate(found.tasks_per_second)} tasks/s   "
        f"{_rate(found.transactions_per_second)} transactions/s",
    )
    grid.add_row(
        "in all", f"{found.events:,} events   {found.tasks:,} tasks   {found.transactions:,} transactions"
    )
    grid.add_row(
        "broker",
        f"{found.unconfirmed_tasks:,} tasks ({human_bytes(found.unconfirmed_bytes)}) not confirmed, "
        f"{found.batches_in_flight} batches in flight; a batch takes {_taken(found.publish)}",
    )
    if found.spool is not None:
        spool = found.spool
        grid.add_row(
            "spool",
            f"{human_bytes(spool.waiting_bytes)} waiting; {human_bytes(spool.size_bytes)} of "
            f"{human_bytes(spool.max_bytes)} used",
        )
    grid.add_row(
        "dead letters", Text(f"{found.dead_letters:,}", style="bold red" if found.dead_letters else "")
    )
    grid.add_row("reads", _plain(f"{found.server}, publication {', '.join(found.publication)}"))
    grid.add_row("subscribed", _plain(", ".join(found.subscriptions) or "nothing"))
    grid.add_row(
        "process", f"pid {found.pid}, up {human_seconds(up)}, {found.reconnects} reconnects, {found.version}"
    )
    parts: list[RenderableType] = [grid]
    if found.handlers:
        parts.append(_handlers(found))
    if found.tables:
        parts.append(_tables(found))
    return Panel(Group(*parts), title=found.node, title_align="left", border_style=colour)


def _lag(found: ProducerStatus) -> RenderableType:
    lag = found.lag
    if lag.bytes is None:
        return Text("unknown", style="dim")
    late = lag.seconds >= _LATE_SECONDS or lag.bytes >= _LATE_BYTES
    text = Text(
        f"{human_bytes(lag.bytes)}, {human_seconds(lag.seconds)}", style="yellow" if late else "green"
    )
    if not lag.backlog_bytes:
        return text
    # A backlog is being worked off: show its progress, and when it will be done.
    text.append(
        "   done in about " + human_seconds(lag.seconds_left)
        if lag.seconds_left is not None
        else "   not shrinking",
        style="default",
    )
    bar = ProgressBar(total=lag.backlog_bytes, completed=lag.backlog_bytes - lag.bytes, width=_BAR_WIDTH)
    row = Table.grid(padding=(0, 2))
    row.add_row(text, bar, f"{1 - lag.bytes / lag.backlog_bytes:.0%} of {human_bytes(lag.backlog_bytes)}")
    return row


def _taken(taken: DurationStatus) -> str:
    if taken.mean is None or taken.p95 is None:
        return "unknown time"
    return f"{human_seconds(taken.mean)} (p95 {human_seconds(taken.p95)})"


def _list(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim", pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    return table


def _handlers(found: ProducerStatus) -> Table:
    table = _list("handler", "calls", "events", "mean", "p50", "p95", "errors", "last error")
    for handler in found.handlers:
        taken = handler.seconds
        times = [
            "-" if seconds is None else human_seconds(seconds)
            for seconds in (taken.mean, taken.p50, taken.p95)
        ]
        table.add_row(
            Text(_in_two_lines(printable(handler.name))),
            f"{handler.calls:,}",
            f"{handler.events:,}",
            *times,
            Text(f"{handler.errors:,}", style="bold red" if handler.errors else ""),
            _plain(handler.last_error or ""),
        )
    return table


def _in_two_lines(name: str) -> str:
    """Break a long dotted name before its last part; otherwise a narrow column would break it anywhere."""
    if len(name) <= _LONGEST_NAME:
        return name
    module, _, last = name.rpartition(".")
    return f"{module}.\n{last}"


def _tables(found: ProducerStatus) -> Table:
    table = _list("table", "type", "handled", "filtered out")
    for entry in found.tables:
        table.add_row(
            _plain(entry.table or "(messages)"), entry.type, f"{entry.accepted:,}", f"{entry.filtered:,}"
        )
    return table


def _slot(slot: SlotStatus | None, instance: str) -> RenderableType:
    if slot is None:
        return Text(f"slot of {instance}: unknown", style="dim")
    if not slot.exists:
        return Text(f"slot {slot.name} does not exist; changes are not kept", style="yellow")
    grid = _grid()
    reading = f"in use by Postgres process {slot.active_pid}" if slot.active else "not in use"
    kind = "temporary" if slot.temporary else "durable"
    grid.add_row("slot", Text(f"{slot.name} ({kind}), {reading}", style="" if slot.active else "bold yellow"))
    limit = (
        "no limit: an unused slot fills the disk (max_slot_wal_keep_size)"
        if slot.safe_wal_bytes is None
        else f"lost after {human_bytes(slot.safe_wal_bytes)} more"
    )
    lost = slot.wal_status in ("lost", "unreserved")
    grid.add_row(
        "WAL",
        Text(
            f"{human_bytes(slot.lag_bytes or 0)} not acknowledged, {human_bytes(slot.retained_bytes or 0)} kept "
            f"({slot.wal_status}; {limit})",
            style="bold red" if lost else "",
        ),
    )
    grid.add_row("acknowledged", f"{slot.confirmed_flush_lsn}")
    return grid
