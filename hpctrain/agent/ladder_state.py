"""What the recovery ladder knows of one start of the job (pure, standard library only); see :mod:`hpctrain.agent.ladder`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hpctrain.agent.decide import End, History, Limits
from hpctrain.agent.ladder_model import Fault, Stage
from hpctrain.agent.rank_plan import RankPlan
from hpctrain.agent.rank_result import NodeOutcome, RankExit, first_failure, outcome_of, rank_failed
from hpctrain.detect.beat import Detection
from hpctrain.slurm.model import JobState
from hpctrain.watchdog.budget import Attempt, BudgetLimits, Cause, Verdict


@dataclass
class LadderState:
    """What the machine knows.

    Args:
        nodes: of the allocation, in Slurm's order.
        wanted: how many of them train.
        in_place: failures may be mended within the allocation.
        attempts: the failures of the run so far, oldest first.
    """

    nodes: tuple[str, ...]
    wanted: int
    ranks_per_node: int
    history: History
    limits: Limits
    budget: BudgetLimits
    attempts: list[Attempt] = field(default_factory=list)
    in_place: bool = True
    stage: Stage = Stage.GATHER
    ranks: RankPlan | None = None
    started: float = 0.0
    """When the present incarnation was started."""

    def __post_init__(self) -> None:
        self.live: set[str] = set()
        self._lost: dict[str, str] = {}
        self.exits: dict[int, RankExit] = {}
        self._waiting: set[str] = set()
        self._began: float | None = None
        self._enough: float | None = None
        self._deadline = 0.0
        self._fault: Fault | None = None
        self._detection: Detection | None = None
        self._problem, self._exit_code, self._hopeless = "", 0, ""
        self._stop_reason = ""
        self._terminated = False
        self._job_state: JobState | None = None
        self._best_step = self.history.best_step
        self._pending: tuple[End, Attempt, Verdict] | None = None
        self._first_done: float | None = None
        self._adopted: set[str] = set()
        self._sick: set[str] = set()
        self._down_nodes: set[str] = set()

    # -- what is known -------------------------------------------------------------------------------------------------

    def _take(self, exits: Sequence[RankExit]) -> None:
        for one in exits:
            # A later report of the same end knows more: the rank's own words.
            self.exits[one.rank] = one

    @property
    def is_told_to_end(self) -> bool:
        """This job was sent SIGTERM, and that is being dealt with."""
        return self._terminated

    @property
    def _told_to_stop(self) -> bool:
        """The ranks know that they are to stop: through us, or by Slurm's SIGTERM, which reaches them as well as us."""
        return self._terminated or bool(self._stop_reason and self.limits.tells_to_stop)

    def _is_failure(self, one: RankExit) -> bool:
        return not one.by_agent and rank_failed(
            one.returncode, is_trainer=self.limits.is_trainer, stop_requested=self._told_to_stop)

    def _lost_training(self) -> tuple[str, ...]:
        return tuple(node for node in self.ranks.nodes if node in self._lost) if self.ranks else tuple(self._lost)

    def _end(self, now: float) -> End:
        exits = sorted(self.exits.values(), key=lambda one: one.rank)
        failure = first_failure([one for one in exits if self._is_failure(one)])
        complete = self.ranks is not None and len(exits) == self.ranks.world_size
        outcome = outcome_of(
            exits, is_trainer=self.limits.is_trainer, stop_requested=self._told_to_stop,
            aborted=not complete or any(one.by_agent for one in exits))
        well = complete and outcome in (NodeOutcome.DONE, NodeOutcome.STOPPED)
        lost = self._lost_training()
        fault = self._fault
        cause = Cause.NODE if lost else fault.cause if fault else Cause.RANK
        problem = self._problem or (fault.reason if fault and fault.cause is not Cause.RANK else "")
        if lost and not self._problem:
            problem = "; ".join(dict.fromkeys(self._lost[node] for node in lost))
        blamed = self._detection.nodes if self._detection is not None and self._detection.action == "swap" else ()
        return End(
            done=well and outcome is NodeOutcome.DONE, stopped=well and outcome is NodeOutcome.STOPPED,
            stop_reason=self._stop_reason, failure=None if well else failure, cause=cause, lost_nodes=lost,
            blamed_nodes=blamed, problem=problem, exit_code=self._exit_code, hopeless=self._hopeless,
            terminated=self._terminated, job_state=self._job_state, best_step=self._best_step,
            ran_s=now - self.started if self.started else 0.0,
        )
