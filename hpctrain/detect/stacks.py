"""What the stacks of all ranks tell about a hang (pure).

One text form for all sources::

    rank 3, process 1234: state S (sleeping), in futex_wait_queue; read by py-spy
    thread MainThread (main)
        next_share (/x/hpctrain/train/data.py:70)
        train_step (/x/hpctrain/train/loop.py:176)

Ranks whose main threads stand in the same functions are a group. Ranks that compute together wait for each other, so that
the few that stand elsewhere, or whose process is stopped, are the ones to look at.
"""

from __future__ import annotations

import json
import os.path
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpctrain.recipe.units import several

STATES: Mapping[str, str] = {
    "R": "running", "S": "sleeping", "D": "waiting for a disk, a file server or a driver", "T": "stopped", "t": "traced",
    "Z": "ended", "X": "ended", "I": "idle",
}
SUSPECT_STATES = ("T", "D", "Z", "X")
WAITING = (
    "all_reduce", "all_gather", "reduce_scatter", "broadcast", "barrier", "monitored_barrier", "_engine_run_backward",
    "synchronize", "all_to_all", "recv", "irecv", "wait", "reduce", "gather", "scatter", "_wait_for_result",
)
"""Functions (or the beginnings of their names) in which a rank waits for others."""
_INNERMOST = 4
_HEADER = re.compile(r"^rank (\d+), process (\d+): state (\S) \(([^)]*)\)(?:, in (\S+))?; (.*)$")
_THREAD = re.compile(r"^thread (.*?)( \(main\))?$")
_FRAME = re.compile(r"^ {4}(.*) \((.*):(\d+)\)$")
_FAULT_THREAD = re.compile(r"^(?:Current thread|Thread) (0x[0-9a-f]+)(?: \[([^\]]*)\])? \(most recent call first\):")
_FAULT_FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$')


@dataclass(frozen=True, slots=True)
class Frame:
    """One call.

    Attributes:
        function: its name, with its class where that is known.
    """

    function: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.function} ({os.path.basename(self.file)}:{self.line})"  # noqa: PTH119 - paths of another machine


@dataclass(frozen=True, slots=True)
class Thread:
    """One thread, its innermost call first."""

    name: str
    is_main: bool
    frames: tuple[Frame, ...]


@dataclass(frozen=True, slots=True)
class Stack:
    """What one rank did.

    Attributes:
        state: of the process, as the kernel calls it: ``S``, ``T``, ``D`` ...
        kernel: the kernel function that its main thread sleeps in, "" where that is not told.
        source: who has read the threads, or why nobody could.
    """

    rank: int
    pid: int
    state: str
    kernel: str = ""
    source: str = ""
    threads: tuple[Thread, ...] = ()

    @property
    def main(self) -> tuple[Frame, ...]:
        """The main thread's calls, () if they could not be read."""
        return next((thread.frames for thread in self.threads if thread.is_main), ())


@dataclass(frozen=True, slots=True)
class Group:
    """Ranks that stand in the same place.

    Attributes:
        frames: of one of them.
        waits: they wait for other ranks there.
    """

    ranks: tuple[int, ...]
    state: str
    frames: tuple[Frame, ...]
    waits: bool


def render(stack: Stack) -> str:
    """The text form; :func:`parse` reads it back."""
    place = f", in {stack.kernel}" if stack.kernel else ""
    word = STATES.get(stack.state, "unknown")
    lines = [f"rank {stack.rank}, process {stack.pid}: state {stack.state} ({word}){place}; {stack.source}"]
    for thread in sorted(stack.threads, key=lambda one: not one.is_main):
        lines.append(f"thread {thread.name}{' (main)' if thread.is_main else ''}")
        lines += [f"    {frame.function} ({frame.file}:{frame.line})" for frame in thread.frames]
    return "\n".join(lines) + "\n"


def parse(text: str) -> Stack | None:
    """Read the text form; None if it is none. Lines that are not understood are passed over."""
    lines = text.splitlines()
    header = _HEADER.match(lines[0]) if lines else None
    if header is None:
        return None
    threads: list[tuple[str, bool, list[Frame]]] = []
    for line in lines[1:]:
        if frame := _FRAME.match(line):
            if threads:
                threads[-1][2].append(Frame(frame[1], frame[2], int(frame[3])))
        elif thread := _THREAD.match(line):
            threads.append((thread[1], thread[2] is not None, []))
    return Stack(
        int(header[1]), int(header[2]), header[3], header[5] or "", header[6],
        tuple(Thread(name, is_main, tuple(frames)) for name, is_main, frames in threads),
    )


def from_py_spy(text: str, pid: int) -> tuple[Thread, ...]:
    """The threads in the JSON of ``py-spy dump --json``.

    Raises:
        ValueError: it is something else.
    """
    try:
        return tuple(
            Thread(
                str(item["thread_name"] or item["thread_id"]), _is_main(item, pid),
                tuple(Frame(str(frame["name"]), str(frame["filename"]), int(frame["line"])) for frame in item["frames"]),
            ) for item in _list(json.loads(text))
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not what py-spy writes: {error!r}") from None


def _list(document: Any) -> list[Any]:
    if not isinstance(document, list):
        raise TypeError(f"a {type(document).__name__}")
    return document


def _is_main(item: Mapping[str, Any], pid: int) -> bool:
    number = item["os_thread_id"]
    return bool(number == pid if number is not None else item["thread_name"] == "MainThread")


def from_faulthandler(text: str) -> tuple[Thread, ...]:
    """The threads in the newest dump of Python's faulthandler; the last thread of a dump is the main one."""
    threads: list[tuple[str, list[Frame]]] = []
    for line in text.splitlines():
        if head := _FAULT_THREAD.match(line):
            if any(name == head[1] for name, _ in threads):
                threads = []  # a dump that was written after the first
            threads.append((head[1], []))
        elif threads and (frame := _FAULT_FRAME.match(line)):
            threads[-1][1].append(Frame(frame[3], frame[1], int(frame[2])))
    last = len(threads) - 1
    return tuple(Thread(name, index == last, tuple(frames)) for index, (name, frames) in enumerate(threads))


def cluster(stacks: Sequence[Stack]) -> list[Group]:
    """Ranks in the same functions together, the largest group first."""
    groups: dict[tuple[object, ...], list[Stack]] = {}
    for stack in sorted(stacks, key=lambda one: one.rank):
        state = stack.state if stack.state in SUSPECT_STATES else ""
        groups.setdefault((state, *((frame.function, frame.file) for frame in stack.main)), []).append(stack)
    found = [
        Group(tuple(one.rank for one in same), same[0].state if same[0].state in SUSPECT_STATES else "", same[0].main,
              _waits(same[0].main)) for same in groups.values()
    ]
    return sorted(found, key=lambda group: (-len(group.ranks), group.ranks))


def minority(groups: Sequence[Group]) -> tuple[int, ...]:
    """The ranks to look at: stopped or blocked ones; else those that do not wait while most do; else the few.

    () where all stand alike, or no group is larger than the others.
    """
    odd = [group for group in groups if group.state]
    if not odd and len(groups) > 1:
        waiting = sum(len(group.ranks) for group in groups if group.waits)
        odd = [group for group in groups if not group.waits and group.frames] if waiting else []
        if not odd and len(groups[0].ranks) > len(groups[1].ranks):
            odd = list(groups[1:])
    return tuple(sorted(rank for group in odd for rank in group.ranks))


def summary(stacks: Sequence[Stack], nodes: Mapping[int, str] | None = None) -> str:
    """One paragraph: who stands where, and who is to be looked at.

    Args:
        nodes: of the ranks, where known.
    """
    if not stacks:
        return "no rank's stack could be read"
    groups, total = cluster(stacks), len(stacks)
    suspects = minority(groups)
    parts = []
    for group in groups[:5]:
        who = "all" if len(group.ranks) == total and total > 1 else _ranks(group.ranks, nodes)
        parts.append(f"{who}: {_place(group)}")
    if len(groups) > 5:
        parts.append(f"{several(len(groups) - 5, 'more group')}")
    text = "; ".join(parts)
    return f"{text}. To look at first: {_ranks(suspects, nodes)}" if suspects else text


def _place(group: Group) -> str:
    state = f"the process is {STATES[group.state]}" if group.state else ""
    if not group.frames:
        return state or "the stack could not be read"
    inner = group.frames[0]
    caller = next((frame for frame in group.frames[1:] if _is_users(frame)), None)
    where = f"{'waiting for other ranks ' if group.waits else ''}in {inner}" + (f", called from {caller}" if caller else "")
    return f"{state}, {where}" if state else where


def _is_users(frame: Frame) -> bool:
    """Not inside an installed package or Python's own library."""
    ours = "/hpctrain/agent/" in frame.file  # what runs a program in a forked process
    return not ours and "site-packages" not in frame.file and "/lib/python" not in frame.file and frame.file[:1] != "<"


def _ranks(ranks: Sequence[int], nodes: Mapping[int, str] | None) -> str:
    if len(ranks) == 1:
        node = (nodes or {}).get(ranks[0])
        return f"rank {ranks[0]}" + (f" on {node}" if node else "")
    shown = ", ".join(str(rank) for rank in ranks[:8])
    return f"ranks {shown}" + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")


def _waits(frames: Sequence[Frame]) -> bool:
    names = [frame.function.rpartition(".")[2] for frame in frames[:_INNERMOST]]
    return any(name == word or name.startswith(f"{word}_") for name in names for word in WAITING)
