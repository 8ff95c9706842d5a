"""What a training process finds in its environment (pure).

torchrun's names keep torchrun's meaning, so that any script written for torchrun runs unchanged. Names that
start with ``HPCTRAIN_`` are ours; all are optional, so that the trainer also runs on a laptop without Slurm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

TORCHRUN_NAMES = (
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_NAME",
    "ROLE_RANK", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_MAX_RESTARTS", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_ERROR_FILE", "OMP_NUM_THREADS",
)
"""Set by the agent for every rank, as torchrun sets them."""

RUN_DIR = "HPCTRAIN_RUN_DIR"
"""The run directory; unset on a laptop, where the trainer takes ``--run-dir``."""
INCARNATION = "HPCTRAIN_INCARNATION"
"""Decimal :data:`hpctrain.ids.Incarnation`."""
HEARTBEAT_FILE = "HPCTRAIN_HEARTBEAT_FILE"
"""Node-local file that this rank overwrites with one JSON object per phase change (see hpctrain.train.heartbeat)."""
STOP_FILE = "HPCTRAIN_STOP_FILE"
"""Node-local file; once it exists the trainer saves and stops at the next step boundary, agreed by all ranks."""
NODE_NAME = "HPCTRAIN_NODE"
"""Slurm's name of this node."""
CHECKPOINT = "HPCTRAIN_CHECKPOINT"
"""The tiers of this run as JSON, for ``Checkpointer.from_env()``; see hpctrain.checkpoint.config."""
KEEPER_SECRET_FILE = "HPCTRAIN_KEEPER_SECRET_FILE"  # noqa: S105 - the name of the variable, not a secret
"""Private file by which this node's keeper of checkpoints in memory is found; unset where the agent keeps none."""
DEVICE = "HPCTRAIN_DEVICE"
"""``cpu`` or ``cuda``, decided by the plan (simulated GPUs mean ``cpu``); unset lets torch decide."""

EXIT_DONE = 0
"""All steps are done."""
EXIT_STOPPED = 75
"""Stopped on request at a step boundary, with a committed checkpoint: start me again (EX_TEMPFAIL)."""
EXIT_REWIND = 76
"""The loss went wrong, and ``control/rewind.json`` says from where to go on: start me again."""
EXIT_DIVERGED = 77
"""The loss went wrong, and by the recipe, or after too many rewinds, that is the end: do not start me again."""


@dataclass(frozen=True, slots=True)
class RankEnvironment:
    """One process's place in the job, read from its environment.

    Attributes:
        rank, local_rank, world_size, local_world_size: as torchrun defines them; 0, 0, 1, 1 outside any launcher.
        incarnation: see :data:`hpctrain.ids.Incarnation`.
        run_dir, heartbeat_file, stop_file, node, device: "" where unset.
    """

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1
    incarnation: int = 0
    run_dir: str = ""
    heartbeat_file: str = ""
    stop_file: str = ""
    node: str = ""
    device: str = ""

    @classmethod
    def read(cls, env: Mapping[str, str]) -> RankEnvironment:
        """Read the environment; torchrun's restart count serves where ours is unset.

        Raises:
            ValueError: a number is not one.
        """
        incarnation = env.get(INCARNATION) or env.get("TORCHELASTIC_RESTART_COUNT") or "0"
        return cls(
            rank=int(env.get("RANK", "0")), local_rank=int(env.get("LOCAL_RANK", "0")),
            world_size=int(env.get("WORLD_SIZE", "1")), local_world_size=int(env.get("LOCAL_WORLD_SIZE", "1")),
            incarnation=int(incarnation), run_dir=env.get(RUN_DIR, ""), heartbeat_file=env.get(HEARTBEAT_FILE, ""),
            stop_file=env.get(STOP_FILE, ""), node=env.get(NODE_NAME, ""), device=env.get(DEVICE, ""),
        )
