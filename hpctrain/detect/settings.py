"""The plan's ``detection`` as detectors read it (pure, standard library only).

The plan carries the recipe's section as plain data, with every default in it. A plan without it has the same defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

from hpctrain.detect.beat import Action

AUTO: Literal["auto"] = "auto"
OFF = "off"
Limit = float | Literal["auto"]

Section = TypeVar("Section")


@dataclass(frozen=True, slots=True)
class HangSettings:
    """``detection.hang``: see :class:`hpctrain.recipe.schema_detection.Hang`. Times in seconds."""

    action: str = "restart"
    at_least: float = 60.0
    factor: float = 10.0
    limits: Mapping[str, Limit] = field(default_factory=dict)
    output_limit: float | None = None


@dataclass(frozen=True, slots=True)
class SpikeSettings:
    """``detection.loss.spike``."""

    action: str = "alert"
    deviations: float = 6.0
    at_least: float = 0.5
    window_steps: int = 200
    warmup_steps: int = 100
    patience: int = 3


@dataclass(frozen=True, slots=True)
class LossSettings:
    """``detection.loss``."""

    action: str = "rewind"
    spike: SpikeSettings = SpikeSettings()
    rewind_checkpoints: int = 1
    skip_margin_steps: int = 1
    max_rewinds: int = 3


@dataclass(frozen=True, slots=True)
class ThroughputSettings:
    """``detection.throughput``; ``patience`` in seconds."""

    action: str = "alert"
    below: float = 0.5
    patience: float = 300.0
    warmup_steps: int = 20


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """``detection.node``."""

    fault: str = "swap"
    drained: str = "alert"


@dataclass(frozen=True, slots=True)
class RuleSettings:
    """One of ``detection.log_rules``; times in seconds."""

    name: str
    pattern: str
    start_cutoff: float | None = None
    recurs_within: float | None = None
    metric_threshold: float | None = None
    operator: str | None = None
    metric_data_points: int = 1
    stop_pattern: str | None = None
    fault_on_match: bool = False
    action: str = "restart"


@dataclass(frozen=True, slots=True)
class DetectionSettings:
    """Everything of the section."""

    hang: HangSettings = HangSettings()
    loss: LossSettings = LossSettings()
    throughput: ThroughputSettings = ThroughputSettings()
    node: NodeSettings = NodeSettings()
    log_rules: tuple[RuleSettings, ...] = ()

    @classmethod
    def read(cls, plan_detection: Mapping[str, Any]) -> DetectionSettings:
        """Take the plan's mapping. Keys that a later version has put there are ignored."""
        loss = dict(plan_detection.get("loss", {}))
        spike = _section(SpikeSettings, loss.pop("spike", {}))
        return cls(
            hang=_section(HangSettings, plan_detection.get("hang", {})),
            loss=_section(LossSettings, {**loss, "spike": spike}),
            throughput=_section(ThroughputSettings, plan_detection.get("throughput", {})),
            node=_section(NodeSettings, plan_detection.get("node", {})),
            log_rules=tuple(_section(RuleSettings, rule) for rule in plan_detection.get("log_rules", ())),
        )


def action_of(text: str) -> Action:
    """The action that a setting names; ``alert`` for what this version does not know, which harms nothing."""
    known: dict[str, Action] = {"restart": "restart", "swap": "swap", "rewind": "rewind", "stop": "stop"}
    return known.get(text, "alert")


def _section(kind: type[Section], values: Mapping[str, Any]) -> Section:
    known = {item.name for item in fields(kind)}  # type: ignore[arg-type]
    return kind(**{key: value for key, value in values.items() if key in known})
