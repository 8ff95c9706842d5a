"""From findings to a verdict on the node (pure).

A finding says how bad a fact is; the check's mode says how far that may go. Only a CRITICAL finding of a check in mode
``drain`` asks for a drain; what is unknown never does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode, Severity
from hpctrain.health.gpu import Gpu
from hpctrain.health.gpu_fields import NOT_HERE
from hpctrain.health.reading import Reading

PREFIX = "hpctrain:"
"""Every drain reason of ours begins so; one that does not belongs to a person."""
REASON_LENGTH = 200


class Level(IntEnum):
    """How far a finding goes after its check's mode was applied."""

    OK = 0
    SKIP = 1
    OBSERVE = 2
    UNKNOWN = 3
    WARN = 4
    DRAIN = 5


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to think of a node.

    Attributes:
        level: the worst level of any finding; SKIP counts as OK.
        findings: with their levels, the worst first.
        checks: how many checks ran.
    """

    node: str
    time: float
    context: str
    level: Level
    findings: tuple[tuple[Level, Finding], ...] = ()
    checks: int = 0

    @property
    def draining(self) -> tuple[Finding, ...]:
        """The findings that ask for a drain."""
        return tuple(finding for level, finding in self.findings if level is Level.DRAIN)

    @property
    def reason(self) -> str:
        """The drain reason: prefix, check, entity and message of the first, and how many more; "" without a drain."""
        if not self.draining:
            return ""
        first, more = self.draining[0], len(self.draining) - 1
        tail = f" (+{more} more)" if more else ""
        text = f"{PREFIX} {first.check}: {first.message}"
        return text[: REASON_LENGTH - len(tail)] + tail


def level_of(severity: Severity, mode: Mode) -> Level:
    """How far a severity goes in a mode."""
    if severity is Severity.SKIPPED or mode is Mode.OFF:
        return Level.SKIP
    if severity is Severity.OK:
        return Level.OK
    if severity is Severity.UNKNOWN:
        return Level.UNKNOWN if mode > Mode.OBSERVE else Level.OBSERVE
    if mode is Mode.OBSERVE:
        return Level.OBSERVE
    return Level.DRAIN if severity is Severity.CRITICAL and mode is Mode.DRAIN else Level.WARN


@dataclass(frozen=True, slots=True)
class Rules:
    """What a site and a GPU model change about the shipped checks."""

    modes: Mapping[str, Mode] = field(default_factory=dict)
    limits: Mapping[str, Limits] = field(default_factory=dict)

    def mode(self, check: Check) -> Mode:
        """The mode in force."""
        return self.modes.get(check.name, check.mode)

    def limits_of(self, check: Check) -> Limits:
        """The limits in force."""
        return {**check.limits, **self.limits.get(check.name, {})}


def judge(reading: Reading, checks: Iterable[Check], rules: Rules | None = None) -> Verdict:
    """Put every check to a reading.

    A check that raises is itself an UNKNOWN finding, and so is a probe that did not answer: neither condemns the node.
    """
    rules, count = rules or Rules(), 0
    found = [(Level.UNKNOWN, finding) for finding in _probe_findings(reading)]
    for check in checks:
        mode = rules.mode(check)
        if mode is Mode.OFF:
            continue
        count += 1
        found += [(level_of(finding.severity, mode), finding) for finding in _run(check, reading, rules.limits_of(check))]
    found.sort(key=lambda pair: (-pair[0], -_ACTIONS.index(pair[1].action), pair[1].check, pair[1].entity))
    level = max((level for level, _ in found), default=Level.OK)
    return Verdict(
        reading.node, reading.time, reading.context, Level.OK if level is Level.SKIP else level, tuple(found), count
    )


_ACTIONS = list(Action)


def _run(check: Check, reading: Reading, limits: Limits) -> list[Finding]:
    try:
        found = list(check.run(reading, limits))
    except Exception as error:  # noqa: BLE001 - one broken check must not silence the others
        return [check.unknown("check", f"the check itself failed: {error!r}")]
    return found + list(_unread(check, reading))


def _probe_findings(reading: Reading) -> Iterator[Finding]:
    for name, state in reading.probes.items():
        if state.outcome in ("timeout", "crashed"):
            what = "did not answer in time" if state.outcome == "timeout" else "ended without an answer"
            where = f" in {state.step}" if state.step else ""
            message = f"the {name} probe {what} ({state.took_s:.1f} s){where}"
            yield Finding(f"probe_{name}", Severity.UNKNOWN, "node", message, {"took_s": round(state.took_s, 3)})


def _unread(check: Check, reading: Reading) -> Iterator[Finding]:
    """What the check cannot say: skipped where no GPU has its fields, unknown where a field could not be read."""
    gpus = [gpu for gpu in reading.gpus if "handle" not in gpu.errors]
    if not check.gpu_fields:
        return
    if all(gpu.lacks(name) for gpu in gpus for name in check.gpu_fields):
        yield check.skipped("no GPU in scope" if not gpus else "not supported by the GPUs or the driver of this node")
        return
    for gpu in gpus:
        bad = _unreadable(gpu, check.gpu_fields)
        if bad:
            yield check.unknown(gpu.entity, f"GPU {gpu.index}: cannot read {', '.join(bad)}", errors=bad)


def _unreadable(gpu: Gpu, fields: Iterable[str]) -> dict[str, str]:
    return {name: error for name in fields if (error := gpu.errors.get(name, "")) and error not in NOT_HERE}
