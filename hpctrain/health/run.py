"""One health check of this node from beginning to end: look, judge, remember, decide (service).

The order is: read memory, start the probes, load the checks meanwhile, judge, write memory and event, ask the breaker,
drain.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpctrain.errors import StorageError
from hpctrain.health import take
from hpctrain.health.breaker import Permission
from hpctrain.health.config import Config
from hpctrain.health.finding import Check, Finding
from hpctrain.health.node_state import NodeFiles, NodeState, add_sample
from hpctrain.health.reading import Job, Process, Reading, Sample
from hpctrain.health.verdict import Level, Verdict, judge

RESERVE_S = {"prolog": 1.5, "epilog": 1.5, "periodic": 15.0}
"""Seconds of each context's budget that are kept for the time before and after the probes, and for draining."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a health check came to.

    Attributes:
        drain: the node is to be taken out of service now.
        notes: what an administrator should know: a breaker that refused, a configuration with mistakes.
        reading: what it was judged from, for recordings.
    """

    verdict: Verdict
    drain: bool
    notes: tuple[str, ...]
    reading: Reading


@dataclass(frozen=True, slots=True)
class Tools:
    """What the service needs from outside.

    Attributes:
        ask_breaker: (node, reason) -> permission to drain.
        drain: (node, reason) -> "" or why it was not done; None where the exit code alone drains.
        end_leftovers: (job, node) -> survivors; None outside an epilog.
    """

    ask_breaker: Callable[[str, str], Permission]
    drain: Callable[[str, str], str] | None = None
    end_leftovers: Callable[[Job, str], tuple[Process, ...]] | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """What is to be looked at.

    Attributes:
        only: names of checks; empty for all of the context.
        budget_s: what is left of the context's budget; None for all of it.
        remember: keep what was learned (a person who only looks does not change the node's memory).
    """

    node: str
    context: str
    job: Job | None = None
    only: tuple[str, ...] = ()
    budget_s: float | None = None
    remember: bool = True


def check_node(config: Config, problems: Sequence[str], look: Look, tools: Tools) -> Outcome:
    """Look at this node and judge it; see the module for the order of things.

    Args:
        problems: what was wrong with the configuration.

    Raises:
        NotFoundError: there is no check of a name in ``look.only``.
    """
    notes = [f"configuration: {problem}" for problem in problems]
    files = NodeFiles(Path(config.state_dir), look.node, config.log_bytes)
    survivors = tools.end_leftovers(look.job, look.node) if tools.end_leftovers and look.job else ()
    with files.locked() if look.remember else nullcontext(False) as locked:
        state = files.load()
        checks, taken = _take(config, look, state, notes)
        reading = replace(taken.reading, leftovers=survivors)
        from hpctrain.health.registry import with_model

        rules = with_model(config.rules, (gpu.text("name") for gpu in reading.gpus))
        verdict = judge(reading, checks, rules)
        if look.remember:
            notes += _keep(files, _next_state(state, taken, verdict) if locked else None, event_record(verdict, look.job))
    return _decide(config, verdict, reading, tools, notes)


def take_reading(config: Config, look: Look) -> take.Taken:
    """Look without judging, at what the context looks at; the node's memory is used and stays as it is."""
    state = NodeFiles(Path(config.state_dir), look.node, config.log_bytes).load()
    return take.begin(config, _request(config, look, state, _probes(config, look, ()))).finish()


def _keep(files: NodeFiles, state: NodeState | None, event: Mapping[str, Any]) -> list[str]:
    """Write the node's memory and its log, each as far as it goes; what could not be written, in a sentence each."""
    notes = []
    try:
        if state is not None:
            files.save(state)
    except StorageError as error:
        notes.append(f"cannot keep what was learned: {error}")
    try:
        files.append(event)
    except StorageError as error:
        notes.append(f"cannot log the verdict '{event['level']}' {event['reason']}: {error}")
    return notes


def _take(config: Config, look: Look, state: NodeState, notes: list[str]) -> tuple[tuple[Check, ...], take.Taken]:
    """Start the probes and load the checks at the same time; with names of checks, only the probes that those need."""
    taking = None if look.only else take.begin(config, _request(config, look, state, _probes(config, look, ())))
    from hpctrain.health.registry import choose, for_context, load_checks  # while the probes run

    checks = load_checks(config.site_checks, notes)
    if taking is None:
        checks = choose(checks, look.only)
        taking = take.begin(config, _request(config, look, state, _probes(config, look, checks)))
    else:
        checks = for_context(checks, look.context)
    return checks, taking.finish()


def _probes(config: Config, look: Look, checks: Sequence[Check]) -> tuple[str, ...]:
    """The probes that are needed: those of these checks, or all that the context has use for."""
    if look.only:
        return tuple(name for name in take.PROBES if any(name in check.needs for check in checks))
    spared = set()
    if look.job is not None and look.job.gpus == ():
        spared.add("nvml")
    if look.context in ("prolog", "epilog") and not config.expected.services:
        spared.add("processes")  # thousands of small files on a large node, for checks that only the periodic look has
    return tuple(name for name in take.PROBES if name not in spared)


def _request(config: Config, look: Look, state: NodeState, probes: Sequence[str]) -> take.Request:
    whole_s = config.budget_s.get(look.context, 30.0) if look.budget_s is None else look.budget_s
    return take.Request(
        look.node,
        look.context,
        probes,
        deadline_s=max(0.2, whole_s - min(RESERVE_S.get(look.context, 0.5), whole_s / 2)),
        job=look.job,
        thorough=look.context in ("periodic", "manual"),
        log=state.log,
        samples=state.samples if look.context in ("periodic", "manual") else (),
        blocked_before=state.blocked,
        stuck={name: str(one.get("since", "?")) for name, one in state.stuck.items() if _still_stuck(one)},
    )


def _still_stuck(child: Mapping[str, Any]) -> bool:
    """The same process, still there."""
    return bool(child.get("start")) and _start_of(int(child.get("pid", 0))) == child.get("start")


def _start_of(pid: int) -> str:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return fields[19] if len(fields) > 19 and fields[0] not in ("Z", "X") else ""


def _next_state(state: NodeState, taken: take.Taken, verdict: Verdict) -> NodeState:
    reading = taken.reading
    samples = state.samples if state.boot_id == reading.boot_id else ()
    counters = dict(reading.counters())
    if counters and reading.context == "periodic":
        samples = add_sample(samples, Sample(reading.time, counters))
    stuck = {name: one for name, one in state.stuck.items() if _still_stuck(one)}
    for name, pid in taken.abandoned.items():
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(reading.time))
        stuck.setdefault(name, {"pid": pid, "start": _start_of(pid), "since": since})
    looked = reading.probes.get("processes")
    blocked = tuple((p.pid, p.started) for p in reading.processes if p.state == "D")
    return NodeState(
        reading.boot_id,
        taken.log,
        samples,
        blocked if looked and looked.outcome == "ok" else state.blocked,
        stuck,
        verdict_record(verdict),
        state.failures,
    )


def _decide(config: Config, verdict: Verdict, reading: Reading, tools: Tools, notes: list[str]) -> Outcome:
    """A draining verdict still has to pass the settle time after a boot, and the breaker."""
    if verdict.level is not Level.DRAIN:
        return Outcome(verdict, False, tuple(notes), reading)
    if reading.uptime_s is not None and reading.uptime_s < config.settle_s and verdict.context == "periodic":
        notes.append(f"not drained: the node booted {reading.uptime_s:.0f} s ago and settles for {config.settle_s:.0f} s")
        return Outcome(verdict, False, tuple(notes), reading)
    if config.drain_via == "controller" or verdict.context == "manual":
        if verdict.context != "manual":
            notes.append("not drained here: 'hpctrain nodes tend' acts on this verdict")
        return Outcome(verdict, False, tuple(notes), reading)
    permission = tools.ask_breaker(verdict.node, verdict.reason)
    if not permission.granted:
        drain = config.breaker.fallback == "drain"
        notes.append(f"ALERT {'drained although' if drain else 'not drained:'} {permission.reason}; {verdict.reason}")
        if not drain:
            return Outcome(verdict, False, tuple(notes), reading)
    refused = tools.drain(verdict.node, verdict.reason) if tools.drain else ""
    if refused:
        notes.append(f"the drain reason could not be set: {refused}")
    return Outcome(verdict, True, tuple(notes), reading)


def finding_record(level: Level, finding: Finding) -> dict[str, Any]:
    """A finding as JSON."""
    return {
        "level": level.name.lower(),
        "check": finding.check,
        "severity": finding.severity.name.lower(),
        "entity": finding.entity,
        "message": finding.message,
        "action": finding.action.value,
        "blame": finding.blame.value,
        "rule": finding.rule,
        "evidence": dict(finding.evidence),
    }


def verdict_record(verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON; skipped checks are only counted, and so are those with nothing to say.

    What a check says of a healthy node is kept: a program's own Xid explains the end of a job.
    """
    told = [finding_record(level, finding) for level, finding in verdict.findings if level is not Level.SKIP]
    return {
        "time": verdict.time,
        "node": verdict.node,
        "context": verdict.context,
        "level": verdict.level.name.lower(),
        "reason": verdict.reason,
        "checks": verdict.checks,
        "findings": told[:64],
    }


def event_record(verdict: Verdict, job: Job | None) -> dict[str, Any]:
    """A verdict as an event of the node's log, in the form of every event of hpctrain."""
    record = verdict_record(verdict)
    return {
        "time": record["time"],
        "source": "health",
        "kind": "health",
        "node": record["node"],
        "job": job.id if job else None,
        "reason": record["reason"],
        "level": record["level"],
        "context": record["context"],
        "checks": record["checks"],
        "evidence": record["findings"],
    }
