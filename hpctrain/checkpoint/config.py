"""What a :class:`hpctrain.checkpoint.Checkpointer` needs to know (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpctrain.checkpoint.retention import Retention
from hpctrain.checkpoint.schedule import Schedule
from hpctrain.errors import UsageError


@dataclass(frozen=True, slots=True)
class RamConfig:
    """The tier in the node's memory, which survives the ranks.

    Attributes:
        every_steps: a copy is made at multiples of this.
        history: checkpoints to keep besides the newest, while memory allows.

    Raises:
        ValueError: a number is too small.
    """

    every_steps: int = 1
    history: int = 0

    def __post_init__(self) -> None:
        if self.every_steps < 1 or self.history < 0:
            raise ValueError(f"every_steps {self.every_steps} must be at least 1, and history {self.history} at least 0")


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    """Where, when and how many.

    Attributes:
        root: directory of the shared tier, visible to all ranks.
        schedule: when :meth:`Checkpointer.step` saves.
        retention: what is pruned after a save.
        incarnation: of this start of the ranks (:data:`hpctrain.ids.Incarnation`); None takes the next one after the
            newest in the directory, for launchers that do not count.
        world: layout of the ranks, stored with every checkpoint.
        ram: the tier in memory; None for none.
    """

    root: Path
    schedule: Schedule = field(default_factory=Schedule)
    retention: Retention = field(default_factory=Retention)
    incarnation: int | None = None
    world: Mapping[str, Any] = field(default_factory=dict)
    ram: RamConfig | None = None

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> CheckpointConfig:
        """Read ``HPCTRAIN_CHECKPOINT_DIR`` (or ``HPCTRAIN_RUN_DIR``/checkpoints), ``HPCTRAIN_INCARNATION`` and
        ``HPCTRAIN_CHECKPOINT_EVERY_STEPS``.

        Raises:
            UsageError: no directory is named, or a number is not one.
        """
        root = env.get("HPCTRAIN_CHECKPOINT_DIR") or ""
        if not root and env.get("HPCTRAIN_RUN_DIR"):
            root = str(Path(env["HPCTRAIN_RUN_DIR"]) / "checkpoints")
        if not root:
            raise UsageError("no directory for checkpoints", hint="set HPCTRAIN_CHECKPOINT_DIR, or pass a CheckpointConfig")
        every_steps = _number(env, "HPCTRAIN_CHECKPOINT_EVERY_STEPS")
        return cls(Path(root), Schedule(every_steps), incarnation=_number(env, "HPCTRAIN_INCARNATION"))


def _number(env: Mapping[str, str], name: str) -> int | None:
    text = env.get(name)
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{name} is {text!r}, not a whole number") from None
