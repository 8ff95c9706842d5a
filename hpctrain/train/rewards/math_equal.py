"""Reward for a mathematical expression of the right value (pure)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from hpctrain.train.rewards.extract import boxed, last_number
from hpctrain.train.rewards.math_parse import NotMathError, Tree, parse

Number = Fraction | float
_MOST_BITS = 4096
"""Exact fractions larger than this become floating-point numbers."""
_CLOSE = 1e-9
"""Relative difference within which floating-point numbers are one value. Decimals are exact: 0.333 is not 1/3."""
_POINTS = 6
"""Expressions with names in them are one when they agree at so many points."""
_LARGEST_FACTORIAL = 170

_FUNCTIONS: Mapping[str, Callable[[float], float]] = {
    "sin": math.sin, "cos": math.cos, "tan": math.tan, "ln": math.log, "log": math.log10, "exp": math.exp,
    "arcsin": math.asin, "arccos": math.acos, "arctan": math.atan,
}


def find_answer(text: str) -> str | None:
    r"""The answer in a text: what the last ``\boxed{}`` holds, else the last number, else None."""
    return boxed(text) or last_number(text)


def math_reward(answer: str | None, wanted: Any) -> float | None:
    """1 when both have the same value, 0 when not or when no answer was found; None when the row has no answer.

    Args:
        answer: as :func:`find_answer` or the recipe's own pattern found it.
        wanted: the row's answer, an expression or a text that ends in one; a list of them means that any will do.
    """
    if wanted is None:
        return None
    if answer is None:
        return 0.0
    accepted = wanted if isinstance(wanted, (list, tuple)) else [wanted]
    return float(any(_matches(answer, str(item)) for item in accepted))


def equal(one: str, other: str) -> bool:
    """Whether two expressions have one value; texts that are no expressions are compared as texts.

    A percent sign on one side alone may be left out: 50% is 50, as well as 1/2.
    """
    if _plain(one) == _plain(other):
        return True
    if _same_value(one, other):
        return True
    percent = [text.strip().rstrip("$ .").removesuffix("%").removesuffix("\\") for text in (one, other)]
    return one.count("%") + other.count("%") == 1 and _same_value(*percent)


def _matches(answer: str, wanted: str) -> bool:
    inner = boxed(wanted)
    if inner is not None:
        return equal(answer, inner)
    if equal(answer, wanted):
        return True
    try:
        parse(wanted)
    except (NotMathError, RecursionError):  # a worked solution: its last number is the answer
        number = last_number(wanted)
        return number is not None and equal(answer, number)
    return False


def _same_value(one: str, other: str) -> bool:
    try:
        return _same(parse(one), parse(other))
    except (NotMathError, RecursionError):
        return False


def _plain(text: str) -> str:
    return " ".join(text.replace("$", "").split()).rstrip(".").casefold()


def _same(one: Tree, other: Tree) -> bool:
    if one[0] == "list" or other[0] == "list":
        return one[0] == other[0] and _same_lists(one, other)
    names = sorted(_names(one) | _names(other))
    agreed = False
    for point in range(_POINTS if names else 1):
        values = {name: _sample(name, point) for name in names}
        left, right = evaluate(one, values), evaluate(other, values)
        if (left is None) != (right is None):
            return False
        if left is not None and right is not None:
            if not _close(left, right):
                return False
            agreed = True
    return agreed


def _same_lists(one: Tree, other: Tree) -> bool:
    left, right = list(one[2]), list(other[2])
    if len(left) != len(right) or one[1] != other[1]:
        return False
    if one[1] != "{}":
        return all(map(_same, left, right))
    for item in left:  # a set has no order
        found = next((place for place, wanted in enumerate(right) if _same(item, wanted)), None)
        if found is None:
            return False
        del right[found]
    return True


def _names(tree: Any) -> set[str]:
    if not isinstance(tree, tuple) or not tree or tree[0] == "number":
        return set()
    if tree[0] == "name":
        return set() if tree[1] == "pi" else {tree[1]}
    return {name for part in tree[1:] for name in (_names(part))}


def _sample(name: str, point: int) -> Fraction:
    """A fixed value of a name; other names and other points get others."""
    sign = -1 if point == _POINTS - 1 else 1
    return Fraction(sign * (7 * sum(map(ord, name)) % 97 + 13 * point + 5), 11 + point)


def evaluate(tree: Tree, names: Mapping[str, Number]) -> Number | None:
    """The value of a tree without lists, exact where it is a fraction; None where it has none (1/0, the root of -1).

    Args:
        names: a value for each name but ``pi``.
    """
    kind = tree[0]
    if kind == "number":
        return _sized(tree[1])
    if kind == "name":
        return math.pi if tree[1] == "pi" else names[tree[1]]
    if kind == "list":
        return None
    parts = [evaluate(part, names) for part in tree[1:]]
    if any(part is None for part in parts):
        return None
    try:
        return _sized(_apply(kind, [part for part in parts if part is not None]))
    except (ArithmeticError, ValueError):
        return None


def _apply(kind: str, parts: Sequence[Number]) -> Number:
    first, last = parts[0], parts[-1]
    if kind == "+":
        return first + last
    if kind == "-":
        return first - last
    if kind == "*":
        return first * last
    if kind == "/":
        return first / last
    if kind == "^":
        return _power(first, last)
    if kind == "sqrt":
        return _power(first, Fraction(1, 2))
    if kind == "negative":
        return -first
    if kind == "abs":
        return first if first >= 0 else -first
    if kind == "%":
        return first / 100
    return _factorial(first) if kind == "!" else _FUNCTIONS[kind](float(first))


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if exponent.denominator == 1 and _bits(base) * abs(exponent.numerator) <= _MOST_BITS:
            return Fraction(base ** exponent.numerator)
        if exponent.denominator == 2 and base >= 0:
            root = Fraction(math.isqrt(base.numerator), math.isqrt(base.denominator))
            if root * root == base and _bits(root) * abs(exponent.numerator) <= _MOST_BITS:
                return root ** exponent.numerator
    if isinstance(exponent, Fraction) and exponent.denominator % 2 and base < 0 and exponent.denominator > 1:
        return _odd_root(float(base), exponent)
    value = float(base) ** float(exponent)
    if isinstance(value, complex):
        raise ValueError("not real")
    return float(value)


def _odd_root(base: float, exponent: Fraction) -> float:
    """(-8)^(1/3) is -2."""
    sign = -1.0 if exponent.numerator % 2 else 1.0
    return float(sign * abs(base) ** float(exponent))


def _factorial(value: Number) -> Number:
    if not isinstance(value, Fraction) or value.denominator != 1 or not 0 <= value <= _LARGEST_FACTORIAL:
        raise ValueError("no factorial")
    return Fraction(math.factorial(value.numerator))


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _sized(value: Number) -> Number:
    if isinstance(value, Fraction) and _bits(value) > _MOST_BITS:
        value = float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ArithmeticError("too large")
    return value


def _close(one: Number, other: Number) -> bool:
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return one == other
    return math.isclose(float(one), float(other), rel_tol=_CLOSE, abs_tol=1e-12)
