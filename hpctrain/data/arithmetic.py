"""Sums and differences with answers that can be verified, made from nothing (pure).

The same everywhere and always: the order comes from a hash of each problem, not from a generator of random numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hpctrain.data.question_row import question_row

MOST = 10_000
"""Problems that are made at most, where there are more below the largest number."""


@dataclass(frozen=True, slots=True)
class Sum:
    """``left operator right``, with ``+`` or ``-`` and no negative number anywhere."""

    left: int
    operator: str
    right: int

    @property
    def question(self) -> str:
        """In words."""
        return f"What is {self.left} {self.operator} {self.right}?"

    @property
    def answer(self) -> int:
        """The right one."""
        return self.left + self.right if self.operator == "+" else self.left - self.right

    @property
    def wrong_answer(self) -> int:
        """One that is near, and not right: off by one, by two or by ten."""
        off = (1, -1, 2, 10, -10)[_number(self, "wrong") % 5]
        return self.answer + (off if self.answer + off >= 0 else -off)


def sums(largest: int) -> list[Sum]:
    """Different problems whose two numbers are at most ``largest``, in an order that looks random.

    All of them where there are no more than :data:`MOST`, else so many.
    """
    numbers = range(largest + 1)
    if len(numbers) * (3 * len(numbers) + 1) // 2 <= MOST:
        every = [Sum(left, "+", right) for left in numbers for right in numbers]
        every += [Sum(left, "-", right) for left in numbers for right in range(left + 1)]
        return sorted(every, key=lambda problem: _number(problem, "order"))
    found: dict[Sum, None] = {}
    turn = 0
    while len(found) < MOST:
        digest = hashlib.blake2b(f"{largest}/{turn}".encode(), digest_size=24).digest()
        one, two, kind = (int.from_bytes(digest[at : at + 8], "big") for at in (0, 8, 16))
        left, right = one % (largest + 1), two % (largest + 1)
        found[Sum(left, "+", right) if kind % 2 else Sum(max(left, right), "-", min(left, right))] = None
        turn += 1
    return list(found)


def arithmetic_rows(format_: str, largest: int) -> Iterator[dict[str, Any]]:
    """The problems as rows of a format."""
    for problem in sums(largest):
        yield question_row(format_, problem.question, str(problem.answer), str(problem.wrong_answer))


def _number(problem: Sum, purpose: str) -> int:
    text = f"{purpose}/{problem.left}{problem.operator}{problem.right}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
