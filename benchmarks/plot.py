"""The plot of the ratios, as SVG written by hand: a bar chart needs no library."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from benchmarks.contenders import BASELINE, CONTENDERS
from benchmarks.results import Results
from benchmarks.shapes import SHAPES, Shape

_WIDTH = 860
_LABELS = 330
_BAR, _STEP, _HEAD = 16, 22, 34
_COLOUR, _GRID, _TEXT = "#3b82a0", "#b8b8b8", "#505050"


def plot_ratios(results: Results) -> str:
    """Bars of each contender's rate as a share of pg_recvlogical's, a group a shape."""
    parts, height = [], 40
    for shape in SHAPES:
        bars = list(_bars(results, shape))
        if bars:
            parts.append(_group(shape, bars, height))
            height += _HEAD + _STEP * len(bars) + 10
    title = f'<text x="10" y="22" font-size="15" fill="{_TEXT}">Events per second, as a share of pg_recvlogical</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="12" role="img" '
        'aria-label="Events per second of each contender, as a share of pg_recvlogical">\n'
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n{title}\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _bars(results: Results, shape: Shape) -> Iterator[tuple[str, float]]:
    for contender in CONTENDERS:
        ratio = results.ratio(shape.name, contender.name)
        if ratio is not None and contender.name != BASELINE and contender.work != "ready_made":
            yield contender.title.replace("`", ""), ratio


def _group(shape: Shape, bars: list[tuple[str, float]], top: int) -> str:
    # A contender may pass pg_recvlogical.
    full = max(1.0, *(ratio for _, ratio in bars))
    scale = (_WIDTH - _LABELS - 60) / full
    bottom = top + _HEAD + _STEP * len(bars)
    lines = [f'<text x="10" y="{top + 20}" font-weight="bold" fill="{_TEXT}">{escape(shape.title)}</text>']
    for mark in (0.25, 0.5, 0.75, 1.0):
        x = _LABELS + mark * scale
        lines.append(
            f'<line x1="{x:.1f}" y1="{top + 26}" x2="{x:.1f}" y2="{bottom}" stroke="{_GRID}" stroke-width="0.7"/>'
            f'<text x="{x:.1f}" y="{top + 22}" text-anchor="middle" font-size="10" fill="{_TEXT}">{mark:g}</text>'
        )
    for number, (label, ratio) in enumerate(bars):
        y = top + _HEAD + _STEP * number
        width = max(1.0, ratio * scale)
        shown = f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.3f}"
        lines.append(
            f'<text x="{_LABELS - 8}" y="{y + 12}" text-anchor="end" fill="{_TEXT}">{escape(label)}</text>'
            f'<rect x="{_LABELS}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{_COLOUR}"/>'
            f'<text x="{_LABELS + width + 6:.1f}" y="{y + 12}" fill="{_TEXT}">{shown}</text>'
        )
    return "\n".join(lines)
