"""The recipe's section ``detection``: what is trouble while processes live (pure; pydantic is the schema language)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from hpctrain.recipe.schema_types import Duration, DurationOrAuto, RunName, Strict

Pattern = Annotated[str, StringConstraints(min_length=1, max_length=500)]


class HangLimits(Strict):
    """Longest time without progress, for each thing that ranks do."""

    init: Duration = 1800
    """Starting, meeting the other ranks, building the model."""
    data: Duration = 3600
    """Preparing the data; every thousand documents count as progress."""
    load: Duration = 1800
    """Restoring a checkpoint; every part that arrives counts as progress."""
    first_step: DurationOrAuto = "auto"
    """The first step of a start, which may compile; ``auto``: 30 minutes, later from the first steps of earlier starts."""
    step: DurationOrAuto = "auto"
    """``auto``: ``factor`` times a slow step of this job, and never less than ``at_least``."""
    save: DurationOrAuto = "auto"
    """``auto``: 30 minutes, and ``factor`` times the slowest save where that is more."""
    evaluate: DurationOrAuto = "auto"
    """Between two batches of a validation; ``auto``: as for ``step``."""
    finish: Duration = 1800
    """Writing the finished model."""
    script: DurationOrAuto = "auto"
    """For ``command``, whose scripts write no heartbeat: all ranks print nothing and use no CPU; ``auto``: 10 minutes, and
    ``factor`` times the longest such time before where that is more."""


class Hang(Strict):
    """Ranks that live and make no progress."""

    action: Literal["off", "alert", "restart", "stop"] = "restart"
    """``alert``: an event only; ``restart``: the ranks again, from the newest checkpoint; ``stop``: end with a verdict."""
    at_least: Duration = 60
    """No learned limit is shorter."""
    factor: float = Field(default=10.0, ge=2, le=1000)
    """Learned limits are this many times what the job itself has shown."""
    limits: HangLimits = HangLimits()
    output_limit: Duration | None = None
    """For ``command``: this long without a line from any rank is a hang although the ranks use their CPUs, as ranks do that
    wait for NCCL. Unset: only a silence without work is one."""


class LossSpike(Strict):
    """A loss that is a number, but far above what it was."""

    action: Literal["off", "alert", "rewind", "stop"] = "alert"
    """``rewind``: as ``detection.loss.action``."""
    deviations: float = Field(default=6.0, ge=2, le=1000)
    """How far above the running median a loss is a spike, in robust standard deviations (1.4826 x the median absolute
    deviation)."""
    at_least: float = Field(default=0.5, ge=0)
    """No loss is a spike that is less than this above the running median, however calm the curve is."""
    window_steps: int = Field(default=200, ge=10, le=100_000)
    """Steps of the running median."""
    warmup_steps: int = Field(default=100, ge=0, le=10**9)
    """Steps of the run before anything is a spike."""
    patience: int = Field(default=3, ge=1, le=10_000)
    """This many steps in a row make a spike; fewer recover on their own."""


class Loss(Strict):
    """A loss that says the training is going wrong."""

    action: Literal["off", "alert", "rewind", "stop"] = "rewind"
    """When the loss is no number or infinite. ``rewind``: start again from an older checkpoint and leave out the data that
    was seen since; ``stop``: end with a verdict. A script of ``command`` is judged by the loss it writes into its
    heartbeat, if it writes one; a rewind is then a restart."""
    spike: LossSpike = LossSpike()
    rewind_checkpoints: int = Field(default=1, ge=1, le=1000)
    """How many checkpoints back a rewind goes; 1 is the newest before the trouble began."""
    skip_margin_steps: int = Field(default=1, ge=0, le=10**6)
    """Steps' worth of data after the bad step that a rewind leaves out as well."""
    max_rewinds: int = Field(default=3, ge=0, le=1000)
    """Rewinds of one run; the next one ends the job with a verdict."""


class Throughput(Strict):
    """Training that goes on, but much slower than it did."""

    action: Literal["off", "alert", "restart", "stop"] = "alert"
    """``restart``: the ranks again, on the same nodes."""
    below: float = Field(default=0.5, gt=0, lt=1)
    """A share of the job's own median speed."""
    patience: Duration = 300
    """It must be slower for this long."""
    warmup_steps: int = Field(default=20, ge=1, le=10**9)
    """Steps before the median counts."""


class LogRule(Strict):
    """A line that must come, must not come, or brings a number."""

    name: RunName
    """Shown in events; each rule has its own."""
    pattern: Pattern
    """A Python regular expression, searched in each line of every rank's output (1,000 characters of it). Its first group
    brings the number for ``metric_threshold``."""
    start_cutoff: Duration | None = None
    """The first match must come within this time after the ranks have started."""
    recurs_within: Duration | None = None
    """After a match the next must come within this time."""
    metric_threshold: float | None = None
    """With ``operator``: matches whose number compares true are bad."""
    operator: Literal["gt", "gteq", "lt", "lteq", "eq"] | None = None
    """How the number is compared with ``metric_threshold``."""
    metric_data_points: int = Field(default=1, ge=1, le=10_000)
    """This many bad matches in a row are trouble."""
    stop_pattern: Pattern | None = None
    """A line that matches this ends the rule until ``pattern`` matches again: for phases, such as an evaluation, in which
    silence is normal."""
    fault_on_match: bool = False
    """The match itself is the trouble, such as ``CUDA error``."""
    action: Literal["alert", "restart", "swap", "stop"] = "restart"
    """``swap``: without the node of the rank that printed the line; only for ``fault_on_match``."""


class NodeTrouble(Strict):
    """What becomes known of a node under the running job."""

    fault: Literal["off", "alert", "swap", "stop"] = "swap"
    """A GPU of the job is lost or its kernel log tells of an error that needs the node taken out (Xid, ECC), or the node's
    health checks say so. ``swap``: go on without the node."""
    drained: Literal["off", "alert", "swap"] = "alert"
    """Somebody drains a node of the job. Slurm lets the job end on it."""


class Detection(Strict):
    """What is watched while all processes of the job live."""

    hang: Hang = Hang()
    loss: Loss = Loss()
    throughput: Throughput = Throughput()
    node: NodeTrouble = NodeTrouble()
    log_rules: list[LogRule] = []  # noqa: RUF012 - pydantic makes each instance a copy
    """Rules about the lines that ranks print: ``name``, ``pattern``, ``start_cutoff``, ``recurs_within``,
    ``metric_threshold`` with ``operator`` and ``metric_data_points``, ``stop_pattern``, ``fault_on_match``, ``action``;
    docs/detection.md explains them."""
