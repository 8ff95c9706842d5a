"""Decisions spelled out as commands, in the order they must be carried out (pure, standard library only).

What counts is written down first (the attempt), then done, then told. A key names job, start and deed, so that the same
decision made again, by this watchdog or another, is the same command.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hpctrain.watchdog.budget import Attempt, Cause, Verdict
from hpctrain.watchdog.causes import Diagnosis
from hpctrain.watchdog.model import Command, Deed, JobView


def look(view: JobView, found: Diagnosis) -> Command:
    """Look closer before judging; leaves no trace in the journal."""
    return _command(view, Deed.LOOK, found.cause, found.reason)


def look_for(view: JobView) -> Command:
    """Ask the run's own record what became of a job that Slurm no longer knows."""
    return _command(view, Deed.LOOK, Cause.UNKNOWN, f"Slurm no longer knows job {view.job.job_id}", data={"lost": True})


def restart(
    view: JobView, attempt: Attempt, verdict: Verdict, exclude: tuple[str, ...], number: int,
) -> list[Command]:
    """Queue the job again; held, where nodes are to be excluded before it starts.

    Args:
        number: how many failures of the run were counted before: it tells a decision made once more from a new one.
    """
    reason = f"{attempt.message}; {verdict.reason}"
    kind = Deed.REQUEUE_HOLD if exclude else Deed.REQUEUE
    deed = _command(view, kind, attempt.cause, reason, nodes=exclude, mark=str(number))
    text = f"{view.managed.run_name}: {reason}; the job is queued again" + _without(view, exclude)
    told = (*_started(view, attempt, verdict, number), _tell(view, attempt.cause, text, "restart", str(number)))
    counted = _counted(view, attempt, exclude, f"restart:{number}")
    return [*counted, deed, *(_after(deed, command) for command in told)]


def drain(view: JobView, attempt: Attempt, node: str, times: int, number: int) -> list[Command]:
    """Take a node out of service that jobs have failed on again and again.

    Args:
        times: how often, this one included.
    """
    last = f"the last was that of {view.managed.run_name} (job {view.job.job_id}): {attempt.message}"
    count = "1 failure of a job is" if times == 1 else f"{times} failures of jobs are"
    reason = f"{count} blamed on it; {last}"
    deed = _command(view, Deed.DRAIN, attempt.cause, reason, nodes=(node,), mark=f"{node}:{number}")
    return [deed, _after(deed, _tell(view, attempt.cause, f"{node} is drained: {reason}", "drain", f"{node}:{number}"))]


def release_held(
    view: JobView, attempt: Attempt, verdict: Verdict, exclude: tuple[str, ...], number: int,
) -> list[Command]:
    """Let a job go that Slurm holds after a failed prolog, without the nodes that failed."""
    reason = f"{attempt.message}; {verdict.reason}"
    commands = _counted(view, attempt, exclude, f"release:{number}")
    if exclude:
        commands.append(_command(view, Deed.EXCLUDE, attempt.cause, reason, nodes=exclude, mark=f"prolog:{number}"))
    deed = _command(view, Deed.RELEASE, attempt.cause, reason, mark=f"prolog:{number}")
    text = f"{view.managed.run_name}: {reason}; the job is released" + (f" without {', '.join(exclude)}" if exclude else "")
    told = (*_started(view, attempt, verdict, number), _tell(view, attempt.cause, text, "restart", str(number)))
    return [*commands, deed, *(_after(deed, command) for command in told)]


def stop(view: JobView, attempt: Attempt, verdict: Verdict, number: int) -> list[Command]:
    """The end, with a verdict. A job that Slurm holds stays held: releasing it may still help when the nodes are mended."""
    reason = f"{attempt.message}; {verdict.reason}"
    way = "release" if attempt.cause is Cause.PROLOG else "restart"
    evidence = {
        "cause": attempt.cause.value, "rule": verdict.rule, "exit_code": view.job.exit_code, "traceback": "",
        "fingerprint": attempt.fingerprint, "time_of_decision": attempt.time,
    }
    commands = [
        _attempt(view, attempt, f"{way}:{number}"),
        _record(view, "job.failed", attempt.cause, reason, evidence, step=attempt.step, mark=str(number)),
    ]
    if not view.job.state.finished and attempt.cause is not Cause.PROLOG:
        commands.append(_command(view, Deed.CANCEL, attempt.cause, reason))
    return [*commands, _tell(view, attempt.cause, f"{view.managed.run_name} is stopped: {reason}", "stop", str(number))]


def release(view: JobView, exclude: tuple[str, ...], now: float) -> list[Command]:
    """The end of a hold of ours: the nodes are excluded, then the job is let go."""
    mark, why = f"{int(now)}", "its nodes are chosen anew, so it may start"
    commands = []
    if exclude:
        commands.append(_command(view, Deed.EXCLUDE, Cause.NODE, why, nodes=exclude, mark=mark))
    return [*commands, _command(view, Deed.RELEASE, Cause.NODE, why, mark=mark)]


def start_now(view: JobView, now: float) -> Command:
    """Lift Slurm's delay after a requeue."""
    return _command(view, Deed.START_NOW, Cause.HELD, "Slurm's delay after a requeue is lifted", mark=f"{int(now)}")


def include(view: JobView, nodes: tuple[str, ...], why: str, now: float) -> list[Command]:
    """Take exclusions of ours back."""
    return [_command(view, Deed.INCLUDE, Cause.NODE, why, nodes=nodes, mark=f"{int(now)}")]


def carry_on(view: JobView, dead: tuple[str, ...]) -> list[Command]:
    """Go on as another job while Slurm waits for dead nodes. The failure was counted when the job was queued again."""
    names = ", ".join(dead)
    reason = f"the job was queued again, and Slurm still waits for {names}: the run goes on as another job without it"
    evidence = {"nodes": list(dead), "old_job": int(view.job.job_id)}
    deed = _command(view, Deed.CONTINUE, Cause.NODE, reason, nodes=dead)
    told = (
        _record(view, "job.requeued", Cause.NODE, reason, evidence, mark="continue"),
        _tell(view, Cause.NODE, f"{view.managed.run_name}: {reason}", "continue"),
    )
    return [deed, *(_after(deed, command) for command in told)]


def tell(view: JobView, found: Diagnosis, now: float) -> list[Command]:
    """Tell a person what only a person can change."""
    kind = "job.failed" if view.job.state.finished else "detection.alert"
    evidence = {"detector": "watchdog", "cause": found.cause.value, "time_of_decision": now}
    return [
        _record(view, kind, found.cause, found.reason, evidence),
        _tell(view, found.cause, f"{view.managed.run_name}: {found.reason}", "alert"),
    ]


def lost(view: JobView, now: float) -> list[Command]:
    """Slurm has lost the job. Nothing is submitted: whether a person cancelled it meanwhile cannot be known."""
    reason = f"Slurm no longer knows job {view.job.job_id}, which had not ended; submit the run again if it should go on"
    evidence = {"detector": "watchdog", "cause": Cause.UNKNOWN.value, "time_of_decision": now}
    return [
        _record(view, "detection.alert", Cause.UNKNOWN, reason, evidence, mark="lost"),
        _tell(view, Cause.UNKNOWN, f"{view.managed.run_name}: {reason}", "lost"),
    ]


def _counted(view: JobView, attempt: Attempt, exclude: tuple[str, ...], mark: str) -> list[Command]:
    """What failed, where the budget is counted and where people read of it; and the nodes that follow from it."""
    beat = view.beat
    fault = {
        "cause": attempt.cause.value, "rung": attempt.rung, "nodes": list(attempt.nodes), "fingerprint": attempt.fingerprint,
        "incarnation": attempt.incarnation, "detected_by": "slurm",
        "fault_time": beat.time if beat is not None and beat.restarts == view.job.restarts else attempt.time,
    }
    commands = [
        _attempt(view, attempt, mark),
        _record(view, "fault.detected", attempt.cause, attempt.message, fault, step=attempt.step, mark=mark),
    ]
    for node in exclude:
        evidence = {"node": node, "until": attempt.time + view.managed.limits.exclude_for_s, "reason": attempt.message}
        why = f"the job is kept from {node}: {attempt.message}"
        commands.append(_record(view, "node.excluded", attempt.cause, why, evidence, node=node, mark=f"{node}:{mark}"))
    return commands


def _without(view: JobView, exclude: tuple[str, ...]) -> str:
    """What becomes of nodes that a job is kept from. Only an administrator may drain; who looks after own jobs says so."""
    if not exclude:
        return ""
    stay = ", in service for others still (only an administrator's watchdog drains nodes)" if view.managed.run_dir else ""
    return f" without {', '.join(exclude)}{stay}"


def _started(view: JobView, attempt: Attempt, verdict: Verdict, number: int) -> tuple[Command, ...]:
    """That the job is being brought back."""
    evidence = {
        "rung": attempt.rung, "incarnation": attempt.incarnation + 1, "cause": attempt.cause.value,
        "reason": verdict.reason, "nodes": list(attempt.nodes),
    }
    text = f"{attempt.message}; {verdict.reason}"
    kind = "recovery.started"
    return (_record(view, kind, attempt.cause, text, evidence, step=attempt.step, mark=f"restart:{number}"),)


def _after(deed: Command, command: Command) -> Command:
    """A command that is void unless the deed it tells of was done."""
    return replace(command, data={**command.data, "after": deed.key})


def _attempt(view: JobView, attempt: Attempt, mark: str) -> Command:
    data = {"attempt": attempt.to_json(), "way": mark.partition(":")[0]}
    return _command(view, Deed.ATTEMPT, attempt.cause, attempt.message, data=data, mark=mark)


def _record(
    view: JobView, kind: str, cause: Cause, reason: str, evidence: Mapping[str, Any], *, step: int | None = None,
    node: str = "", mark: str = "",
) -> Command:
    data = {"kind": kind, "evidence": dict(evidence), "step": step, "node": node}
    return _command(view, Deed.RECORD, cause, reason, data=data, mark=f"{kind}:{cause.value}{':' + mark if mark else ''}")


def _tell(view: JobView, cause: Cause, text: str, kind: str, mark: str = "") -> Command:
    mark = f"{kind}:{cause.value}{':' + mark if mark else ''}"
    return _command(view, Deed.NOTIFY, cause, text, data={"kind": kind}, mark=mark)


def _command(
    view: JobView, deed: Deed, cause: Cause, reason: str, *, nodes: tuple[str, ...] = (),
    data: Mapping[str, Any] | None = None, mark: str = "",
) -> Command:
    job, managed = view.job, view.managed
    key = f"{managed.run_name}:{job.job_id}:{job.restarts}:{deed.value}" + (f":{mark}" if mark else "")
    return Command(
        deed, key, int(job.job_id), job.restarts, managed.run_name, managed.run_dir, cause, reason, nodes, data or {},
    )
