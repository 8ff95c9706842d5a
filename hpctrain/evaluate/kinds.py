"""The kinds of suites: which file measures them, and how rows become numbers (service: it holds adapters)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hpctrain.evaluate.measures import Measure
from hpctrain.evaluate.suites import accuracy, function, harness, judge, perplexity, preference, reward
from hpctrain.evaluate.task import Record, Task


@dataclass(frozen=True, slots=True)
class ByRow:
    """Measured row by row, on all ranks at once.

    Attributes:
        measure: this rank's rows to records.
        summarise: the records of all ranks, in the order of their rows, to measures.
    """

    measure: Callable[[Task], list[Record]]
    summarise: Callable[[Sequence[Record]], list[Measure]]


@dataclass(frozen=True, slots=True)
class Whole:
    """Measured at once, on the first rank."""

    measure: Callable[[Task], list[Measure]]


KINDS: Mapping[str, ByRow | Whole] = {
    "perplexity": ByRow(perplexity.measure, perplexity.summarise),
    "accuracy": ByRow(accuracy.measure, accuracy.summarise),
    "preference": ByRow(preference.measure, preference.summarise),
    "reward": ByRow(reward.measure, reward.summarise),
    "judge": ByRow(judge.measure, judge.summarise),
    "harness": Whole(harness.measure_whole),
    "function": Whole(function.measure_whole),
}
