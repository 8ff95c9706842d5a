"""``control/coordinator.json``: that there is a coordinator, where, and how it stands (adapter over the file system).

Agents find a successor by it, and the watchdog sees by it whether a job still has somebody who looks after it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from hpctrain.files import make_private_dir, write_json_atomic
from hpctrain.jobs.layout import RunDir

RENEW_S = 5.0
"""How often it is written."""


@dataclass(frozen=True, slots=True)
class CoordinatorState:
    """What the coordinator says of itself.

    Attributes:
        time: when it was written, seconds since the epoch.
        beat: grows with every writing, so that a reader whose clock differs sees life, too.
        host: the batch host.
        pid, srun_pid: of the coordinator, and of the ``srun`` that holds the agents; 0 while there is none.
        job: Slurm job id.
        restarts: SLURM_RESTART_COUNT of this start.
        incarnation: the newest one.
        state: ``gather run kill mend over``; ``orphans`` when agents without a coordinator have written it.
        exit_code: of the batch script, once the state is ``over``.
        addr, port: where agents call.
    """

    time: float
    beat: int
    host: str
    pid: int
    srun_pid: int
    job: int
    restarts: int
    incarnation: int
    state: str
    exit_code: int | None = None
    addr: str = ""
    port: int = 0


def write_state(run_dir: RunDir, state: CoordinatorState, *, durable: bool = False) -> None:
    """Replace the file. Raises StorageError."""
    make_private_dir(run_dir.control)
    write_json_atomic(run_dir.control / "coordinator.json", asdict(state), durable=durable)


def read_state(run_dir: RunDir) -> CoordinatorState | None:
    """The file's content; None where there is none that can be read."""
    try:
        data: dict[str, Any] = json.loads((run_dir.control / "coordinator.json").read_text(encoding="utf-8"))
        return CoordinatorState(**data)
    except (OSError, ValueError, TypeError):
        return None
