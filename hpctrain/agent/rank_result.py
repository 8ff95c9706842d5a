"""How the ranks of a node ended (pure, standard library only)."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from hpctrain.train.environment import EXIT_DONE, EXIT_STOPPED


class NodeOutcome(str, Enum):
    """What a node's agent says when its ranks are gone."""

    DONE = "done"
    """All ranks ended with 0 and nobody had asked them to."""
    STOPPED = "stopped"
    """The ranks ended because they were asked to, or asked to be started again."""
    FAILED = "failed"
    """A rank of this node ended with an error."""
    ABORTED = "aborted"
    """The ranks were killed because of something elsewhere."""


@dataclass(frozen=True, slots=True)
class RankExit:
    """The end of one rank.

    Attributes:
        returncode: as from ``wait``: negative is the signal that ended it.
        time: when the agent noticed, in seconds since the epoch.
        message: the user's exception, from torch's error file or the last lines of output.
        traceback: the user's traceback if one was recorded.
        last_lines: the end of its output.
        by_agent: the agent killed it, because of another rank or on request; it says nothing about this rank.
    """

    rank: int
    node: str
    returncode: int
    time: float
    message: str = ""
    traceback: str = ""
    last_lines: tuple[str, ...] = ()
    by_agent: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain data for a message."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RankExit:
        """Read it back."""
        return cls(**{**data, "last_lines": tuple(data.get("last_lines", ()))})

    @property
    def exit_code(self) -> int:
        """Exit status as a shell shows it: 128 + signal for a killed rank."""
        return self.returncode if self.returncode >= 0 else 128 - self.returncode

    def describe(self) -> str:
        """``rank 3 on n1 ended with exit code 1``."""
        return f"rank {self.rank} on {self.node} {describe_exit(self.returncode)}"


def describe_exit(returncode: int) -> str:
    """``was killed by SIGKILL`` or ``ended with exit code 3``."""
    if returncode >= 0:
        return f"ended with exit code {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    return f"was killed by {name}"


def rank_failed(returncode: int, *, is_trainer: bool, stop_requested: bool) -> bool:
    """Whether this end of a rank is an error.

    Our trainer says with :data:`EXIT_STOPPED` that it wants to be started again. A user's script that was asked to
    stop may end as it likes, also by the signal that asked it.
    """
    if returncode == EXIT_DONE:
        return False
    return returncode != EXIT_STOPPED if is_trainer else not stop_requested


def outcome_of(exits: Iterable[RankExit], *, is_trainer: bool, stop_requested: bool, aborted: bool) -> NodeOutcome:
    """One word for the ends of all ranks of a node.

    A script of the user's that ended everywhere with 0 after a stop request has stopped: only it knows whether there
    is more to do, and starting it again is the safe reading.
    """
    codes = [rank_exit.returncode for rank_exit in exits if not rank_exit.by_agent]
    if aborted:
        return NodeOutcome.ABORTED
    if any(rank_failed(code, is_trainer=is_trainer, stop_requested=stop_requested) for code in codes):
        return NodeOutcome.FAILED
    if is_trainer:
        return NodeOutcome.STOPPED if EXIT_STOPPED in codes else NodeOutcome.DONE
    return NodeOutcome.STOPPED if stop_requested else NodeOutcome.DONE


TOGETHER_S = 1.0
"""Failures of ranks within so short a time belong together: nodes' clocks differ, and news travels."""


def first_failure(exits: Iterable[RankExit]) -> RankExit | None:
    """The rank that failed first: the others usually failed because of it.

    Of those that failed together one that a signal killed comes first: a connection that breaks kills nobody.

    Args:
        exits: ends that are errors.
    """
    failed = sorted(exits, key=lambda one: one.time)
    together = [one for one in failed if one.time - failed[0].time <= TOGETHER_S]
    return min(together, key=lambda one: (one.returncode >= 0, one.time), default=None)
