"""Shared by the benchmarks: take turns, measure, and print one table with medians, spread and ratios (pure but for time)."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of one case.

    Attributes:
        low_s, high_s: first and ninth decile: the spread without the few worst and best.
        ratio: median of the ratios to the baseline, round by round, so that a slow minute of the machine cancels out.
    """

    name: str
    runs: int
    median_s: float
    low_s: float
    high_s: float
    ratio: float


def take_turns(cases: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of each run of each case; every round runs all cases once, and the order turns from round to round."""
    names = list(cases)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-warmup, rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            begun = time.perf_counter()
            cases[name]()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - begun)
    return seconds


def summarise(seconds: Mapping[str, Sequence[float]], baseline: str) -> list[Row]:
    """One row per case, with ratios to the baseline."""
    base = seconds[baseline]
    return [
        Row(name, len(values), statistics.median(values), *_spread(values),
            statistics.median(value / other for value, other in zip(values, base, strict=True)))
        for name, values in seconds.items()
    ]


def table(rows: Sequence[Row], baseline: str) -> str:
    """The rows as a Markdown table."""
    head = ["| case | runs | median | 10 % to 90 % | ratio |", "|---|---:|---:|---:|---:|"]
    body = [
        f"| {row.name} | {row.runs} | {1e3 * row.median_s:.1f} ms | {1e3 * row.low_s:.1f} to {1e3 * row.high_s:.1f} ms "
        f"| {row.ratio:.2f} |" for row in rows
    ]
    note = f"Ratio: median over rounds of the time divided by that of *{baseline}* in the same round."
    return "\n".join([*head, *body, "", note])


def machine() -> str:
    """One line about where this was measured."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    load = os.getloadavg()[0]
    return (f"{_processor()}, {os.cpu_count()} CPUs, {memory:.0f} GiB; {system}; Python {platform.python_version()}; "
            f"load average {load:.1f} at the start")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _spread(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 3:
        return min(values), max(values)
    deciles = statistics.quantiles(values, n=10, method="inclusive")
    return deciles[0], deciles[-1]
