"""Slurm through its own commands, from 21.08 to 26.05 (adapter over :mod:`hpctrain.process`).

The contract suite passes on 22.05.8, 24.11.5 and 26.05.5; the versions between use the same options.

What is decided here, once:

- **Every call has a timeout.** When slurmctld does not answer, a call is repeated a few times with growing pauses and
  then raises ControllerDownError.
- **A submission is never repeated blindly.** After an unclear failure (a timeout rather than "connection refused") the
  queue is searched for the job first: a job of ours with the same name, comment and working directory, newer than the
  attempt. Give every submission a working directory or comment of its own, and this is exact.
- **The user's Slurm variables are left out** (:func:`hpctrain.slurm.commands.clean_environment` says why): also a
  personal ``SBATCH_ACCOUNT``; put it into the recipe or into the ``[recipe]`` table of ``config.toml``.
- **Jobs are listed with one ``squeue``**, whatever their number. A second one reads the excluded nodes, for which
  ``squeue -O`` has no column, only if a job that is not over is among them. Measured on a private Slurm 22.05 with 400
  pending jobs, on two busy cores: 24 ms for all of them (8 + 6 in the two squeue, 5 in parsing), 4 ms for one;
  ``scontrol show job``, which has everything but no filter, prints 403 KB for them.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from hpctrain import process
from hpctrain.clock import Clock, SystemClock
from hpctrain.errors import ControllerDownError, NotFoundError, SlurmError
from hpctrain.ids import JobId, NodeName
from hpctrain.process import Result
from hpctrain.slurm import parse, refusal
from hpctrain.slurm.commands import Commands, Runner, clean_environment, never_arrived, no_answer, said
from hpctrain.slurm.model import Job, JobUpdate, Node, Partition, Submission, clean_reason
from hpctrain.slurm.script_options import script_options
from hpctrain.slurm.via_cli_accounting import AccountingCommands
from hpctrain.slurm.via_cli_nodes import NodeCommands, folded

_MAX_IDS_ON_COMMAND_LINE = 2000
_CLOCK_SKEW_S = 60.0


T = TypeVar("T")


class SlurmCli(NodeCommands, AccountingCommands):
    """A :class:`hpctrain.slurm.port.Slurm` made of squeue, scontrol, sbatch, scancel and sacct.

    Args:
        env: the whole environment for the commands; ``SLURM_CONF`` in it chooses the cluster.
        timeout_s: longest wait for one command.
        retries: further tries when the controller does not answer.
        announce: told in one sentence before each further try.
        uid: whose jobs are "ours"; None is the calling user.
    """

    def __init__(
        self,
        env: Mapping[str, str],
        *,
        timeout_s: float = 20.0,
        retries: int = 3,
        clock: Clock | None = None,
        runner: Runner = process.run,
        announce: Callable[[str], None] | None = None,
        uid: int | None = None,
    ) -> None:
        self._slurm = Commands(
            clean_environment(env), timeout_s, retries, clock or SystemClock(), runner, announce or (lambda _: None)
        )
        self._uid = os.getuid() if uid is None else uid

    def version(self) -> str:
        """Slurm's version, such as ``22.05.8``; asks no controller."""
        result = self._slurm.run("scontrol", "-V")
        found = re.search(r"\d+\.\d+[\w.-]*", result.stdout)
        if not result.ok or not found:
            raise refusal.explain(result.stderr, "cannot tell Slurm's version")
        return found[0]

    def cluster_name(self) -> str:
        """``ClusterName`` of the controller."""
        answer = self._slurm.read("cannot read Slurm's configuration", "scontrol", "show", "config")
        found = re.search(r"^ClusterName\s*=\s*(\S+)", answer, re.M)
        return found[1] if found else ""

    def submit(self, submission: Submission) -> JobId:
        """Queue a batch job; see the module's docstring for what happens when the controller does not answer.

        Raises:
            NotFoundError: the working directory does not exist.
        """
        if not Path(submission.work_dir).is_dir():
            raise NotFoundError("the job's working directory does not exist", where=submission.work_dir)
        started = self._slurm.clock.time()
        result = self._sbatch(submission)
        for pause_s in self._slurm.pauses():
            if not no_answer(result):
                break
            self._slurm.wait(result, pause_s)
            if never_arrived(result):
                result = self._sbatch(submission)
            elif (found := self._find(submission, started)) is not None:
                return found
        if no_answer(result):
            raise self._submission_unclear(result)
        if not result.ok:
            raise self._refused_submission(result, submission)
        return self._job_id(result)

    def jobs(
        self, ids: Iterable[JobId] | None = None, *, all_users: bool = False, exclusions: bool = True,
    ) -> list[Job]:
        """Jobs by id, from one query (two where excluded nodes can matter)."""
        wanted = None if ids is None else sorted(set(ids))
        if wanted == []:
            return []
        selection = self._selection(wanted, all_users=all_users)
        mark = _separator()
        answer = self._squeue("-O", parse.job_format(mark), *selection)
        jobs = _parsed(lambda: parse.parse_jobs(answer, mark))
        if wanted is not None:
            known = set(wanted)
            jobs = [job for job in jobs if job.job_id in known]
        if exclusions and any(not job.state.finished for job in jobs):
            jobs = self._with_exclusions(jobs, selection)
        return sorted(jobs, key=lambda job: job.job_id)

    def nodes(self, names: Iterable[NodeName] | None = None) -> list[Node]:
        """Nodes in natural order."""
        which = [] if names is None else [folded(names)]
        if which == [""]:
            return []
        result, _ = self._slurm.ask("scontrol", "--all", "--details", "--oneliner", "show", "node", *which)
        if not result.ok:
            # Nodes that do exist are printed beside the complaint.
            complaint = "\n".join(line for line in said(result).splitlines() if not line.startswith("NodeName="))
            raise refusal.explain(complaint, "cannot list nodes")
        return _parsed(lambda: parse.parse_nodes(result.stdout))

    def partitions(self) -> list[Partition]:
        """All partitions, hidden ones too."""
        answer = self._slurm.read("cannot list partitions", "scontrol", "--all", "--oneliner", "show", "partition")
        return _parsed(lambda: parse.parse_partitions(answer))

    def update_job(self, job_id: JobId, update: JobUpdate) -> None:
        """Change a job with one request; time limits are rounded up to Slurm's whole minutes."""
        changes = []
        if update.start_now:
            changes.append("StartTime=now")
        if update.exclude is not None:
            changes.append(f"ExcNodeList={folded(update.exclude)}")
        if update.time_limit_s is not None:
            changes.append(f"TimeLimit={-(-update.time_limit_s // 60)}")
        if update.comment is not None:
            changes.append(f"Comment={update.comment}")
        if changes:
            self._slurm.change(f"cannot change job {job_id}", "scontrol", "update", f"JobId={job_id}", *changes)

    def requeue(self, job_id: JobId, *, hold: bool = False) -> None:
        """Stop a job and queue it again, held or not."""
        verb = "requeuehold" if hold else "requeue"
        result, repeated = self._slurm.ask("scontrol", verb, str(job_id))
        if not result.ok and not (repeated and "is pending execution" in result.stderr):
            # The exception: an earlier try did reach Slurm, only its answer was lost.
            raise refusal.explain(said(result), f"cannot requeue job {job_id}")

    def hold(self, job_id: JobId) -> None:
        """Hold a job as its user, so that its owner can release it even if an operator held it."""
        self._slurm.change(f"cannot hold job {job_id}", "scontrol", "uhold", str(job_id))

    def release(self, job_id: JobId) -> None:
        """Undo a hold."""
        self._slurm.change(f"cannot release job {job_id}", "scontrol", "release", str(job_id))

    def cancel(self, job_id: JobId) -> None:
        """End a job. Looks first, because scancel does not tell an unknown job from a cancelled one."""
        found = self.jobs([job_id])
        if not found:
            raise refusal.explain("Invalid job id specified", f"cannot cancel job {job_id}")
        if not found[0].state.finished:
            self._slurm.change(f"cannot cancel job {job_id}", "scancel", str(job_id))

    def drain(self, names: Iterable[NodeName], reason: str) -> None:
        """Drain nodes."""
        nodes, text = folded(names), clean_reason(reason)
        if nodes:
            changes = (f"NodeName={nodes}", "State=DRAIN", f"Reason={text}")
            self._slurm.change(f"cannot drain {nodes}", "scontrol", "update", *changes)

    def undrain(self, names: Iterable[NodeName]) -> None:
        """Undrain nodes. Slurm 22.05 shows them NOT_RESPONDING for the seconds until it has pinged them."""
        nodes = folded(names)
        if nodes:
            self._slurm.change(f"cannot undrain {nodes}", "scontrol", "update", f"NodeName={nodes}", "State=UNDRAIN")

    # -- listing --------------------------------------------------------------------------------------------------------

    def _squeue(self, *arguments: str) -> str:
        result, _ = self._slurm.ask("squeue", "--noheader", "--all", "--local", "--states=all", *arguments)
        text = result.stderr
        if "Invalid job format" in text:
            message = f"this squeue lacks a column: {refusal.in_slurms_words(text)}"
            raise SlurmError(message, hint="Slurm 21.08 or newer is needed")
        if not result.ok and "invalid job id" not in text.lower():
            raise refusal.explain(said(result), "cannot list jobs")
        return result.stdout

    def _selection(self, ids: Sequence[JobId] | None, *, all_users: bool) -> tuple[str, ...]:
        if ids is None:
            return () if all_users else (f"--user={self._uid}",)
        # squeue loads the whole queue for more than one id anyway, and a command line has an end.
        return (f"--jobs={','.join(map(str, ids))}",) if len(ids) <= _MAX_IDS_ON_COMMAND_LINE else ()

    def _with_exclusions(self, jobs: Sequence[Job], selection: Sequence[str]) -> list[Job]:
        mark = _separator()
        answer = self._squeue("-o", parse.exclusion_format(mark), *selection)
        excluded = _parsed(lambda: parse.parse_exclusions(answer, mark))
        return [replace(job, excluded_nodes=excluded.get(job.job_id, ())) for job in jobs]

    # -- submitting --------------------------------------------------------------------------------------------------

    def _sbatch(self, submission: Submission) -> Result:
        return self._slurm.sbatch(submission.script, work_dir=submission.work_dir, env=submission.env)

    def _job_id(self, result: Result) -> JobId:
        """``id`` or ``id;cluster``; lines before it may come from a site's submission plugin."""
        found = re.search(r"^(\d+)(?:;\S*)?\s*\Z", result.stdout, re.M)
        if not found:
            raise SlurmError(f"sbatch gave no job id but said: {refusal.in_slurms_words(said(result))}")
        return JobId(int(found[1]))

    def _find(self, submission: Submission, started: float) -> JobId | None:
        """The job that an attempt with a lost answer may have made."""
        options = script_options(submission.script)
        wanted = (options.get("job-name"), options.get("comment", ""), submission.work_dir)
        impatient = copy(self)
        impatient._slurm = replace(self._slurm, retries=0)  # this is itself one of the tries
        try:
            jobs = impatient.jobs()
        except ControllerDownError:
            return None
        ids = [
            job.job_id for job in jobs
            if (job.name if wanted[0] else None, job.comment, job.work_dir) == wanted
            and (job.submit_time or 0) >= started - _CLOCK_SKEW_S
        ]  # fmt: skip
        return max(ids, default=None)

    def _submission_unclear(self, result: Result) -> ControllerDownError:
        if never_arrived(result):
            return ControllerDownError(f"{self._slurm.why(result)}; nothing was submitted", hint="check 'scontrol ping'")
        return ControllerDownError(
            f"{self._slurm.why(result)}; no job has appeared, but Slurm may still accept the request",
            hint="check 'scontrol ping' and 'squeue --me' before you submit again",
        )

    def _refused_submission(self, result: Result, submission: Submission) -> SlurmError:
        text, options = said(result), script_options(submission.script)
        error = refusal.explain(text, "Slurm refused the job")
        try:
            if refusal.is_invalid_partition(text):
                names = ", ".join(partition.name for partition in self.partitions())
                return type(error)(error.message, hint=f"partitions here: {names}")
            if refusal.is_configuration_unavailable(text):
                return type(error)(error.message, hint=self._what_nodes_offer(options.get("partition", "")))
        except SlurmError:
            pass  # the refusal itself is what the user needs to see
        return error

    def _what_nodes_offer(self, partition: str) -> str:
        """The largest node of a partition, in the words of a recipe."""
        name = partition or next((part.name for part in self.partitions() if part.is_default), "")
        nodes = [node for node in self.nodes() if name in node.partitions]
        if not nodes:
            return "'sinfo' shows what the nodes offer"
        best = max(nodes, key=lambda node: (node.gpus, node.cpus, node.memory_mib))
        gpus = f"{best.gpus} GPUs{f' ({best.gpu_type})' if best.gpu_type else ''}"
        return f"the largest node of partition {name} has {gpus}, {best.cpus} CPUs and {best.memory_mib} MiB of memory"


def _separator() -> str:
    """Fresh for each call, so that no name or comment can contain it."""
    return f"~{secrets.token_hex(4)}~"


def _parsed(read: Callable[[], T]) -> T:
    try:
        return read()
    except ValueError as error:
        raise SlurmError(f"Slurm's answer does not parse: {error}", hint="please report this with 'scontrol -V'") from None
