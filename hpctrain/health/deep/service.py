"""Submit deep checks as exclusive jobs, wait for them, collect what is on record (service over a part of the Slurm port)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hpctrain.clock import Clock
from hpctrain.errors import ControllerDownError, NotFoundError, SlurmError, UsageError
from hpctrain.files import write_atomic, write_json_atomic
from hpctrain.health.deep.files import DeepFiles
from hpctrain.health.deep.plan import DeepJob, DeepPlan, Placement, script
from hpctrain.health.deep.report import Evidence, JobEnd, Report, make_report
from hpctrain.ids import JobId
from hpctrain.slurm.model import Job, JobState, Node, Submission

SIMULATED_GPU = "sim"
"""Slurm's type of the private cluster's GPUs, which torch cannot see."""
_POLL_S = 2.0
_FORGOTTEN_AFTER = 5
_HEADLESS_AFTER = 3
_CUT_SHORT = (JobState.CANCELLED, JobState.PREEMPTED)


class DeepSlurm(Protocol):
    """What deep checks need of Slurm: a part of :class:`hpctrain.slurm.port.Slurm`."""

    def submit(self, submission: Submission) -> JobId:
        """Queue a batch job."""

    def jobs(self, ids: Iterable[JobId] | None = None, *, all_users: bool = False) -> list[Job]:
        """Jobs that the controller still remembers."""

    def cancel(self, job_id: JobId) -> None:
        """End a job."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for, beside the plan.

    Attributes:
        start_within_s: a job that has not started by then is cancelled, and its nodes are skipped.
        env: variables for the jobs.
    """

    placement: Placement
    python: str
    start_within_s: float
    fold: Callable[[Iterable[str]], str]
    env: Mapping[str, str] = field(default_factory=dict)


def sort_out(nodes: Sequence[Node], *, pairwise: bool, reserved: bool) -> tuple[tuple[DeepJob, ...], dict[str, str]]:
    """Jobs for the nodes that can be tested, and why the others cannot.

    Every node is a job of its own, so that a busy one delays only itself; pairs need all nodes of a kind at the same time.

    Args:
        reserved: the jobs run in a reservation, under which nodes show as being in maintenance.
    """
    skipped: dict[str, str] = {}
    groups: dict[tuple[int, str, int], list[str]] = {}
    for node in nodes:
        why = _unusable(node, reserved=reserved)
        if why:
            skipped[node.name] = why
        else:
            groups.setdefault((node.gpus, node.gpu_type, node.cpus), []).append(node.name)
    jobs: list[DeepJob] = []
    for (gpus, gpu_type, _), names in groups.items():
        gres = f"gpu:{gpu_type}:{gpus}" if gpu_type else f"gpu:{gpus}"
        real = 0 if gpu_type == SIMULATED_GPU else gpus
        members = [names] if pairwise else [[name] for name in names]
        jobs += [DeepJob(tuple(some), real, gres if gpus else "") for some in members]
    return tuple(jobs), skipped


def _unusable(node: Node, *, reserved: bool) -> str:
    if node.drained:
        return f"it is drained ('{node.reason}'), and Slurm starts no job there"
    if node.state == "DOWN" or "NOT_RESPONDING" in node.flags:
        return f"it is {node.state.lower()} or does not answer: {node.reason or 'no reason given'}"
    if "MAINTENANCE" in node.flags and not reserved:
        return "it is in a maintenance reservation: name it with --reservation"
    return ""


def scripts(plan: DeepPlan, request: Request, run_dir: str, run_name: str) -> list[str]:
    """The batch script of every job."""
    return [
        script(
            plan, number, request.placement, nodelist=request.fold(job.nodes), run_dir=run_dir, run_name=run_name,
            python=request.python,
        )
        for number, job in enumerate(plan.jobs)
    ]  # fmt: skip


def submit(
    slurm: DeepSlurm, plan: DeepPlan, request: Request, files: DeepFiles, skipped: Mapping[str, str] | None = None
) -> list[JobId]:
    """Write the run's directory and submit its jobs; if one is refused, those before it are cancelled.

    Raises:
        SlurmError: Slurm refused, or does not answer.
        StorageError: the directory cannot be written.
    """
    files.create(plan)
    ids: list[JobId] = []
    try:
        for number, text in enumerate(scripts(plan, request, str(files.directory), files.name)):
            write_atomic(files.directory / f"job-{number}.sh", text, durable=False)
            ids.append(slurm.submit(Submission(text, str(files.directory), dict(request.env))))
    except BaseException:
        cancel(slurm, ids)
        raise
    files.write_jobs(ids, skipped or {})
    return ids


def cancel(slurm: DeepSlurm, ids: Iterable[JobId]) -> None:
    """End all jobs, whatever state they are in."""
    for job_id in ids:
        try:
            slurm.cancel(job_id)
        except NotFoundError:
            continue  # it is over and forgotten


def wait(
    slurm: DeepSlurm, ids: Sequence[JobId], clock: Clock, start_within_s: float, tell: Callable[[str], None]
) -> list[JobEnd]:
    """How each job ended, once all have. Ctrl-C cancels them all, and passes on.

    Args:
        tell: told in one sentence whenever the picture changes.
    """
    begun, told = clock.time(), ""
    seen: dict[JobId, _Seen] = {one: _Seen() for one in ids}
    try:
        while left := [one for one in ids if seen[one].end is None]:
            try:
                known = {job.job_id: job for job in slurm.jobs(left)}
                for job_id in left:
                    seen[job_id].look(known.get(job_id), clock.time() - begun > start_within_s)
                    if seen[job_id].to_cancel:
                        cancel(slurm, [job_id])
                told = _told(known.values(), told, tell)
            except ControllerDownError as error:
                tell(f"{error}; the jobs go on, and so does the waiting")
            if any(one.end is None for one in seen.values()):
                clock.sleep(_POLL_S)
    except BaseException:
        try:
            cancel(slurm, [one for one in ids if seen[one].end is None])
        except SlurmError as error:
            tell(f"the jobs could not be cancelled ({error}): see 'squeue --me --name=hpctrain-deep'")
        raise
    return [end for one in ids if (end := seen[one].end) is not None]


@dataclass
class _Seen:
    """What was seen of a job so far."""

    end: JobEnd | None = None
    ran: bool = False
    absent: int = 0
    headless: int = 0
    to_cancel: bool = False

    def look(self, job: Job | None, late: bool) -> None:
        """Take in how the job is now; ``late``: it should have started by now."""
        if job is None:
            self.absent += 1
            if self.absent >= _FORGOTTEN_AFTER:
                self.end = JobEnd(started=True, why="Slurm has forgotten the job")
            return
        self.ran = self.ran or job.state is JobState.RUNNING
        # With --no-kill a job whose batch host died stays RUNNING without a batch script, and Slurm does not notice.
        lost = job.state is JobState.RUNNING and job.batch_host is not None and job.batch_host not in job.nodes
        self.headless = self.headless + 1 if lost else 0
        if self.headless >= _HEADLESS_AFTER:
            self.end = JobEnd(started=True, why=f"node {job.batch_host}, which led the job, was lost (job {job.job_id})")
            self.to_cancel = True
        elif job.state is JobState.PENDING and late:
            why = f"job {job.job_id} did not start in time ({job.reason or 'no reason given'})"
            self.end = JobEnd(started=False, why=why)
            self.to_cancel = True
        elif job.state.finished and "COMPLETING" not in job.flags:
            self.end = _end(job, ran=self.ran)


def _end(job: Job, *, ran: bool) -> JobEnd:
    started = ran or job.state is not JobState.CANCELLED or bool(job.nodes)
    words = {
        JobState.NODE_FAIL: "its node failed", JobState.TIMEOUT: "the job reached its time limit",
        JobState.CANCELLED: "the job was cancelled", JobState.PREEMPTED: "the job was preempted",
    }  # fmt: skip
    why = words.get(job.state, f"the job ended as {job.state.value}")
    return JobEnd(started=started, cut_short=job.state in _CUT_SHORT, why=f"{why} (job {job.job_id})")


def _told(jobs: Iterable[Job], before: str, tell: Callable[[str], None]) -> str:
    """Say how it stands, if that is new."""
    jobs = [job for job in jobs if not job.state.finished]
    states = [job.state for job in jobs]
    waiting = sorted({job.reason for job in jobs if job.state is JobState.PENDING and job.reason})
    text = f"jobs: {states.count(JobState.RUNNING)} running, {states.count(JobState.PENDING)} waiting"
    text += f" ({', '.join(waiting)})" if waiting else ""
    if jobs and text != before:
        tell(text)
    return text


def collect(files: DeepFiles, ends: Sequence[JobEnd], skipped: Mapping[str, str], clock: Clock) -> Report:
    """Judge what is on record, also of nodes and jobs that did not come to their end; kept as ``report.json``."""
    plan = files.plan()
    evidence = []
    for number, (job, end) in enumerate(zip(plan.jobs, ends, strict=True)):
        words = files.last_words(number)
        told = JobEnd(end.started, end.cut_short, f"{end.why}: {words}" if words and not end.cut_short else end.why)
        records = {node: files.told(node) for node in job.nodes}
        evidence.append(Evidence(job.nodes, told, records, files.pairs(number)))
    report = make_report(plan, evidence, skipped, run=str(files.directory), time=clock.time())
    write_json_atomic(files.directory / "report.json", report.to_json(), durable=False)
    return report


def check_names(names: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The checks of these names in their own order; all of them for none. Raises UsageError."""
    wrong = [name for name in names if name not in known]
    if wrong:
        raise UsageError(f"there is no deep check '{wrong[0]}'", hint=f"there are: {', '.join(known)}")
    return tuple(name for name in known if name in names) if names else tuple(known)


def require_plain(option: str, value: str) -> str:
    """A word that an ``#SBATCH`` line takes as it is. Raises UsageError."""
    if not all(char.isalnum() or char in "_./:@+,=%-" for char in value):
        raise UsageError(f"{option} {value!r} has a character that no batch script can carry here")
    return value

