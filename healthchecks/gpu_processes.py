"""Processes on GPUs that belong to no job of theirs (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Blame, Check, Finding, Limits, Mode, Severity
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:  # noqa: ARG001 - every check has this form
    """In a prolog nobody may be on the job's GPUs; at other times everybody there must belong to a job."""
    job = reading.job.id if reading.job else ""
    for gpu in reading.gpus:
        for process in gpu.processes:
            foreign = process.job_id != job if reading.context == "prolog" and job else not process.job_id
            if not foreign:
                continue
            whose = f"of job {process.job_id}" if process.job_id else f"of user {process.uid}, of no job"
            message = f"GPU {gpu.index}: process {process.pid} ({process.name or 'unnamed'}) {whose} is on it"
            severity = Severity.CRITICAL if reading.context == "prolog" else Severity.WARNING
            yield CHECK.found(severity, gpu.entity, message, pid=process.pid, job=process.job_id, uid=process.uid)


CHECK = Check(
    name="gpu_processes",
    what="Who runs on the GPUs: in a prolog nobody may be on those the job is to get; later only processes of jobs.",
    why="Two jobs on one GPU are both slow, and one of them runs out of memory.",
    remedy="End the process; find out how it escaped from its job (ProctrackType, login with pam_slurm_adopt missing).",
    false_alarms="Monitoring agents and MPS daemons; name them to the site's exceptions by leaving this check in observe.",
    limits={},
    run=run,
    mode=Mode.WARN,
    action=Action.CLEAN,
    blame=Blame.USER,
    needs=("nvml",),
    contexts=("prolog", "periodic"),
)
