"""What a :class:`hpctrain.checkpoint.Checkpointer` needs to know (pure).

The agent passes it to the ranks as JSON in ``HPCTRAIN_CHECKPOINT``; see :meth:`CheckpointConfig.from_json`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from hpctrain.checkpoint.retention import Retention
from hpctrain.checkpoint.schedule import OVERHEAD_CAP, TierSchedule
from hpctrain.errors import UsageError

CONFIG = "HPCTRAIN_CHECKPOINT"
"""The whole configuration as JSON."""
DIRECTORY = "HPCTRAIN_CHECKPOINT_DIR"
"""Directory of the shared tier; without it, ``checkpoints`` in HPCTRAIN_RUN_DIR."""
EVERY_STEPS = "HPCTRAIN_CHECKPOINT_EVERY_STEPS"
"""Steps between saves to the shared tier; without it, auto."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RamConfig:
    """The tier in the node's memory, which survives the ranks.

    Attributes:
        history: checkpoints to keep besides the newest, while memory allows: to rewind to.

    Raises:
        ValueError: the history is negative.
    """

    schedule: TierSchedule = field(default_factory=TierSchedule)
    history: int = 0

    def __post_init__(self) -> None:
        if self.history < 0:
            raise ValueError(f"history must be at least 0, not {self.history}")


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """Copies in the memory of another node, which survive the loss of a node. Nothing to do on a single node."""

    schedule: TierSchedule = field(default_factory=TierSchedule)


@dataclass(frozen=True, slots=True)
class LocalConfig:
    """Each node's own part on a disk of its own, which survives a reboot."""

    path: Path
    schedule: TierSchedule = field(default_factory=TierSchedule)
    retention: Retention = field(default_factory=lambda: Retention(keep_last=1))


@dataclass(frozen=True, slots=True)
class ObjectConfig:
    """An object store, which survives the site."""

    url: str
    schedule: TierSchedule = field(default_factory=TierSchedule)
    retention: Retention = field(default_factory=Retention)


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    """Where, when and how many. ``root``, ``schedule`` and ``retention`` are those of the shared tier.

    Attributes:
        root: directory of the shared tier, visible to all ranks.
        incarnation: of this start of the ranks (:data:`hpctrain.ids.Incarnation`); None takes the next one after the
            newest in the directory, for launchers that do not count.
        world: layout of the ranks, stored with every checkpoint.
        ram: None: the ranks write the shared and object tiers themselves, and stand still meanwhile.
        mttf_s: mean seconds between failures of the job, for ``auto``; None: from the number of nodes and what the run
            has seen.
        overhead_cap: share of training time that ``auto`` lets the saves of a tier cost.
        patience_s: longest wait for a save that was asked for to become durable, before the ranks write it themselves.

    Raises:
        ValueError: a number is out of range.
    """

    root: Path
    schedule: TierSchedule = field(default_factory=TierSchedule)
    retention: Retention = field(default_factory=Retention)
    incarnation: int | None = None
    world: Mapping[str, Any] = field(default_factory=dict)
    ram: RamConfig | None = None
    peer: PeerConfig | None = None
    local: LocalConfig | None = None
    object: ObjectConfig | None = None
    mttf_s: float | None = None
    overhead_cap: float = OVERHEAD_CAP
    patience_s: float = 600.0

    def __post_init__(self) -> None:
        if self.mttf_s is not None and not self.mttf_s > 0:
            raise ValueError(f"mttf_s must be more than 0, not {self.mttf_s}")
        if not 0 < self.overhead_cap <= 1:
            raise ValueError(f"overhead_cap is a share of the time, more than 0 and at most 1, not {self.overhead_cap}")
        if not 0 <= self.patience_s < math.inf:
            raise ValueError(f"patience_s must be at least 0, not {self.patience_s}")

    def to_json(self) -> dict[str, Any]:
        """For :data:`CONFIG`; a tier that is off is null."""
        return {
            "root": str(self.root), "schedule": self.schedule.to_json(), "retention": self.retention.to_json(),
            "incarnation": self.incarnation, "world": dict(self.world),
            "ram": self.ram and {"schedule": self.ram.schedule.to_json(), "history": self.ram.history},
            "peer": self.peer and {"schedule": self.peer.schedule.to_json()},
            "local": self.local and {"path": str(self.local.path), **_times(self.local)},
            "object": self.object and {"url": self.object.url, **_times(self.object)},
            "mttf_s": self.mttf_s, "overhead_cap": self.overhead_cap, "patience_s": self.patience_s,
        }

    @classmethod
    def from_json(cls, value: Any) -> CheckpointConfig:
        """The inverse of :meth:`to_json`; all but ``root`` may be missing.

        Raises:
            ValueError: a field is unknown or bad; the message names it.
        """
        fields = _Fields(value, "")
        config = cls(
            root=fields.take("root", lambda text: Path(_text(text))),
            **fields.given("schedule", TierSchedule.from_json), **fields.given("retention", Retention.from_json),
            **fields.given("incarnation", _count), **fields.given("world", _mapping), **fields.given("ram", _ram),
            **fields.given("peer", _peer), **fields.given("local", _local), **fields.given("object", _object),
            **fields.given("mttf_s", _number), **fields.given("overhead_cap", _number),
            **fields.given("patience_s", _number),
        )
        fields.end()
        return config

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> CheckpointConfig:
        """Read :data:`CONFIG`; without it :data:`DIRECTORY` (or ``HPCTRAIN_RUN_DIR``/checkpoints) and
        :data:`EVERY_STEPS`, with the RAM tier. ``HPCTRAIN_INCARNATION`` counts in both cases: each start has its own.

        Raises:
            UsageError: no directory is named, or a value is none; the message names the variable.
        """
        counted = _env_count(env, "HPCTRAIN_INCARNATION")
        if env.get(CONFIG):
            try:
                config = cls.from_json(json.loads(env[CONFIG]))
            except ValueError as error:
                hint = "docs/checkpoint-library.md has the fields; in a job hpctrain sets it"
                raise UsageError(f"{CONFIG}: {error}", hint=hint) from None
            return config if counted is None else replace(config, incarnation=counted)
        root = env.get(DIRECTORY) or ""
        if not root and env.get("HPCTRAIN_RUN_DIR"):
            root = str(Path(env["HPCTRAIN_RUN_DIR"]) / "checkpoints")
        if not root:
            raise UsageError("no directory for checkpoints", hint=f"set {DIRECTORY}, or pass a CheckpointConfig")
        try:
            schedule = TierSchedule(_env_count(env, EVERY_STEPS))
        except ValueError as error:
            raise UsageError(f"{EVERY_STEPS}: {error}") from None
        return cls(Path(root), schedule, incarnation=counted, ram=RamConfig())


def _times(tier: LocalConfig | ObjectConfig) -> dict[str, Any]:
    return {"schedule": tier.schedule.to_json(), "retention": tier.retention.to_json()}


class _Fields:
    """The fields of one JSON object, each taken once; what is bad or unknown is named with its path."""

    def __init__(self, value: Any, path: str) -> None:
        if not isinstance(value, Mapping):
            raise ValueError(f"{path or 'the configuration'} is not an object but {value!r}")
        self._left, self._path = dict(value), path

    def take(self, name: str, read: Callable[[Any], T]) -> T:
        """A field that must be there."""
        where = f"{self._path}.{name}" if self._path else name
        if name not in self._left:
            raise ValueError(f"{where} is missing")
        try:
            return read(self._left.pop(name))
        except ValueError as error:
            text = str(error)
            raise ValueError(text if text.startswith(f"{where}") else f"{where}: {text}") from None

    def given(self, name: str, read: Callable[[Any], Any]) -> dict[str, Any]:
        """A field that may be missing, as a keyword argument; null is None."""
        if name not in self._left:
            return {}
        if self._left[name] is None:
            return {name: self._left.pop(name)}
        return {name: self.take(name, read)}

    def end(self) -> None:
        """Refuse what nobody took."""
        if self._left:
            raise ValueError(f"{self._path + '.' if self._path else ''}{next(iter(self._left))} is not a known field")


def _ram(value: Any) -> RamConfig:
    fields = _Fields(value, "ram")
    config = RamConfig(**fields.given("schedule", TierSchedule.from_json), **fields.given("history", _count))
    fields.end()
    return config


def _peer(value: Any) -> PeerConfig:
    fields = _Fields(value, "peer")
    config = PeerConfig(**fields.given("schedule", TierSchedule.from_json))
    fields.end()
    return config


def _local(value: Any) -> LocalConfig:
    fields = _Fields(value, "local")
    config = LocalConfig(fields.take("path", lambda text: Path(_text(text))), **_given_times(fields))
    fields.end()
    return config


def _object(value: Any) -> ObjectConfig:
    fields = _Fields(value, "object")
    config = ObjectConfig(fields.take("url", _text), **_given_times(fields))
    fields.end()
    return config


def _given_times(fields: _Fields) -> dict[str, Any]:
    return {**fields.given("schedule", TierSchedule.from_json), **fields.given("retention", Retention.from_json)}


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is not a text")
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{value!r} is not an object")
    return value


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is not a whole number from 0")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _env_count(env: Mapping[str, str], name: str) -> int | None:
    text = env.get(name)
    if not text:
        return None
    try:
        return _count(int(text))
    except ValueError:
        raise UsageError(f"{name} is {text!r}, not a whole number from 0") from None
