"""Expressions of one value, however they are written."""

from __future__ import annotations

import pytest

from hpctrain.train.rewards.extract import boxed, last_number
from hpctrain.train.rewards.math_equal import equal, find_answer, math_reward
from hpctrain.train.rewards.math_parse import LONGEST, NotMathError, parse


@pytest.mark.parametrize(("one", "other"), [
    ("42", "42.0"), ("1/2", "0.5"), (r"\frac{1}{2}", "1/2"), (r"\dfrac12", "0.5"), (r"1\frac{1}{2}", "3/2"),
    ("1,234,567", "1234567"),
    ("-3", "−3"), ("$12.50$", "12.5"), (r"\$5", "5"), ("50%", "0.5"), ("50%", "50"), (r"50\%", "1/2"), ("2^10", "1024"),  # noqa: RUF001
    ("2**-1", "0.5"), ("-2^2", "-4"), ("2^3^2", "512"), (r"\sqrt{8}", r"2\sqrt{2}"), (r"\sqrt[3]{27}", "3"),
    ("(-8)^(1/3)", "-2"),
    ("5!", "120"), ("|-7|", "7"), (r"2\pi", "6.283185307179586"), (r"\sin(\pi/6)", "1/2"), ("x = 5", "5"),
    ("x^2+2x+1", "(x+1)^2"),
    ("2ab", "b*2*a"), (r"\frac{x}{2}", "0.5x"), ("(1, 2)", r"\left( 1,\, 2 \right)"), (r"\{3, 1\}", r"\{1, 3\}"),
    ("[0, 1)", "[0,1)"),
    ("1, 2", "1,2"), ("Paris", "paris."), (r"90^\circ", "90"), (r"7\text{ cm}", "7"), ("1e3", "1000"), (".5", "1/2"),
    ("5.", "5"),
])
def test_same_value(one: str, other: str) -> None:
    """Numbers, fractions, LaTeX, percentages, expressions with names, tuples, sets and words of one value are equal."""
    assert equal(one, other)
    assert equal(other, one)


@pytest.mark.parametrize(("one", "other"), [
    ("42", "43"), ("0.333", "1/3"), ("x", "y"), ("x+1", "x-1"), ("(1, 2)", "(2, 1)"), ("(0, 1)", "[0, 1]"),
    ("1/0", "1/0 + 1"),
    (r"\{1, 1\}", r"\{1, 2\}"), ("1, 2", "1, 2, 3"), ("ab", "abc"), ("Monday", "yMonda"), ("", "0"), ("50%", "5"),
    ("1,23", "123"),
    ("2^(10^9)", "2^(10^9)+1"), ("sqrt(-1)", "1"), ("12 34", "1234"),
])
def test_other_value(one: str, other: str) -> None:
    """What differs in value, order, brackets or letters, or has no value, is not equal."""
    assert not equal(one, other)


@pytest.mark.parametrize("text", [
    "((((" * 50, "9" * 5000, "1+" * 5, "sin " * 90 + "1", "()", "2^^3", r"\frac{1}", "a=b=c", "\0", "|1",
])
def test_nonsense_is_no_value(text: str) -> None:
    """What cannot be read, or is too long or too deep, is refused or has no value, and never hangs or crashes."""
    assert not equal(text, "12345")
    with pytest.raises(NotMathError):
        parse("1" * (LONGEST + 1))


def test_huge_powers_end_at_once() -> None:
    """Towers of powers and factorials are not computed exactly."""
    assert not equal("9^9^9^9", "1")
    assert not equal("999!", "1")
    assert equal("10^600 * 10^-600", "1")


@pytest.mark.parametrize(("text", "found"), [
    (r"so \boxed{\frac{1}{2}} it is", r"\frac{1}{2}"), ("3 plus 4 is 7.", "7"), ("it costs $1,234.50.", "$1,234.50"),
    ("none", None),
    (r"\boxed{1} no, \boxed{2}", "2"), (r"\boxed{3", "3"), ("from 3-5", "5"), ("it is -5", "-5"), ("3/4 of it", "3/4"),
])
def test_the_answer_is_found(text: str, found: str | None) -> None:
    """The last closed box counts, else the last number."""
    assert find_answer(text) == found


def test_boxes_and_numbers() -> None:
    """There may be neither."""
    assert boxed("no box") is None
    assert last_number("no number") is None


@pytest.mark.parametrize(("answer", "wanted", "reward"), [
    ("42", "42", 1.0), ("42", 42, 1.0), ("41", "42", 0.0), (None, "42", 0.0), ("42", None, None), ("2", ["1", "2"], 1.0),
    ("72", "6 x 12 = 72 apples\n#### 72", 1.0), ("0.5", r"The answer is \boxed{\frac12}.", 1.0),
])
def test_reward(answer: str | None, wanted: object, reward: float | None) -> None:
    """1 for the right value, 0 for another or none, None where the row has no answer; it may be a worked solution."""
    assert math_reward(answer, wanted) == reward
