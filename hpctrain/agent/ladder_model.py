"""What the recovery ladder hears, and what it says (pure, standard library only); see :mod:`hpctrain.agent.ladder`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hpctrain.agent.decide import End
from hpctrain.agent.rank_plan import RankPlan
from hpctrain.agent.rank_result import RankExit
from hpctrain.detect.beat import Detection
from hpctrain.slurm.model import JobState
from hpctrain.watchdog.budget import Attempt, Cause, Verdict


class Stage(str, Enum):
    """Where the machine stands."""

    GATHER = "gather"
    RUN = "run"
    KILL = "kill"
    MEND = "mend"
    OVER = "over"


# -- events: each is something that has happened, with its time in seconds since the epoch -----------------------------


@dataclass(frozen=True, slots=True)
class Joined:
    """An agent has called: a new one, or one that calls again.

    Attributes:
        incarnation: of the ranks that it has, -1 for none.
        alive: those that run.
        exits: how the others ended.
    """

    time: float
    node: str
    incarnation: int = -1
    alive: tuple[int, ...] = ()
    exits: tuple[RankExit, ...] = ()


@dataclass(frozen=True, slots=True)
class Lost:
    """An agent is gone, or says nothing any more.

    Attributes:
        since: when it was last known to be there, seconds since the epoch; 0 if that is now.
    """

    time: float
    node: str
    why: str
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Down:
    """Slurm says that a node is down, or does not answer: no agent will come back there."""

    time: float
    node: str


@dataclass(frozen=True, slots=True)
class Ended:
    """Some ranks of a node have ended."""

    time: float
    node: str
    incarnation: int
    exits: tuple[RankExit, ...]


@dataclass(frozen=True, slots=True)
class Killed:
    """All ranks of a node are gone, with how each of them ended."""

    time: float
    node: str
    incarnation: int
    exits: tuple[RankExit, ...]


@dataclass(frozen=True, slots=True)
class NotStarted:
    """A node could not start its ranks."""

    time: float
    node: str
    incarnation: int
    problem: str
    exit_code: int = 1


@dataclass(frozen=True, slots=True)
class Detected:
    """A detector has found something that needs an action."""

    time: float
    detection: Detection


@dataclass(frozen=True, slots=True)
class StopAsked:
    """The ranks are to save and stop."""

    time: float
    reason: str


@dataclass(frozen=True, slots=True)
class Signalled:
    """This job was sent SIGTERM; what Slurm says about it."""

    time: float
    job_state: JobState | None


@dataclass(frozen=True, slots=True)
class StepEnded:
    """The ``srun`` that holds the agents has ended."""

    time: float
    exit_code: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed.

    Attributes:
        best_step: most steps completed so far, as far as is known.
    """

    time: float
    best_step: int | None = None


Event = Joined | Lost | Down | Ended | Killed | NotStarted | Detected | StopAsked | Signalled | StepEnded | Tick


def is_trouble(event: Event) -> bool:
    """Whether it may make ranks start again."""
    if isinstance(event, Ended):
        return any(one.returncode for one in event.exits)
    return isinstance(event, (Lost, Detected, NotStarted))


# -- commands ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Start ranks.

    Attributes:
        rung: ``R1`` or ``R2``, "" at the first start.
        attempt: the failure that made it necessary, to be recorded first.
    """

    ranks: RankPlan
    rung: str = ""
    attempt: Attempt | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something has failed: to be told at once, before anything is known of it but this.

    Attributes:
        fault_time: the best known time of the fault itself.
    """

    time: float
    fault_time: float
    cause: Cause
    reason: str
    detected_by: str
    ranks: tuple[int, ...] = ()
    nodes: tuple[str, ...] = ()
    signal: int = 0
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class Kill:
    """Kill all ranks.

    Attributes:
        stacks: write down first where each rank is.
    """

    incarnation: int
    reason: str
    stacks: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """Ask the ranks to save and stop."""

    reason: str


@dataclass(frozen=True, slots=True)
class Mend:
    """Try to have an agent on these nodes again."""

    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Forget:
    """Hang up on a node, and hear nothing from its present agent any more."""

    node: str


@dataclass(frozen=True, slots=True)
class Finish:
    """This start is over.

    Attributes:
        attempt: to be recorded; None where the work is done.
    """

    end: End
    verdict: Verdict
    attempt: Attempt | None = None


Command = Start | Fault | Kill | Stop | Mend | Forget | Finish
