"""The fleet's own baseline: medians and spreads by hardware kind, and the limit that follows (pure).

Not vendors' figures: nodes of one kind are compared with each other, or with what they did when somebody decided that this
was good. A limit is the median less a band of 5 %; where the fleet itself spreads more than that, three times its spread
(1.4826 x median absolute deviation, which a few bad nodes do not move), but never more than half of the median.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

VERSION = 1
FEWEST_FOR_SPREAD = 5
"""With fewer values a spread says nothing, and one bad node is a large part of it."""


@dataclass(frozen=True, slots=True)
class Band:
    """How far below the baseline a value may lie.

    Attributes:
        percent: of the median, always.
        spreads: or so many spreads, if that is more.
        widest_percent: but the spread never widens the band beyond this.
    """

    percent: float = 5.0
    spreads: float = 3.0
    widest_percent: float = 50.0


@dataclass(frozen=True, slots=True)
class Baseline:
    """What is normal for one metric on one kind of hardware.

    Attributes:
        spread: in the unit of the values; 0 where there are too few.
        count: how many values it is made of.
        source: ``stored`` or ``this run``.
    """

    median: float
    spread: float
    count: int
    source: str = "this run"

    def limit(self, band: Band) -> float:
        """A value below this is slow."""
        wide = min(band.spreads * self.spread, self.median * band.widest_percent / 100)
        return self.median - max(self.median * band.percent / 100, wide)


def of_values(values: Iterable[float]) -> Baseline | None:
    """The baseline of what a fleet measured just now; None for fewer than two values.

    Of an even number the upper of the two middle values counts: with one bad node of two, the good one is the measure.
    """
    found = sorted(values)
    if len(found) < 2:
        return None
    median = statistics.median_high(found)
    spread = 1.4826 * statistics.median(abs(value - median) for value in found) if len(found) >= FEWEST_FOR_SPREAD else 0.0
    return Baseline(median, spread, len(found))


Stored = Mapping[str, Mapping[str, Baseline]]
"""Key of hardware and profile -> metric -> baseline."""


def key(kind: str, profile: str) -> str:
    """Where a kind's baselines are kept; other sizes give other speeds."""
    return f"{kind} / {profile}"


def parse(document: Any) -> dict[str, dict[str, Baseline]]:
    """The baselines of a stored document.

    Raises:
        ValueError: it is not one.
    """
    try:
        if document["version"] != VERSION:
            raise ValueError(f"its version is {document['version']}, not {VERSION}")
        return {
            str(name): {
                str(metric): Baseline(float(one["median"]), float(one["spread"]), int(one["count"]), "stored")
                for metric, one in entry["metrics"].items()
            }
            for name, entry in document["kinds"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a document of baselines: {type(error).__name__}: {error}") from None


def merged(document: Mapping[str, Any], new: Stored, *, time: float, run: str) -> dict[str, Any]:
    """The document with the baselines of a run put in; metrics and kinds that the run does not have stay.

    Args:
        document: what is stored so far, ``{}`` for nothing.
        time: of the run, in seconds since the epoch.
        run: its directory, for whoever asks where a number comes from.
    """
    kinds = {name: dict(entry) for name, entry in document.get("kinds", {}).items()}
    for name, metrics in new.items():
        old = kinds.get(name, {}).get("metrics", {})
        numbers = {
            metric: {"median": one.median, "spread": one.spread, "count": one.count, "time": time, "run": run}
            for metric, one in metrics.items()
        }
        kinds[name] = {"metrics": {**old, **numbers}}
    return {"version": VERSION, "kinds": kinds}
