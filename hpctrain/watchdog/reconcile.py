"""Whether a command still has to be carried out, judged by what Slurm shows now (pure, standard library only).

Asked right before every effect, and again for what was intended when a watchdog died: an effect that has come about is not
repeated, and one that has become pointless, or would touch what a person decided meanwhile, is void.
"""

from __future__ import annotations

from enum import Enum

from hpctrain.slurm.model import Job, JobState
from hpctrain.watchdog.model import Command, Deed


class Standing(str, Enum):
    """How things stand with a command."""

    TO_DO = "to do"
    DONE = "done"
    VOID = "void"
    LATER = "later"
    """The job is between two states: look again."""


def reconcile(command: Command, job: Job | None) -> tuple[Standing, str]:
    """How things stand, and why.

    Args:
        job: as Slurm has just shown it, with its excluded nodes; None if it does not know it.
    """
    if job is None:
        return Standing.VOID, "Slurm does not know the job"
    if command.deed in (Deed.REQUEUE, Deed.REQUEUE_HOLD):
        return _requeue(command, job)
    if command.deed is Deed.CANCEL:
        if job.state.finished:
            return Standing.DONE, f"it has ended ({job.state.value})"
        if job.restarts != command.restarts:
            return Standing.VOID, "it has been queued again since"
        return Standing.TO_DO, ""
    if job.state.finished:
        return Standing.VOID, f"it has ended ({job.state.value})"
    if command.deed is Deed.RELEASE:
        return _release(job)
    if job.state is not JobState.PENDING or "COMPLETING" in job.flags:
        return Standing.VOID, "it is not waiting"
    if command.deed is Deed.EXCLUDE:
        done = set(command.nodes) <= {str(node) for node in job.excluded_nodes}
        return (Standing.DONE, "they are excluded") if done else (Standing.TO_DO, "")
    if command.deed is Deed.INCLUDE:
        done = not set(command.nodes) & {str(node) for node in job.excluded_nodes}
        return (Standing.DONE, "they are not excluded") if done else (Standing.TO_DO, "")
    if command.deed is Deed.START_NOW:
        waits = job.reason in ("BeginTime", "", "None") and not job.held
        return (Standing.TO_DO, "") if waits else (Standing.VOID, f"it waits for something else ({job.reason})")
    return Standing.TO_DO, ""


def _requeue(command: Command, job: Job) -> tuple[Standing, str]:
    if job.state in (JobState.CANCELLED, JobState.COMPLETED):
        return Standing.VOID, f"it is {job.state.value}, and stays so"
    if job.restarts > command.restarts:
        return Standing.DONE, f"it was queued again (restart {job.restarts})"
    if job.state is JobState.PENDING:
        return Standing.VOID, "it is waiting to start"
    if "COMPLETING" in job.flags:
        return Standing.LATER, "it is being cleaned up"
    return Standing.TO_DO, ""


def _release(job: Job) -> tuple[Standing, str]:
    if job.state is not JobState.PENDING:
        return Standing.VOID, "it is not waiting"
    if "COMPLETING" in job.flags:
        return Standing.LATER, "it is being cleaned up"
    if not job.held:
        return Standing.DONE, "it is not held"
    lower = job.reason.replace("_", " ").lower()
    if "launch failed" in lower or "held state" in lower or job.reason == "JobHoldMaxRequeue":
        return Standing.TO_DO, ""
    return Standing.VOID, f"a person holds it ({job.reason})"
