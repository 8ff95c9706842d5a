"""Pictures of a report as inline SVG (pure).

They carry no script, no style of their own and no link: classes are coloured by the page, so that one picture serves light,
dark and paper. All text passes through :func:`html.escape`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from hpctrain.jobs.goodput import BETWEEN, CATEGORIES, TRAINING, Goodput, Segment
from hpctrain.jobs.incident import PHASES, Incident
from hpctrain.jobs.incident_text import PHASE_WORDS, seconds
from hpctrain.jobs.text import count, duration

WIDTH = 960
_LEFT, _RIGHT = 60, 12
_STRIP = 30


def loss_curve(steps: Sequence[float], losses: Sequence[float], marks: Mapping[float, str], height: int = 280) -> str:
    """Loss over steps; ``marks`` are steps with a failure and its title."""
    top, bottom = 14, 36
    low, high = min(losses), max(losses)
    pad = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
    low, high = low - pad, high + pad
    first, last = min(steps), max(steps)
    span = (last - first) or 1.0

    def x(step: float) -> float:
        return _LEFT + (step - first) / span * (WIDTH - _LEFT - _RIGHT)

    def y(loss: float) -> float:
        return top + (high - loss) / (high - low) * (height - top - bottom)

    parts = [_open(height, "Training loss over steps")]
    for tick in _ticks(low, high, 5):
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(_text(_LEFT - 8, y(tick) + 4, f"{tick:.4g}", "end"))
    parts += [_text(x(tick), height - bottom + 18, count(tick), "middle") for tick in _ticks(first, last, 8)]
    parts.append(_text((WIDTH + _LEFT) / 2, height - 2, "step", "middle"))
    for step, title in marks.items():
        at = min(max(x(step), _LEFT), WIDTH - _RIGHT)
        parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{height - bottom}">'
                     f"<title>{escape(title)}</title></line>")
    points = " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in zip(steps, losses, strict=True))
    if len(steps) == 1:
        parts.append(f'<circle class="dot" cx="{x(steps[0]):.1f}" cy="{y(losses[0]):.1f}" r="3"/>')
    else:
        parts.append(f'<polyline class="curve" points="{points}"/>')
    return "".join([*parts, "</svg>"])


def time_strip(goodput: Goodput, height: int = 58) -> str:
    """The whole time of the run in one line, coloured by what it went to."""
    start, end = goodput.segments[0].start, goodput.segments[-1].end
    scale = WIDTH / max(end - start, 1e-9)
    parts = [_open(height, "Where the time of the run went")]
    for stretch in _stretches(goodput.segments):
        left, width = (stretch[0].start - start) * scale, max(0.4, (stretch[-1].end - stretch[0].start) * scale)
        whole, top = stretch[-1].end - stretch[0].start, 0.0
        for category in (BETWEEN, TRAINING) if len(stretch) > 1 else (stretch[0].category,):
            spent = sum(part.seconds for part in stretch if part.category == category)
            tall = _STRIP * spent / whole if whole > 0 else _STRIP
            parts.append(f'<rect class="c-{category}" x="{left:.2f}" y="{top:.2f}" width="{width:.2f}" height="{tall:.2f}">'
                         f"<title>{escape(_told(category, spent))}</title></rect>")
            top += tall
    for index in range(5):
        anchor = "start" if index == 0 else "end" if index == 4 else "middle"
        parts.append(_text(WIDTH * index / 4, 48, f"+{duration((end - start) * index / 4)}", anchor))
    return "".join([*parts, "</svg>"])


def _stretches(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Training and the time between its steps alternate thousands of times; they share one stretch of the picture."""
    found: list[list[Segment]] = []
    for part in segments:
        if found and {part.category, found[-1][-1].category} == {TRAINING, BETWEEN}:
            found[-1].append(part)
        else:
            found.append([part])
    return found


def phase_bars(incidents: Sequence[Incident], row: int = 26) -> str:
    """One line per incident, all to the same scale: how long each phase took."""
    shown = [one for one in incidents if sum(one.phases.values()) > 0]
    if not shown:
        return ""
    longest = max(max(sum(one.phases.values()), one.total_s or 0.0) for one in shown)
    left, right = 70, 90
    scale = (WIDTH - left - right) / longest
    height = row * len(shown) + 24
    parts = [_open(height, "Phases of each recovery")]
    for index, one in enumerate(shown):
        top = index * row
        parts.append(_text(left - 8, top + 15, f"{one.number}. {one.rung}", "end"))
        place = float(left)
        for name, value in one.phases.items():
            width = value * scale
            words = f"{PHASE_WORDS[name]}: {seconds(value)} ({PHASES[name]})"
            parts.append(f'<rect class="p-{name}" x="{place:.2f}" y="{top + 3}" width="{max(0.4, width):.2f}"'
                         f' height="{row - 9}"><title>{escape(words)}</title></rect>')
            place += width
        total = one.total_s if one.total_s is not None else sum(one.phases.values())
        parts.append(_text(place + 6, top + 15, seconds(total), "start"))
    parts += [_text(left + tick * scale, height - 4, seconds(tick), "middle") for tick in _ticks(0, longest, 6)]
    return "".join([*parts, "</svg>"])


def _told(category: str, spent: float) -> str:
    return f"{category.replace('_', ' ')}: {duration(spent)} ({CATEGORIES[category]})"


def _open(height: float, label: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}"><title>{escape(label)}</title>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers within a range."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    rough = span / about
    size = 10.0 ** math.floor(math.log10(rough))
    stride = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    first = math.ceil(low / stride)
    return [index * stride for index in range(first, math.floor(high / stride) + 1)]
