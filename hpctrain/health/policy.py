"""What to do about a node: decision, reason and the rule that fired (pure).

The rules are asked in a fixed order, and the first that applies decides. A person comes first: a drain that is not ours is
left alone whatever else is known. Then comes waiting (a node that has just booted, a remedy under way, running jobs), then
the ladder: reset the GPU, reboot, replace, a person.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from hpctrain.health.verdict import PREFIX


class Step(str, Enum):
    """What can be done about a node."""

    KEEP = "keep"
    WAIT = "wait"
    ALERT = "alert"
    DRAIN = "drain"
    RESET = "reset GPU"
    REBOOT = "reboot"
    REPLACE = "replace"
    RETURN = "return"
    PERSON = "person"


DEEP_PREFIX = f"{PREFIX} deep"
"""How the drain reason of a deep check begins."""
JOBS_PREFIX = f"{PREFIX} watchdog"
"""How the drain reason of a node begins on which jobs have failed again and again."""
REMEDIES = frozenset({Step.RESET, Step.REBOOT, Step.REPLACE})
_WEIGHTS = {Step.DRAIN: 1.0, Step.RESET: 1.0, Step.REBOOT: 2.0, Step.REPLACE: 4.0}


@dataclass(frozen=True, slots=True)
class Limits:
    """Numbers of the policy; times in seconds.

    Attributes:
        settle_s: a node that booted less long ago is left alone.
        recovery_s: how long a node must be healthy before it returns; doubled with every further drain in the window.
        longest_recovery_s: that window never grows beyond this.
        window_s: remedies and drains older than this are not counted.
        reboots: reboots for the same fault before the node is to be replaced.
        remedies: remedies in the window before a person has to look.
        remedy_s: a remedy that has brought no new verdict after so long has failed.
        drained_percent: largest part of a partition that we drain at a time; one node is always permitted.
        drains: most drains in ``rate_s``.
        lemon_score: a node with this score does not return by itself.
        half_life_s: what happened this long ago counts half in the lemon score.
        verdict_age_s: a verdict older than this takes no node out of service.
    """

    settle_s: float = 120.0
    recovery_s: float = 60.0
    longest_recovery_s: float = 86_400.0
    window_s: float = 7 * 86_400.0
    reboots: int = 2
    remedies: int = 5
    remedy_s: float = 1800.0
    drained_percent: float = 10.0
    drains: int = 10
    rate_s: float = 3600.0
    lemon_score: float = 8.0
    half_life_s: float = 7 * 86_400.0
    verdict_age_s: float = 1800.0


@dataclass(frozen=True, slots=True)
class Deed:
    """Something that was done about a node, in seconds since the epoch.

    Attributes:
        fault: check and entity, as :func:`fault_key` makes them; "" for what a person asked for, which counts as no remedy.
    """

    time: float
    node: str
    step: Step
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a node now; times in seconds since the epoch, None where unknown.

    Attributes:
        drained: no new jobs go there: it is drained, or DOWN.
        reason: the drain reason.
        fault: what the last verdict would drain it for, "" for nothing.
        action: the value of :class:`hpctrain.health.finding.Action` that mends the fault.
        verdict_time: when the last verdict was given.
        healthy_since: since when all verdicts were clean.
        rebooting: Slurm has been asked to reboot it, and it has not come back yet.
    """

    node: str
    drained: bool = False
    reason: str = ""
    busy: bool = False
    booted: float | None = None
    fault: str = ""
    action: str = ""
    verdict_time: float | None = None
    healthy_since: float | None = None
    rebooting: bool = False


@dataclass(frozen=True, slots=True)
class Fleet:
    """The node's partition (the smallest, if it is in several), and what we have drained of it at this time.

    Attributes:
        drained_by_us: also those that wait for new hardware, until a person gives them a reason of their own.
        under_way: nodes with a remedy that has brought no verdict yet.
    """

    nodes: int
    drained_by_us: int = 0
    under_way: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do and why.

    Attributes:
        rule: name of the rule that fired.
        due: when to look again, or when the step may be taken, in seconds since the epoch; None for at once or never.
    """

    step: Step
    reason: str
    rule: str
    due: float | None = None


def fault_key(check: str, entity: str) -> str:
    """The same fault has the same key: the check and the thing, not the wording."""
    return f"{check}/{entity}"


def is_persons(drained: bool, reason: str) -> bool:
    """The node is out of service for a reason that is not ours."""
    return drained and not reason.startswith(PREFIX)


def permitted(fleet: Fleet, limits: Limits) -> int:
    """How many nodes of a partition may be drained by us at a time."""
    return max(1, int(fleet.nodes * limits.drained_percent / 100))


def lemon_score(node: str, history: Iterable[Deed], limits: Limits, now: float) -> float:
    """How often a node has been trouble, what is long past counting less."""
    return sum(
        _WEIGHTS.get(deed.step, 0.0) * math.pow(0.5, max(0.0, now - deed.time) / limits.half_life_s)
        for deed in history
        if deed.node == node
    )


def decide(facts: Facts, history: Iterable[Deed], fleet: Fleet, limits: Limits, now: float) -> Decision:
    """What to do about a node now.

    Args:
        history: what was done about any node, in any order.
    """
    everything = sorted((deed for deed in history if now - deed.time <= limits.window_s), key=lambda deed: deed.time)
    own = [deed for deed in everything if deed.node == facts.node]
    if is_persons(facts.drained, facts.reason):
        return Decision(Step.KEEP, f"a person or Slurm has drained it: '{facts.reason}'", "person")
    if facts.booted is not None and now - facts.booted < limits.settle_s:
        why = f"booted {now - facts.booted:.0f} s ago, settles for {limits.settle_s:g} s"
        return Decision(Step.WAIT, why, "settle", facts.booted + limits.settle_s)
    if not facts.drained:
        return _in_service(facts, everything, fleet, limits, now)
    waiting = _under_way(facts, own, limits, now)
    if waiting:
        return waiting
    if not facts.fault:
        return _return(facts, own, limits, now)
    decision = _mend(facts, own, limits)
    return _held_back(fleet, limits, decision) or decision if decision.step in REMEDIES else decision


def under_way(facts: Facts, history: Iterable[Deed], limits: Limits, now: float) -> bool:
    """A remedy of this node has brought no verdict yet."""
    own = sorted((deed for deed in history if deed.node == facts.node), key=lambda deed: deed.time)
    decision = _under_way(facts, own, limits, now) if facts.drained else None
    return decision is not None and decision.rule == "under way"


def _in_service(facts: Facts, history: list[Deed], fleet: Fleet, limits: Limits, now: float) -> Decision:
    if not facts.fault:
        return Decision(Step.KEEP, "in service, and nothing is known against it", "healthy")
    if facts.verdict_time is not None and now - facts.verdict_time > limits.verdict_age_s:
        why = f"{facts.fault} was found {now - facts.verdict_time:.0f} s ago, and no check has run since"
        return Decision(Step.ALERT, why, "stale")
    most = permitted(fleet, limits)
    if fleet.drained_by_us >= most:
        why = f"{facts.fault}, but {fleet.drained_by_us} of {fleet.nodes} nodes are drained by us and {most} are permitted"
        return Decision(Step.ALERT, why, "breaker")
    recent = [deed.time for deed in history if deed.step is Step.DRAIN and now - deed.time < limits.rate_s]
    if len(recent) >= limits.drains:
        why = f"{facts.fault}, but {len(recent)} nodes were drained in the last {limits.rate_s:g} s"
        return Decision(Step.ALERT, why, "rate", recent[-limits.drains] + limits.rate_s)
    return Decision(Step.DRAIN, facts.fault, "fault")


def _under_way(facts: Facts, own: list[Deed], limits: Limits, now: float) -> Decision | None:
    """A remedy is judged by a verdict that is newer than the remedy, and by no other."""
    last = next((deed for deed in reversed(own) if deed.step in REMEDIES), None)
    if facts.rebooting:
        return Decision(Step.WAIT, "Slurm is to reboot it, or waits for it to come back", "under way")
    if last and now - last.time < limits.remedy_s:
        away = last.step is Step.REBOOT and facts.booted is not None and facts.booted <= last.time
        if away or facts.verdict_time is None or facts.verdict_time <= last.time:
            why = f"{last.step.value} is under way; no check has run since"
            return Decision(Step.WAIT, why, "under way", last.time + limits.remedy_s)
    if last and last.step is Step.REBOOT and facts.booted is not None and facts.booted <= last.time and not facts.fault:
        why = f"it has not come back from the reboot of {now - last.time:.0f} s ago"
        return Decision(Step.PERSON, why, "did not come back")
    if facts.verdict_time is None:
        silent_s = now - own[-1].time if own else 0.0
        if silent_s < limits.remedy_s:
            return Decision(Step.WAIT, "no health check of this node is on record here", "no verdict")
        return Decision(Step.PERSON, f"its checks have come to no verdict for {silent_s:.0f} s", "no verdict")
    if facts.booted is not None and facts.verdict_time < facts.booted + limits.settle_s:
        return Decision(Step.WAIT, "no check has run since it settled after its boot", "settle")
    return None


def _held_back(fleet: Fleet, limits: Limits, decision: Decision) -> Decision | None:
    """What is wrong with many nodes at once is not wrong with the nodes: no remedy is tried on all of them."""
    most = permitted(fleet, limits)
    if fleet.drained_by_us > most:
        why = f"{decision.step.value} for {decision.reason}, but {fleet.drained_by_us} of {fleet.nodes} nodes"
        return Decision(Step.ALERT, f"{why} are drained by us and {most} are permitted", "breaker")
    if fleet.under_way >= most:
        why = f"{decision.step.value} for {decision.reason} waits for {fleet.under_way} other remedies"
        return Decision(Step.WAIT, why, "one after the other")
    return None


def _mend(facts: Facts, own: list[Deed], limits: Limits) -> Decision:
    remedies = [deed for deed in own if deed.step in REMEDIES and deed.fault]
    same = [deed.step for deed in remedies if deed.fault == facts.fault]
    if len(remedies) >= limits.remedies:
        return Decision(Step.PERSON, f"{len(remedies)} remedies in {limits.window_s / 86_400:g} days", "too many remedies")
    if Step.REPLACE in same:
        why = f"{facts.fault} is still there, and its replacement was asked for: a person brings it back"
        return Decision(Step.PERSON, why, "replaced in vain")
    if same.count(Step.REBOOT) >= limits.reboots or facts.action.startswith("replace"):
        done = f"{facts.fault} after {same.count(Step.REBOOT)} reboots"
        return Decision(Step.REPLACE, done, "reboots in vain" if Step.REBOOT in same else "hardware")
    if facts.action.startswith(("have a person", "correct the configuration", "none", "restart the application")):
        return Decision(Step.PERSON, f"{facts.fault}: {facts.action}", "no remedy of ours")
    if facts.busy:
        return Decision(Step.WAIT, f"{facts.fault}; jobs still run there", "busy")
    if facts.action.startswith("reset") and not same:
        return Decision(Step.RESET, facts.fault, "ladder")
    return Decision(Step.REBOOT, facts.fault, "ladder")


def _return(facts: Facts, own: list[Deed], limits: Limits, now: float) -> Decision:
    """Flaps lengthen the time for which a node has to stay healthy."""
    if any(deed.step is Step.REPLACE for deed in own):
        return Decision(Step.PERSON, "healthy, but it was to be replaced: a person says whether it was", "replaced")
    if facts.reason.startswith(DEEP_PREFIX):
        why = "a deep check drained it, and no reading shows what that found: undrain it when it is mended"
        return Decision(Step.PERSON, why, "deep check")
    if facts.reason.startswith(JOBS_PREFIX):
        why = "jobs failed on it again and again, which no reading shows: undrain it when it is mended"
        return Decision(Step.PERSON, why, "jobs failed there")
    score = lemon_score(facts.node, own, limits, now)
    if score >= limits.lemon_score:
        return Decision(Step.PERSON, f"healthy, but a repeat offender (score {score:.1f})", "lemon")
    drains = sum(deed.step is Step.DRAIN for deed in own)
    wait_s = min(limits.recovery_s * 2 ** min(max(0, drains - 1), 40), limits.longest_recovery_s)
    since = now if facts.healthy_since is None else facts.healthy_since
    if now - since < wait_s:
        return Decision(Step.WAIT, f"healthy for {now - since:.0f} of {wait_s:.0f} s", "recovery window", since + wait_s)
    return Decision(Step.RETURN, f"healthy for {now - since:.0f} s", "recovered")
