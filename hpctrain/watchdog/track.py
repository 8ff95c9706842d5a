"""What the watchdog's machine remembers of a job, between polls and over its own death (pure, standard library only)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hpctrain.watchdog.causes import Diagnosis, Way
from hpctrain.watchdog.model import JobView


@dataclass(slots=True)
class Track:
    """What is remembered of one job between polls; all of it can be found out again.

    Attributes:
        shape: restart count, state and reason, by which a change is known.
        since: when the job was first seen in that shape.
        beat, beat_since: the newest sign of life, and when it was first seen.
        suspicion: what the last look at it found, waiting for another to confirm it; since when.
        doubt_since: since when the newest sign of life is doubted, see :data:`hpctrain.watchdog.causes.DOUBT_S`.
        nodes: the nodes it last ran on.
        started: when it last ran.
        judged: what was decided on, as ``restart count:way``.
        moving: nodes that it is being kept from, between its being queued again (held by us) and its release.
        excluded: nodes that we keep it from, and until when.
        steps: when each repeatable step was last asked for.
        waiting_since: since when Slurm's delay is all that keeps it.
        reopened: how many decisions to restart it proved needless.
    """

    view: JobView
    shape: tuple[object, ...]
    since: float
    beat: tuple[int, int, float] | None = None
    beat_since: float = 0.0
    suspicion: str = ""
    suspicion_since: float = 0.0
    doubt_since: float | None = None
    diagnosis: Diagnosis | None = None
    nodes: tuple[str, ...] = ()
    started: float | None = None
    judged: set[str] = field(default_factory=set)
    moving: tuple[str, ...] | None = None
    excluded: dict[str, float] = field(default_factory=dict)
    steps: dict[str, float] = field(default_factory=dict)
    waiting_since: float | None = None
    reopened: int = 0


@dataclass(frozen=True, slots=True)
class Memory:
    """What the journal remembers of one job.

    Attributes:
        judged: what was decided on, as ``restart count:way``.
        moving: nodes of a hold of ours that was not released yet, None for no such hold.
        excluded: nodes that we keep it from, and until when.
        over: nothing more is to be done about the job.
        reopened: how many decisions to restart it proved needless.
    """

    run_name: str
    run_dir: str
    restarts: int = 0
    over: bool = False
    judged: frozenset[str] = frozenset()
    moving: tuple[str, ...] | None = None
    excluded: Mapping[str, float] = field(default_factory=dict)
    reopened: int = 0


def closed(track: Track) -> bool:
    """Nothing more is to be done about a job: it has ended, and nobody has to bring it back."""
    found = track.diagnosis
    return track.view.job.state.finished and (found is None or found.way is Way.LEAVE)
