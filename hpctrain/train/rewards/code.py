"""Reward for code that passes the row's tests (adapter over the sandbox).

A row's tests are Python text with assertions about the names that the answer defines, or a list. Each item of a list is
such a text, or ``{"input": ..., "output": ...}``: then the answer is a whole program, which reads one and must print
the other.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hpctrain.train.rewards.sandbox import Limits, remaining, run_python

_HARNESS = "sandbox_harness.py"
_MOST_AT_ONCE = 8


def code_rewards(answers: Sequence[str | None], tests: Sequence[Any], limits: Limits) -> list[float | None]:
    """For each answer the share of its tests that pass; 0 where no answer was found, None where the row has no tests.

    Args:
        limits: for one answer with all of its tests; those not reached when the time is over have not passed.
    """
    workers = max(1, min(_MOST_AT_ONCE, len(os.sched_getaffinity(0))))
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda pair: code_reward(pair[0], pair[1], limits), zip(answers, tests, strict=True)))


def code_reward(answer: str | None, tests: Any, limits: Limits) -> float | None:
    """See :func:`code_rewards`."""
    items = tests if isinstance(tests, (list, tuple)) else [tests]
    items = [item for item in items if item is not None]
    if not items:
        return None
    if answer is None or not answer.strip():
        return 0.0
    deadline = time.monotonic() + limits.seconds
    texts = [str(item) for item in items if not isinstance(item, Mapping)]
    passed = _assertions(answer, texts, limits) if texts else 0
    for item in items:
        if isinstance(item, Mapping) and (seconds := remaining(deadline)) > 0:
            passed += _prints(answer, item, Limits(seconds, limits.memory_bytes))
    return passed / len(items)


def _assertions(answer: str, texts: Sequence[str], limits: Limits) -> int:
    """How many of the texts run to their end without an exception."""
    word = secrets.token_hex(16)
    files = {f"test_{number}.py": text for number, text in enumerate(texts)}
    files |= {"answer.py": answer, _HARNESS: Path(__file__).with_name(_HARNESS).read_text(encoding="utf-8")}
    lines = run_python(files, [_HARNESS], limits, f"{word}\n").stdout.split("\n")
    return sum(f"{word} {number}" in lines for number in range(len(texts)))


def _prints(answer: str, item: Mapping[str, Any], limits: Limits) -> bool:
    """Whether the program prints what is wanted, but for blanks at the ends of lines and of the whole."""
    outcome = run_python({"answer.py": answer}, ["answer.py"], limits, str(item.get("input", "")))
    return outcome.ok and _lines(outcome.stdout) == _lines(str(item.get("output", "")))


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().split("\n")]
