"""Curves in a terminal (adapter over plotext)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hpctrain.jobs.text import count

CURVE_COLOUR, RESTART_COLOUR = "cyan", "orange"


def draw(
    xs: Sequence[float], ys: Sequence[float], *, title: str, marks: Sequence[float] = (), width: int = 80, height: int = 18,
    colour: bool = False, unicode: bool = True, xlabel: str = "step",
) -> str:
    """A line chart as text.

    Args:
        marks: places on the x axis that get a vertical line.
        colour: with ANSI colours; without, the text is readable in a file.
        unicode: with braille dots and box characters, else ASCII only.
    """
    import plotext

    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plotsize(max(30, width), max(8, height))
    plotext.title(title)
    plotext.xlabel(xlabel)
    low, high = min(ys), max(ys)
    if low == high:
        # plotext divides by the range.
        plotext.ylim(low - (abs(low) or 1) * 0.5, high + (abs(high) or 1) * 0.5)
    if len(xs) == 1:
        plotext.xlim(xs[0] - 1, xs[0] + 1)
    ticks = round_ticks(min(xs), max(xs), max(2, width // 16))
    plotext.xticks(ticks, _labels(ticks))
    for mark in marks:
        plotext.vline(mark, RESTART_COLOUR)
    marker = ("braille" if len(xs) > 1 else "dot") if unicode else "*"
    plotext.plot(list(xs), list(ys), marker=marker, color=CURVE_COLOUR)
    text: str = plotext.build()
    text = text if colour else plotext.uncolorize(text)
    plotext.clear_figure()
    lines = (text if unicode else _ascii(text)).splitlines()
    return "\n".join(line.rstrip() for line in lines)


def round_ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers between two others, such as 0, 50, 100, with the first number itself."""
    span = high - low
    if span <= 0:
        return [low]
    rough = span / about
    size = 10.0 ** math.floor(math.log10(rough))
    stride = max(1.0, next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough))
    first = math.ceil(low / stride) * stride
    inner = [first + index * stride for index in range(int((high - first) / stride + 1e-9) + 1)] if first <= high else []
    return [low, *(tick for tick in inner if tick - low > stride * 0.4)]


def _labels(ticks: Sequence[float]) -> list[str]:
    """Short numbers where they tell the ticks apart, else whole ones."""
    short = [count(tick) for tick in ticks]
    return short if len(set(short)) == len(short) else [f"{tick:.0f}" for tick in ticks]


def _ascii(text: str) -> str:
    boxes = {"─": "-", "│": "|", "┌": "+", "┐": "+", "└": "+", "┘": "+", "┤": "+", "├": "+", "┬": "+", "┴": "+", "┼": "+"}
    return "".join(boxes.get(char, char) for char in text).encode("ascii", "replace").decode()
