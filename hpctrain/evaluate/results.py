"""What an evaluation found, as values and as JSON (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hpctrain.evaluate.measures import HIGHER, NEITHER, Measure, error_of_change

VERSION = 1
"""Of ``evaluation.json``; it grows when a key changes meaning or goes away."""
SURE = 2.0
"""A change of more than so many standard errors is told apart from chance."""


@dataclass(frozen=True, slots=True)
class SuiteResult:
    """One suite on one model.

    Attributes:
        name: of the suite, unique in the evaluation.
        kind: of the suite, as in the recipe.
        key: stands for what was measured on which model; results with the same key need not be measured again.
        measures: the first one is what the suite is about; none where there is a problem.
        rows: that were measured.
        seconds: it took.
        problem: why there are no measures, "" where there are.
        exit_code: that of the problem, as in docs/exit-codes.md.
        samples: a few rows with what the model wrote, for people.
    """

    name: str
    kind: str
    key: str
    measures: tuple[Measure, ...] = ()
    rows: int = 0
    seconds: float = 0.0
    problem: str = ""
    exit_code: int = 0
    samples: tuple[Mapping[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "name": self.name, "kind": self.kind, "key": self.key, "measures": [one.to_json() for one in self.measures],
            "rows": self.rows, "seconds": round(self.seconds, 3), "problem": self.problem, "exit_code": self.exit_code,
            "samples": [dict(sample) for sample in self.samples],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> SuiteResult:
        """Read :meth:`to_json` back.

        Raises:
            KeyError, TypeError, ValueError: it is not one.
        """
        return cls(
            name=str(record["name"]), kind=str(record["kind"]), key=str(record.get("key") or ""),
            measures=tuple(Measure.from_json(one) for one in record["measures"]), rows=int(record.get("rows") or 0),
            seconds=float(record.get("seconds") or 0.0), problem=str(record.get("problem") or ""),
            exit_code=int(record.get("exit_code") or 0), samples=tuple(dict(one) for one in record.get("samples") or ()),
        )


@dataclass(frozen=True, slots=True)
class ModelResult:
    """All suites on one model.

    Attributes:
        label: column of the tables: ``before`` and ``after``, or a model's own name.
        path: of its directory.
        parameters: how many numbers it has, 0 where it could not be loaded.
    """

    label: str
    path: str
    parameters: int = 0
    suites: tuple[SuiteResult, ...] = ()

    def suite(self, name: str) -> SuiteResult | None:
        """The result of one suite."""
        return next((one for one in self.suites if one.name == name), None)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Models and what they can do.

    Attributes:
        name: of the run or model that it is about.
        models: the one to compare with first.
        made_at: seconds since the epoch.
        hpctrain_version: that measured.
    """

    name: str
    models: tuple[ModelResult, ...]
    made_at: float = 0.0
    hpctrain_version: str = ""

    @property
    def problems(self) -> list[tuple[str, SuiteResult]]:
        """Label of the model and result of each suite that failed."""
        return [(model.label, one) for model in self.models for one in model.suites if one.problem]

    def with_result(self, label: str, result: SuiteResult) -> Evaluation:
        """The same with one more result, in place of an older one of that suite."""
        models = tuple(
            replace(model, suites=(*(one for one in model.suites if one.name != result.name), result))
            if model.label == label else model for model in self.models
        )
        return replace(self, models=models)

    def to_json(self) -> dict[str, Any]:
        """The document that ``evaluation.json`` holds."""
        return {
            "version": VERSION, "name": self.name, "made_at": round(self.made_at, 3),
            "hpctrain_version": self.hpctrain_version,
            "models": [
                {"label": model.label, "path": model.path, "parameters": model.parameters,
                 "suites": [one.to_json() for one in model.suites]} for model in self.models
            ],
            "changes": [line.to_json() for line in compare(self)] if len(self.models) > 1 else [],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Evaluation:
        """Read ``evaluation.json`` back.

        Raises:
            ValueError: it is not one, or of another version.
        """
        if not isinstance(record, Mapping) or record.get("version") != VERSION:
            raise ValueError(f"not an evaluation of version {VERSION}")
        try:
            models = tuple(
                ModelResult(str(one["label"]), str(one["path"]), int(one.get("parameters") or 0),
                            tuple(SuiteResult.from_json(suite) for suite in one["suites"]))
                for one in record["models"]
            )
            return cls(str(record["name"]), models, float(record.get("made_at") or 0.0),
                       str(record.get("hpctrain_version") or ""))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not an evaluation: {error!r}") from None


@dataclass(frozen=True, slots=True)
class Line:
    """One measure of all models.

    Attributes:
        values: by model, None where it was not measured.
        change: from the first model to the last, None where one of them is missing.
        verdict: ``better``, ``worse``, ``same``, ``unsure`` (less than SURE standard errors apart) or "" where neither
            direction is better or nothing can be said.
    """

    suite: str
    measure: str
    better: str
    values: tuple[Measure | None, ...]
    change: float | None
    verdict: str

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"suite": self.suite, "measure": self.measure, "better": self.better,
                "values": [None if one is None else one.value for one in self.values], "change": self.change,
                "verdict": self.verdict}


def compare(evaluation: Evaluation) -> list[Line]:
    """Every measure of every suite, in the order in which they were asked for."""
    lines = []
    names = dict.fromkeys(one.name for model in evaluation.models for one in model.suites)
    for suite in names:
        results = [model.suite(suite) for model in evaluation.models]
        measures = dict.fromkeys(one.name for result in results if result for one in result.measures)
        for name in measures:
            values = tuple(_find(result, name) for result in results)
            better = next(one.better for one in values if one is not None)
            lines.append(Line(suite, name, better, values, _change(values), _verdict(values, better)))
    return lines


def _find(result: SuiteResult | None, name: str) -> Measure | None:
    return next((one for one in result.measures if one.name == name), None) if result else None


def _ends(values: Sequence[Measure | None]) -> tuple[Measure, float, Measure, float] | None:
    first, last = values[0], values[-1]
    if len(values) < 2 or first is None or last is None or first.value is None or last.value is None:
        return None
    return first, first.value, last, last.value


def _change(values: Sequence[Measure | None]) -> float | None:
    ends = _ends(values)
    return None if ends is None else ends[3] - ends[1]


def _verdict(values: Sequence[Measure | None], better: str) -> str:
    ends = _ends(values)
    if ends is None or better == NEITHER:
        return ""
    first, was, last, is_now = ends
    if was == is_now:
        return "same"
    error = error_of_change(first, last)
    if error is None:
        return ""
    if abs(is_now - was) <= SURE * error:
        return "unsure"
    return "better" if (is_now > was) == (better == HIGHER) else "worse"
