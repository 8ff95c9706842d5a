"""The table of before and after, for a terminal (pure)."""

from __future__ import annotations

from collections.abc import Sequence

from hpctrain.evaluate.measures import HIGHER, LOWER, Measure
from hpctrain.evaluate.results import Evaluation, Line, compare
from hpctrain.jobs.text import cells, cut

GAP = 2
COLOURS = {"better": 32, "worse": 31, "unsure": 33}
"""ANSI colour of a verdict."""
_WAYS = {HIGHER: " (+)", LOWER: " (-)"}


def render(evaluation: Evaluation, *, width: int | None = None, colour: bool = False) -> str:
    """The table as text: a line for each measure, a column for each model; then what failed.

    Args:
        width: columns of the terminal, to which the longest column gives way; None shows everything.
    """
    lines = compare(evaluation)
    several = len(evaluation.models) > 1
    head = ["SUITE", "MEASURE", *(model.label.upper() for model in evaluation.models), *(["CHANGE", ""] if several else [])]
    rows = [head, *(_row(line, several=several, first=index == 0 or lines[index - 1].suite != line.suite)
                    for index, line in enumerate(lines))]
    widths = [max(cells(row[column]) for row in rows) for column in range(len(head))]
    if width is not None:
        excess = sum(widths) + GAP * (len(widths) - 1) - width
        widest = max(range(2), key=lambda column: widths[column])
        widths[widest] = max(8, widths[widest] - max(0, excess))
    found = [_text(rows[0], widths, "1" if colour else "")]
    found += [_text(row, widths, str(COLOURS.get(line.verdict, "")) if colour else "")
              for row, line in zip(rows[1:], lines, strict=True)]
    if not lines:
        found = []
    return "\n".join([*found, *_problems(evaluation)])


def number(value: float | None) -> str:
    """Four significant digits, without an exponent where that can be read."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    if abs(value) >= 1e6 or abs(value) < 1e-4:
        return f"{value:.3e}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def with_error(measure: Measure | None) -> str:
    """``0.812 ± 0.02``."""
    if measure is None:
        return "-"
    error = "" if measure.error is None else f" ± {measure.error:.2g}"
    return number(measure.value) + error


def words(name: str) -> str:
    """A measure's name as people read it."""
    return name.replace("_", " ")


def _row(line: Line, *, several: bool, first: bool) -> list[str]:
    row = [line.suite if first else "", words(line.measure) + _WAYS.get(line.better, ""),
           *(with_error(one) for one in line.values)]
    if several:
        change = "-" if line.change is None else ("+" if line.change > 0 else "") + number(line.change)
        row += [change, line.verdict]
    return row


def _text(row: Sequence[str], widths: Sequence[int], style: str) -> str:
    parts = [cut(text, width) for text, width in zip(row, widths, strict=True)]
    padded = [
        text + " " * (width - cells(text)) if index < 2 else " " * (width - cells(text)) + text
        for index, (text, width) in enumerate(zip(parts, widths, strict=True))
    ]
    line = (" " * GAP).join(padded).rstrip()
    return f"\x1b[{style}m{line}\x1b[0m" if style else line


def _problems(evaluation: Evaluation) -> list[str]:
    return [f"{one.name} of {label}: not measured: {one.problem}" for label, one in evaluation.problems]
