"""The faults that a drill can cause, and what is promised about each (pure).

A promise names the rung of the recovery ladder that holds the fault, and how long it may take from the fault to the first
new step, Slurm's queue not counted. The times are the aims of docs/recovery.md on an otherwise idle machine; a lower rung
than the promised one keeps a promise too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hpctrain.errors import NotFoundError
from hpctrain.jobs.incident import CANCELLED, RECOVERED

UNHARMED = "unharmed"
"""Training goes on as if nothing had happened."""
REPLACED = "coordinator.replaced"
"""No event: what a drill itself sees when another coordinator signs control/coordinator.json."""
R1_S, R2_S, R3_S = 1.2, 10.0, 20.0
ORPHANED_S = 60.0
"""Agents wait half a minute for a silent coordinator before one of them has the job queued again."""

ANYWHERE, PRIVATE, HEALTH = "anywhere", "private cluster", "private cluster with --health"
LOCAL = PRIVATE
"""What is done to a process at the right moment has to be done from the same host."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a promise depends on.

    Attributes:
        spares: nodes of the allocation that could take a lost one's place.
        is_trainer: the job runs our own trainer, which says where it stands and restores from memory.
        peers: nodes keep copies of each other's checkpoints.
    """

    spares: int = 0
    is_trainer: bool = True
    peers: bool = True


@dataclass(frozen=True, slots=True)
class Promise:
    """What must happen.

    Attributes:
        outcome: ``recovered``, ``cancelled`` or ``unharmed``.
        rungs: those that may bring the job back, the lowest first; lower ones than these are as good.
        causes: what the records may call it; none means anything.
        within_s: from the fault to the first new step, without Slurm's queue; None promises no time.
        expects: kinds of events that have to appear.
        words: the promise as a sentence.
    """

    outcome: str
    rungs: tuple[str, ...] = ()
    causes: tuple[str, ...] = ()
    within_s: float | None = None
    expects: tuple[str, ...] = ()
    words: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault.

    Attributes:
        what: what is done, as a clause.
        needs: where it can be caused: ``anywhere``, or only on a private cluster.
        promise: what must happen in a given place.
        random: ``--random`` may choose it: the job goes on afterwards, and nothing has to be mended by hand.
        takes: what of the job it names: ``rank``, ``node``, or "".
    """

    name: str
    what: str
    needs: str
    promise: Callable[[Place], Promise]
    random: bool = True
    takes: str = ""


def kind_named(name: str) -> Kind:
    """The kind of this name. Raises NotFoundError."""
    if name not in KINDS:
        raise NotFoundError(f"no drill '{name}'", hint="the drills are: " + ", ".join(KINDS))
    return KINDS[name]


def _respawn(*causes: str, within_s: float | None = R1_S) -> Callable[[Place], Promise]:
    def promise(place: Place) -> Promise:
        limit = within_s if place.is_trainer else None
        return Promise(RECOVERED, ("R1",), causes, limit, words="all ranks start again on the same nodes, from memory")

    return promise


def _agent(within_s: float) -> Callable[[Place], Promise]:
    def promise(place: Place) -> Promise:
        how = "a spare node takes over" if place.spares else "its node gets another agent"
        return Promise(RECOVERED, ("R1", "R2"), ("agent", "node"), within_s if place.is_trainer else None,
                       words=f"{how}; the state comes from the peer's memory")

    return promise


def _node(*causes: str, within: bool = True) -> Callable[[Place], Promise]:
    def promise(place: Place) -> Promise:
        if place.spares:
            limit = R2_S if within and place.is_trainer else None
            return Promise(RECOVERED, ("R2",), causes, limit, words="a spare node takes its place; the others keep theirs")
        return Promise(RECOVERED, ("R3",), causes, R3_S if within else None,
                       words="without a spare the job is queued again and leaves the node")

    return promise


def _requeue(*causes: str, within_s: float | None, words: str) -> Callable[[Place], Promise]:
    return lambda _: Promise(RECOVERED, ("R3",), causes, within_s, words=words)


def _unharmed(words: str, *expects: str) -> Callable[[Place], Promise]:
    return lambda _: Promise(UNHARMED, expects=expects, words=words)


_ALL = (
    Kind("kill-rank", "a rank is killed (SIGKILL)", ANYWHERE, _respawn("rank"), takes="rank"),
    Kind("kill-ranks", "all ranks of a node are killed", ANYWHERE, _respawn("rank", "agent"), takes="node"),
    Kind("stop-rank", "a rank is stopped (SIGSTOP), as one that hangs", ANYWHERE, _respawn("hang", within_s=None),
         takes="rank"),
    Kind("kill-agent", "the agent of a node is killed", ANYWHERE, _agent(R2_S), takes="node"),
    Kind("stop-agent", "the agent of a node is stopped (SIGSTOP)", ANYWHERE, _agent(30.0), takes="node"),
    Kind("kill-keeper", "the process that holds a node's checkpoints in memory is killed", ANYWHERE,
         _unharmed("it is started again and filled again; training goes on", "checkpoint.recovered"), takes="node"),
    Kind("fill-ram-tier", "a node's checkpoints in memory are lost, and the kernel gives no memory for new ones", LOCAL,
         _unharmed("the tier is reported as degraded, durable tiers go on; training goes on", "checkpoint.degraded"),
         random=False, takes="node"),
    Kind("kill-writer", "the process that makes a node's checkpoints durable is killed", ANYWHERE,
         _unharmed("it is started again; training goes on"), takes="node"),
    Kind("kill-coordinator", "the coordinator is killed", ANYWHERE,
         _unharmed("another one takes over, and the ranks need not even hear of it", REPLACED)),
    Kind("stop-coordinator", "the coordinator is stopped (SIGSTOP)", ANYWHERE,
         _requeue("coordinator", within_s=ORPHANED_S, words="the agents save and have the job queued again"), random=False),
    Kind("kill-node", "a node loses its power", PRIVATE, _node("node"), takes="node"),
    Kind("kill-batch-host", "the node with the batch script loses its power", PRIVATE,
         _requeue("coordinator", "node", within_s=ORPHANED_S, words="the agents that are left have the job queued again"),
         random=False),
    Kind("xid79", "a simulated GPU falls off the bus (Xid 79)", HEALTH, _node("health", "node", within=False), random=False,
         takes="node"),
    Kind("drain-node", "an operator drains a node under the job", PRIVATE,
         _unharmed("it is told and goes on, since a drain waits for jobs; 'detection.node.drained' may say otherwise",
                   "detection.alert"), random=False, takes="node"),
    Kind("corrupt-checkpoint", "the newest durable checkpoint is damaged, memory is lost, a rank is killed", ANYWHERE,
         lambda _: Promise(RECOVERED, ("R1", "R2", "R3"), within_s=None, expects=("checkpoint.restored",),
                           words="the damaged checkpoint is passed over, and training goes on from an older one"),
         random=False),
    Kind("slurmctld-restart", "Slurm's controller is killed and started again", PRIVATE,
         _unharmed("the job does not depend on it")),
    Kind("preemption", "Slurm takes the nodes and queues the job again, as preemption does", PRIVATE,
         _requeue("preemption", "unknown", within_s=R3_S, words="the job goes on in its next start")),
    Kind("time-limit", "Slurm's warning before the time limit is sent early", ANYWHERE,
         _requeue("time_limit", within_s=R3_S, words="the ranks save and stop, and the job goes on in its next start")),
    Kind("cancel", "a person cancels the job", ANYWHERE,
         lambda _: Promise(CANCELLED, words="it stays cancelled: nobody starts it again"), random=False),
)
KINDS: Mapping[str, Kind] = {kind.name: kind for kind in _ALL}
"""By name, in the order of the list."""

ELSEWHERE: Mapping[str, str] = {
    "out of memory": "a control group that ends a rank belongs to root",
    "network cut": "nodes that cannot reach each other need networks of their own, and these belong to root",
}
"""Causes of death that no drill can cause here, and why."""
