"""Tables, ratios and verdicts from the raw results (pure)."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from checkpoint_systems import ASYNC, DCP_SAVE, OURS, SYSTEMS

Result = Mapping[str, Any]
RATES = "rates"
TIERS = ("ram, hot", "peer, hot", "local, cold", "local, hot", "shared, cold", "shared, hot")
STALL_SHARE, STALL_RATIO, RESTORE_RATIO = 0.8, 1 / 3, 5.0
"""The aims: of the copy rate, of DCP async_save's stall, and times faster than DCP's load."""


class Results:
    """All blocks of one run.

    Args:
        blocks: of every system and size, as the workers gave them, with ``system`` and ``gib``.
    """

    def __init__(self, blocks: Sequence[Result]) -> None:
        self.blocks = blocks

    def sizes(self) -> list[float]:
        """In GiB."""
        return sorted({block["gib"] for block in self.blocks})

    def of(self, system: str, gib: float) -> list[Result]:
        """The blocks of one case."""
        return [block for block in self.blocks if block["system"] == system and block["gib"] == gib]

    def saves(self, system: str, gib: float, value: Callable[[Result], Any]) -> list[float]:
        """One number of every steady save; those that have none are left out."""
        numbers = (value(save) for block in self.of(system, gib) for save in block["saves"])
        return [float(number) for number in numbers if number is not None]

    def restores(self, system: str, gib: float, tier: str) -> list[float]:
        """Seconds of every restore from a tier."""
        return [one[tier] for block in self.of(system, gib) for one in block["restores"] if tier in one]

    def inflation(self, system: str, gib: float) -> list[float]:
        """Median step while a save is in work, divided by the median step before the block's first save."""
        return [
            statistics.median(save["steps_s"]) / statistics.median(block["baseline_s"])
            for block in self.of(system, gib) for save in block["saves"] if save["steps_s"]
        ]

    def rate_seconds(self, what: str, gib: float) -> list[float]:
        """Seconds in which the machine copies or writes as much as the state has."""
        return [one for block in self.of(RATES, gib) for one in block["rates"][what]]


def seconds(values: Sequence[float]) -> str:
    """Median, and first to ninth decile."""
    if not values:
        return "-"
    low, high = spread(values)
    return f"{_duration(statistics.median(values))} ({_duration(low)} to {_duration(high)})"


def spread(values: Sequence[float]) -> tuple[float, float]:
    """First and ninth decile; the extremes where there are too few."""
    if len(values) < 3:
        return min(values), max(values)
    deciles = statistics.quantiles(values, n=10, method="inclusive")
    return deciles[0], deciles[-1]


def _duration(value_s: float) -> str:
    return f"{1e3 * value_s:.1f} ms" if value_s < 0.1 else f"{1e3 * value_s:.0f} ms" if value_s < 1 else f"{value_s:.2f} s"


def _gib(values: Sequence[float]) -> str:
    return f"{statistics.median(values) / 2**30:.2f}" if values else "-"


def markdown(results: Results, missing: Mapping[str, str]) -> str:
    """Everything, for people."""
    parts = []
    for gib in results.sizes():
        parts += [f"### {gib:g} GiB", _rates(results, gib), _save_table(results, gib), _restore_table(results, gib),
                  "\n".join(f"- {line}" for line in aims(results, gib))]
    if missing:
        parts.append("Not measured:\n\n" + "\n".join(f"- {name}: {reason}" for name, reason in missing.items()))
    return "\n\n".join(parts)


def _rates(results: Results, gib: float) -> str:
    texts = []
    for what in ("copy, 1 thread", "copy, torch's threads", "write and flush"):
        values = [gib / one for one in results.rate_seconds(what, gib)]
        low, high = spread(values)
        texts.append(f"{what}: {statistics.median(values):.2f} GiB/s ({low:.2f} to {high:.2f})")
    return "The machine, with as many bytes in one piece: " + "; ".join(texts) + "."


def _save_table(results: Results, gib: float) -> str:
    head = ("| saving | n | stall | first stall | step inflation | RAM-safe | peer-safe | durable | without flush "
            "| memory, GiB | written, GiB |")
    rows = [head, "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"]
    for name in _present(results, gib):
        blocks = results.of(name, gib)
        stalls = results.saves(name, gib, lambda save: save["stall_s"])
        inflation = results.inflation(name, gib)
        durable = _durable(results, name, gib)
        unflushed = _unflushed(results, name, gib)
        cells = [
            name, str(len(stalls)), seconds(stalls), seconds([block["first"]["stall_s"] for block in blocks]),
            f"{statistics.median(inflation):.2f}" if inflation else "-",
            seconds(results.saves(name, gib, lambda save: save["levels_s"].get("ram"))),
            seconds(results.saves(name, gib, lambda save: save["levels_s"].get("peer"))),
            seconds(durable), seconds(unflushed),
            _gib([block["memory_bytes"]["save"] for block in blocks]),
            _gib(results.saves(name, gib, lambda save: save["written_bytes"])),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _durable(results: Results, name: str, gib: float) -> list[float]:
    if SYSTEMS[name].options and dict(SYSTEMS[name].options).get("sync_files") is False:
        return []
    return results.saves(name, gib, lambda save: save["durable_s"])


def _unflushed(results: Results, name: str, gib: float) -> list[float]:
    if any(block["flushes"] for block in results.of(name, gib)):
        return []
    return results.saves(name, gib, lambda save: save["complete_s"])


def _restore_table(results: Results, gib: float) -> str:
    tiers = [tier for tier in TIERS if any(results.restores(name, gib, tier) for name in SYSTEMS)]
    rows = ["| restoring from | " + " | ".join(tiers) + " | memory, GiB |", "|---|" + "---:|" * (len(tiers) + 1)]
    for name in _present(results, gib):
        memory = _gib([block["memory_bytes"]["restore"] for block in results.of(name, gib)])
        cells = [name, *(seconds(results.restores(name, gib, tier)) for tier in tiers), memory]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _present(results: Results, gib: float) -> list[str]:
    return [name for name in SYSTEMS if results.of(name, gib)]


def aims(results: Results, gib: float) -> list[str]:
    """A sentence for each aim: met, or missed and by how much."""
    return [*_stall_aims(results, gib), *_restore_aim(results, gib), *_durable_aim(results, gib)]


def _stall_aims(results: Results, gib: float) -> Iterable[str]:
    stalls = results.saves(OURS, gib, lambda save: save["stall_s"])
    copies = results.rate_seconds("copy, torch's threads", gib)
    if not stalls:
        return
    share = statistics.median(copies) / statistics.median(stalls)
    yield verdict(share >= STALL_SHARE, f"the stall is at {share:.0%} of the copy rate (aim: at least {STALL_SHARE:.0%})")
    for name in SYSTEMS:
        others = results.saves(name, gib, lambda save: save["stall_s"])
        if name.startswith(ASYNC) and others:
            ratio = statistics.median(stalls) / statistics.median(others)
            yield verdict(ratio <= STALL_RATIO, f"the stall is {ratio:.2f} times that of {name} (aim: at most 0.33)")


def _restore_aim(results: Results, gib: float) -> Iterable[str]:
    ours = results.restores(OURS, gib, "ram, hot")
    for heat in ("hot", "cold"):
        others = results.restores(DCP_SAVE, gib, f"shared, {heat}")
        if ours and others:
            times = statistics.median(others) / statistics.median(ours)
            yield verdict(times >= RESTORE_RATIO, f"a restore from memory is {times:.1f} times as fast as DCP's load of "
                                                  f"{heat} files (aim: at least {RESTORE_RATIO:.0f})")


def _durable_aim(results: Results, gib: float) -> Iterable[str]:
    ours, others = _durable(results, OURS, gib), _durable(results, DCP_SAVE, gib)
    if ours and others:
        ratio = statistics.median(ours) / statistics.median(others)
        yield verdict(ratio <= 1.0, f"the durable write takes {ratio:.2f} times as long as DCP save (aim: at most 1)")


def verdict(met: bool, text: str) -> str:
    """Met or missed, and what."""
    return f"**{'met' if met else 'missed'}**: {text}"
