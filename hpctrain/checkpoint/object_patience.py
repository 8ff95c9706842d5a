"""Trying again, with a bound, what an object store did not do at once (service over a clock).

A store answers 500, "slow down", nothing, or half an answer, and a second later works. Whatever it does, the caller has its
result or its error after a bounded time.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """How long things may take.

    Attributes:
        call_s: one request, besides the time that its bytes may take.
        slowest_bytes_per_s: a transfer that is slower counts as one that hangs.
        patience_s: from the first failure of an operation to the last try.
        first_wait_s: before the second try; doubled for each one after it.
        longest_wait_s: between two tries.
    """

    call_s: float = 30.0
    slowest_bytes_per_s: float = 1024 * 1024
    patience_s: float = 120.0
    first_wait_s: float = 0.25
    longest_wait_s: float = 10.0

    def timeout_s(self, size_bytes: int = 0) -> float:
        """For a request that moves so many bytes."""
        return self.call_s + size_bytes / self.slowest_bytes_per_s


class Patience:
    """Tries again until it works, the error is final, or the patience ends.

    Args:
        is_final: whether trying again is useless after this error.
    """

    def __init__(
        self, limits: Limits, is_final: Callable[[BaseException], bool], *, clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._limits, self._is_final, self._clock, self._sleep = limits, is_final, clock, sleep

    def __call__(self, operation: Callable[[], T]) -> T:
        """Its result, or the error of the last try."""
        wait_s, end = self._limits.first_wait_s, 0.0
        while True:
            try:
                return operation()
            except Exception as error:
                now = self._clock()
                end = end or now + self._limits.patience_s
                if self._is_final(error) or now + wait_s > end:
                    raise
            # Many ranks meet the same failure at the same time: they must not all come back at the same time.
            self._sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads tries, hides nothing
            wait_s = min(2 * wait_s, self._limits.longest_wait_s)
