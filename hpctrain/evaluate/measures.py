"""Numbers of an evaluation, and how sure they are (pure).

Errors are standard errors over rows: the rows are taken as a sample of what the model will meet. Two models that were
measured on the same rows are compared row by row, which is surer than their errors by themselves suggest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

HIGHER, LOWER, NEITHER = "higher", "lower", ""
"""Which way is better; NEITHER for what only describes."""
PAIRED_ROWS = 2000
"""Up to so many rows a measure keeps what each of them contributes."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One number.

    Attributes:
        name: such as ``accuracy``; unique in its suite.
        value: None where it is no finite number.
        better: HIGHER, LOWER or NEITHER.
        error: standard error of the value, None where it is not known.
        count: what it is over: rows, pairs or tokens; 0 where that is not known.
        influence: by row, how far it moves the value; ``error`` is the square root of the sum of their squares, but for a
            factor n / (n - 1). Empty where there are more than PAIRED_ROWS rows.
    """

    name: str
    value: float | None
    better: str = HIGHER
    error: float | None = None
    count: int = 0
    influence: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"name": self.name, "value": self.value, "better": self.better, "error": self.error, "count": self.count,
                "influence": [float(f"{one:.5g}") for one in self.influence]}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Measure:
        """Read :meth:`to_json` back.

        Raises:
            KeyError, TypeError, ValueError: it is not one.
        """
        return cls(
            name=str(record["name"]), value=_number(record["value"]), better=str(record.get("better", HIGHER)),
            error=_number(record.get("error")), count=int(record.get("count") or 0),
            influence=tuple(float(one) for one in record.get("influence") or ()),
        )


@dataclass(frozen=True, slots=True)
class TextLoss:
    """What predicting one row cost.

    Attributes:
        nats: sum of the negative log-likelihoods (natural logarithm) of its tokens.
        tokens: how many were predicted.
        size_bytes: UTF-8 bytes of the text that they stand for.
    """

    nats: float
    tokens: int
    size_bytes: int


def mean(name: str, values: Sequence[float], better: str = HIGHER) -> Measure:
    """The mean over rows, with its standard error from two rows on."""
    return ratio(name, values, [1.0] * len(values), better)


def ratio(name: str, parts: Sequence[float], wholes: Sequence[float], better: str, *, count: int | None = None) -> Measure:
    """The sum of ``parts`` divided by that of ``wholes``; each row has one of both.

    The error is linearised, as in survey sampling, since rows with a large whole weigh more.

    Args:
        count: what the measure is over; default: rows.
    """
    total = math.fsum(wholes)
    number = len(parts) if count is None else count
    if not total:
        return Measure(name, None, better, None, number)
    value = math.fsum(parts) / total
    if not math.isfinite(value):
        return Measure(name, None, better, None, number)
    influence = tuple((part - value * whole) / total for part, whole in zip(parts, wholes, strict=True))
    kept = influence if len(influence) <= PAIRED_ROWS else ()
    return Measure(name, value, better, standard_error(influence), number, kept)


def text_measures(losses: Sequence[TextLoss]) -> list[Measure]:
    """Perplexity per token, its logarithm, and bits per byte, which also compares models whose tokenizers differ."""
    nats = [loss.nats for loss in losses]
    tokens, sizes = [loss.tokens for loss in losses], [loss.size_bytes for loss in losses]
    per_token = ratio("loss_per_token", nats, tokens, LOWER, count=sum(tokens))
    bits = [value / math.log(2) for value in nats]
    per_byte = ratio("bits_per_byte", bits, sizes, LOWER, count=sum(sizes))
    return [_perplexity(per_token), per_token, *([per_byte] if sum(sizes) else [])]


def _perplexity(loss: Measure) -> Measure:
    if loss.value is None or loss.value > 700:
        return Measure("perplexity", None, LOWER, None, loss.count)
    value = math.exp(loss.value)
    error = None if loss.error is None else value * loss.error
    return Measure("perplexity", value, LOWER, error, loss.count, tuple(value * one for one in loss.influence))


def standard_error(influence: Sequence[float]) -> float | None:
    """Of a value to which each row contributes so much; None for fewer than two rows."""
    count = len(influence)
    if count < 2:
        return None
    return math.sqrt(math.fsum(one * one for one in influence) * count / (count - 1))


def error_of_change(first: Measure, last: Measure) -> float | None:
    """Standard error of the difference: row by row where both know their rows, else as of two independent samples."""
    if first.influence and len(first.influence) == len(last.influence):
        return standard_error([after - before for before, after in zip(first.influence, last.influence, strict=True)])
    if first.error is None or last.error is None:
        return None
    return math.hypot(first.error, last.error)


def _number(value: Any) -> float | None:
    found = None if value is None else float(value)
    return found if found is not None and math.isfinite(found) else None
