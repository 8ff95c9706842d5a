"""The recipe's section ``checkpoint``: tiers, how often, what is kept (pure; pydantic is the schema language)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hpctrain.recipe.schema_types import Duration, DurationOrAuto, StepsOrAuto, Strict, Switch, Text


class RamTier(Strict):
    """Copies in the memory of each node, held by a process that outlives the ranks: the fastest to write and to restore."""

    enabled: Switch = "auto"
    """``auto``: on, and off on its own, with an event, where a node has not got the memory; ``true``: refuse a recipe
    whose memory arithmetic has no room for it; ``false``: the ranks write the shared tier themselves."""
    every_steps: StepsOrAuto = "auto"
    """Steps between copies; ``auto``: as often as ``overhead_percent`` allows by the measured cost."""
    history: int = Field(default=0, ge=0, le=1000)
    """Older copies that are held besides the newest, to rewind to. Each takes the memory of one copy."""


class LocalTier(Strict):
    """Copies on a disk of each node: they survive a reboot of the node."""

    path: str | None = None
    """An absolute path that means a disk of its own on every node; unset switches the tier off. A directory for this run
    is made in it."""
    every_steps: int | None = Field(default=None, ge=1, le=10**12)
    """Steps between copies. At most one of ``every_steps`` and ``every``."""
    every: DurationOrAuto = "auto"
    """Time between copies; ``auto``: from the measured cost and the failure rate."""
    keep_last: int = Field(default=1, ge=1, le=10**6)
    """Newest copies that are kept."""


class ObjectTier(Strict):
    """Copies in an object store: they survive the site."""

    url: str | None = None
    """Where, such as ``s3://bucket/prefix``: any URL of fsspec, without credentials in it; unset switches the tier off.
    A folder for this run is made below it."""
    every_steps: int | None = Field(default=None, ge=1, le=10**12)
    """Steps between copies. At most one of ``every_steps`` and ``every``."""
    every: DurationOrAuto = "auto"
    """Time between copies; ``auto``: from the measured cost and the failure rate."""
    keep_last: int = Field(default=2, ge=1, le=10**6)
    """Newest copies that are kept."""


class KeepBest(Strict):
    """Checkpoints that are kept because a number was best."""

    metric: Text | None = None
    """Name of the number: ``loss``, ``validation_loss``, or one that a script gives; unset keeps none for being best."""
    mode: Literal["min", "max"] = "min"
    """Whether less or more is better."""
    count: int = Field(default=1, ge=1, le=10**6)
    """How many of the best are kept."""


class Checkpoint(Strict):
    """When the state is saved, where, and what is kept. The keys of this section itself are those of the shared tier: the
    run directory's ``checkpoints/`` on the cluster's file system.
    """

    every_steps: int | None = Field(default=None, ge=1, le=10**12)
    """Steps between saves. At most one of ``every_steps`` and ``every``."""
    every: DurationOrAuto | None = "auto"
    """Time between saves; ``auto``, unless ``every_steps`` says otherwise: from the measured cost and the failure rate
    (Daly's formula), at step boundaries."""
    keep_last: int = Field(default=2, ge=1, le=10**6)
    """Newest complete checkpoints that are kept."""
    keep_every_steps: int | None = Field(default=None, ge=1, le=10**12)
    """Checkpoints at multiples of this are never pruned."""
    keep_best: KeepBest = KeepBest()
    save_final: bool = True
    """Save after the last step."""
    resume: Literal["auto", "never"] = "auto"
    """``auto``: continue from the newest complete checkpoint that all ranks can get, from whichever tiers."""
    overhead_percent: float = Field(default=1.0, gt=0, le=50)
    """Most of the training time that saves may cost where their interval is ``auto``."""
    mean_time_to_failure: Duration | None = None
    """Time between failures of the whole job that ``auto`` counts with; default: from the number of nodes, and from what
    this run has met."""
    flush_limit: Duration = 60
    """When ranks have died: longest time for writing what only memory holds to the shared tier, before the nodes are given
    back."""
    ram: RamTier = RamTier()
    peer: Switch = "auto"
    """A second copy in the memory of another node, which survives the loss of a node; ``auto``: on with the ram tier and
    two nodes or more."""
    local: LocalTier = LocalTier()
    object: ObjectTier = ObjectTier()
