"""A report as text for a terminal or a file (service)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from hpctrain.cli.chart import draw
from hpctrain.jobs.incident_text import lines as incident_lines
from hpctrain.jobs.records import Point
from hpctrain.jobs.report import Entry, Report, averaged, summary_lines
from hpctrain.jobs.table import COLOURS, state_word
from hpctrain.jobs.text import cells, cut, duration, stamp

CHART_ROWS = 16
TIMELINE_ROWS = 30
INCIDENTS_SHOWN = 12


def render(report: Report, *, width: int, colour: bool = False, unicode: bool = True) -> str:
    """Head, loss curve, numbers, timeline."""
    status = report.status
    state = state_word(status)
    shown = f"\x1b[{COLOURS[status.state]}m{state}\x1b[0m" if colour else state
    lines = [f"{status.name}  job {status.id}  {shown}", ""]
    lines += [_curve(report, width, colour=colour, unicode=unicode), ""]
    lines += [f"{label:<10}{text}" for label, text in summary_lines(report)]
    if report.incidents:
        lines += ["", "Failures", *_incidents(report, width)]
    lines += ["", "Timeline", *_timeline(report, width)]
    return "\n".join(lines)


def _curve(report: Report, width: int, *, colour: bool, unicode: bool) -> str:
    points: Sequence[Point] = report.metrics.points
    steps, losses = averaged(points, bins=2 * width)
    if not losses:
        if not points:
            return "No steps are recorded" + (" yet." if not report.status.final else ".")
        return "No step has a finite loss."
    marks = [restart.first_step for restart in report.metrics.restarts]
    title = "training loss" + (", | marks a restart" if marks else "")
    return draw(steps, losses, title=title, marks=marks, width=width - 1, height=CHART_ROWS, colour=colour, unicode=unicode)


def _incidents(report: Report, width: int) -> list[str]:
    start = report.status.submitted_time or report.incidents[0].fault_time
    unit = report.goodput.size.unit if report.goodput else ""
    told = incident_lines(report.incidents, [report.cost_of(one) for one in report.incidents], unit)
    shown = told if len(told) <= INCIDENTS_SHOWN else told[-INCIDENTS_SHOWN:]
    lines = [f"  ... {len(told) - len(shown)} earlier: -o json"] if len(shown) < len(told) else []
    for time, (first, *rest) in shown:
        lines += textwrap.wrap(" ".join(first.split()), max(40, width), subsequent_indent=" " * 13, break_on_hyphens=False,
                               initial_indent=f"  {'+' + duration(max(0, round(time - start))):>9}  ")
        lines += [line for row in rest for line in textwrap.wrap(row, max(40, width), initial_indent=" " * 16,
                                                                 subsequent_indent=" " * 16)]
    return lines


def _timeline(report: Report, width: int) -> list[str]:
    entries = report.timeline
    if not entries:
        return ["  nothing is recorded"]
    start = report.status.submitted_time or entries[0].time
    lines = [_entry(entry, start, width) for entry in entries]
    if len(lines) > TIMELINE_ROWS:
        half = TIMELINE_ROWS // 2
        lines = [*lines[:half], f"  ... {len(lines) - 2 * half} more: hpctrain events {report.status.name}", *lines[-half:]]
    return [f"  {stamp(start)} is +0s", *lines]


def _entry(entry: Entry, start: float, width: int) -> str:
    head = f"  {'+' + duration(max(0, round(entry.time - start))):>9}  "
    return head + cut(" ".join(entry.what.split()), max(20, width - cells(head)))
