"""A measurement that hangs, crashes or raises ends, and the others go on."""

from __future__ import annotations

import os
import signal
import time

from hpctrain.health.deep import forked


def hang() -> None:
    """As a kernel that never returns; takes no part in any clean end."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)


def crash() -> None:
    """As a driver that takes its process with it."""
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    """As a torch that runs out of memory."""
    raise RuntimeError("out of memory")


def test_every_end_has_an_answer() -> None:
    """In the order of the works, whatever became of each."""
    answers = forked.run_all([lambda: {"a": 1}, crash, fail], 60.0)

    assert {"a": 1} == answers[0].value
    assert "its process ended with signal 9" == answers[1].problem
    assert "RuntimeError: out of memory" == answers[2].problem


def test_what_hangs_is_ended() -> None:
    """At the deadline, though it ignores a polite request."""
    assert "it did not end within 1 s" == forked.run_one(hang, 1.0).problem


def test_a_large_answer_arrives_whole() -> None:
    """More than a pipe holds."""
    assert 300_000 == len(forked.run_one(lambda: "x" * 300_000, 30.0).value)
