"""Stacks of all ranks: read, grouped, and who is to be looked at."""

from __future__ import annotations

import json

import pytest

from hpctrain.detect.stacks import (
    Frame,
    Stack,
    Thread,
    cluster,
    from_faulthandler,
    from_py_spy,
    minority,
    parse,
    render,
    summary,
)

REDUCE = (Frame("all_reduce", "/x/site-packages/torch/distributed/distributed_c10d.py", 10), Frame("train", "/x/loop.py", 5))
FETCH = (Frame("next_share", "/x/data.py", 70), Frame("train", "/x/loop.py", 4))


def stack(rank: int, frames: tuple[Frame, ...], state: str = "S") -> Stack:
    """A rank with one thread."""
    return Stack(rank, 100 + rank, state, "futex_wait", "read by py-spy", (Thread("MainThread", True, frames),))


def test_the_text_form_reads_back() -> None:
    """What is written into the run directory is understood again, all threads of it."""
    one = Stack(3, 42, "T", "do_signal_stop", "read by py-spy", (
        Thread("MainThread", True, REDUCE), Thread("pin memory", False, (Frame("<lambda>", "<string>", 1),))))

    assert parse(render(one)) == one
    assert parse(render(stack(1, ()))) == stack(1, ())
    assert parse("anything else") is None
    assert parse("") is None


def test_py_spy_is_read() -> None:
    """Its JSON gives names, files, lines, and which thread is the main one."""
    frame = {"name": "f", "filename": "/a/b.py", "line": 7, "module": None}
    text = json.dumps([
        {"pid": 5, "thread_id": 1, "thread_name": "io", "os_thread_id": 6, "frames": []},
        {"pid": 5, "thread_id": 2, "thread_name": None, "os_thread_id": 5, "frames": [frame]},
    ])

    threads = from_py_spy(text, 5)

    assert [thread.is_main for thread in threads] == [False, True]
    assert threads[1].frames == (Frame("f", "/a/b.py", 7),)
    for wrong in ("", "{}", "[1]", '[{"pid": 5}]'):
        with pytest.raises(ValueError):
            from_py_spy(wrong or "x", 5)


def test_the_faulthandler_is_read() -> None:
    """Its last thread is the main one, and of two dumps the newer counts."""
    old = 'Thread 0x01 (most recent call first):\n  File "/a.py", line 1 in old\n'
    new = (
        'Thread 0x00007f02 [worker] (most recent call first):\n  File "/t.py", line 3 in run\n\n'
        'Current thread 0x01 (most recent call first):\n  File "/a.py", line 2 in f\n  File "/a.py", line 9 in <module>\n')

    threads = from_faulthandler(old + new)

    assert threads[-1].is_main
    assert threads[-1].frames == (Frame("f", "/a.py", 2), Frame("<module>", "/a.py", 9))


def test_the_one_that_stands_elsewhere_is_named() -> None:
    """Seven ranks wait for one that fetches data."""
    stacks = [stack(rank, FETCH if rank == 3 else REDUCE) for rank in range(8)]

    assert minority(cluster(stacks)) == (3,)
    text = summary(stacks, {3: "n2"})
    assert "ranks 0, 1, 2, 4, 5, 6, 7: waiting for other ranks in all_reduce (distributed_c10d.py:10)" in text
    assert "called from train (loop.py:5)" in text
    assert text.endswith("To look at first: rank 3 on n2")


def test_of_two_ranks_the_one_that_does_not_wait_is_named() -> None:
    """Without a majority, who waits in a collective is not to blame."""
    assert minority(cluster([stack(0, FETCH), stack(1, REDUCE)])) == (0,)


def test_a_stopped_rank_is_named_wherever_it_stands() -> None:
    """A stopped or blocked process explains itself, also in the same function as the others."""
    stacks = [stack(rank, REDUCE, "T" if rank == 1 else "S") for rank in range(4)]

    assert minority(cluster(stacks)) == (1,)
    assert "the process is stopped" in summary(stacks)


def test_where_all_stand_alike_nobody_is_named() -> None:
    """Lines may differ, as in a loop that polls; functions do not."""
    stacks = [stack(rank, (Frame("poll", "/x/loop.py", rank), *REDUCE)) for rank in range(4)]

    assert len(cluster(stacks)) == 1
    assert minority(cluster(stacks)) == ()
    assert summary(stacks).startswith("all: ")


def test_nothing_could_be_read() -> None:
    """Without any stack, and with ranks whose threads could not be read, the summary says so."""
    assert summary([]) == "no rank's stack could be read"
    assert "could not be read" in summary([stack(0, ()), stack(1, ())])
