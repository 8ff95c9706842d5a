"""Measures and their errors, answers, batches: plain values."""

from __future__ import annotations

import math
import random

import pytest

from hpctrain.evaluate.answers import is_right, last_number
from hpctrain.evaluate.batching import batches, common_prefix, windows
from hpctrain.evaluate.measures import HIGHER, LOWER, Measure, TextLoss, error_of_change, mean, ratio, text_measures


def test_mean_and_its_error() -> None:
    """The error of a mean is the sample's standard deviation divided by the root of its size."""
    found = mean("accuracy", [1.0, 0.0, 1.0, 1.0])

    assert 0.75 == found.value
    assert math.sqrt(0.25) / 2 == pytest.approx(found.error)
    assert (4, HIGHER) == (found.count, found.better)
    assert mean("accuracy", [1.0]).error is None
    assert mean("accuracy", []).value is None


def test_perplexity_is_per_token_over_all_rows() -> None:
    """Long rows weigh more: perplexity comes from all nats and all tokens, not from rows' own perplexities."""
    found = {one.name: one for one in text_measures([TextLoss(20.0, 10, 10), TextLoss(1.0, 1, 4)])}

    assert math.exp(21 / 11) == pytest.approx(found["perplexity"].value)
    assert 21 / 14 / math.log(2) == pytest.approx(found["bits_per_byte"].value)
    assert (11, LOWER) == (found["perplexity"].count, found["perplexity"].better)
    assert [None] == [one.value for one in text_measures([]) if one.name == "perplexity"]


def test_error_of_a_ratio_matches_many_draws() -> None:
    """The linearised error of a ratio is what drawing the rows again and again shows, within a tenth."""
    draw = random.Random(7)

    def rows() -> tuple[list[float], list[float]]:
        lengths = [float(draw.randint(5, 50)) for _ in range(200)]
        return [draw.gauss(2.0, 0.5) * length + draw.gauss(0, 3) for length in lengths], lengths

    values = [ratio("loss", *rows(), LOWER) for _ in range(300)]
    middle = sum(one.value or 0 for one in values) / len(values)
    seen = math.sqrt(sum(((one.value or 0) - middle) ** 2 for one in values) / (len(values) - 1))
    told = sum(one.error or 0 for one in values) / len(values)

    assert told == pytest.approx(seen, rel=0.1)


def test_models_on_the_same_rows_are_compared_row_by_row() -> None:
    """A small gain on every row is sure, although each model's own error is far larger."""
    before = [float(index % 10) for index in range(50)]
    after = [value + 0.1 + 0.01 * (index % 3) for index, value in enumerate(before)]
    first, last = mean("mark", before), mean("mark", after)

    paired, alone = error_of_change(first, last), error_of_change(first, Measure("mark", last.value, HIGHER, last.error))

    assert paired is not None
    assert alone is not None
    assert paired < 0.01 < alone


def test_a_measure_survives_json() -> None:
    """A measure read back is the one that was written."""
    found = mean("accuracy", [1.0, 0.0])

    assert found == Measure.from_json(found.to_json())


@pytest.mark.parametrize(("given", "expected", "match", "right"), [
    ("The answer is 12.", "12", "auto", True),
    ("12, no: 13", "12", "auto", False),
    ("It costs $1,250.50", "1250.5", "auto", True),
    ("so \\boxed{3/4} of 8", "0.75", "auto", True),
    ("-7", "7", "auto", False),
    ("  Paris. ", "paris", "auto", True),
    ("It is Paris.", "Paris", "auto", False),
    ("It is Paris.", "Paris", "contains", True),
    ("anything", "", "contains", False),
    ("twelve", "12", "auto", False),
    ("1/0", "1", "number", False),
    ("abc", "abc", "exact", True),
])
def test_right_answers(given: str, expected: str, match: str, right: bool) -> None:
    """Numbers are compared by value, words by what they say, and nothing counts as right by accident."""
    assert right == is_right(given, expected, match)


def test_a_number_of_any_length_is_no_trouble() -> None:
    """A model that writes digits without end gives no answer, and costs no time."""
    assert last_number("9" * 100_000) is None


def test_every_row_is_in_one_batch() -> None:
    """All rows come, once each, the longest first, and no batch is larger than it may be."""
    lengths = [3, 9, 1, 9, 4, 4, 2]
    found = batches(lengths, most_rows=3, most_tokens=20)

    assert list(range(7)) == sorted(index for batch in found for index in batch)
    assert 1 in found[0]
    assert all(len(batch) <= 3 and len(batch) * max(lengths[index] for index in batch) <= 20 for batch in found)
    assert [[0]] == batches([1000], most_rows=3, most_tokens=20)
    assert [] == batches([], 3)


def test_windows_predict_each_token_once() -> None:
    """Cut into windows, every token but the first is predicted exactly once, whatever the lengths."""
    for size in range(1, 25):
        tokens = list(range(size))
        for length in range(1, 12):
            predicted = [token for piece, first in windows(tokens, length) for token in piece[first:]]
            assert tokens[1:] == predicted
            assert all(len(piece) <= length + 1 for piece, _ in windows(tokens, length))


def test_common_prefix() -> None:
    """The length of what two sequences begin with alike."""
    pairs: list[tuple[list[int], list[int]]] = [([], [1]), ([1, 2], [1, 2, 3]), ([1, 2, 3], [1, 2, 4]), ([1], [2])]

    assert [0, 2, 2, 0] == [common_prefix(first, second) for first, second in pairs]
