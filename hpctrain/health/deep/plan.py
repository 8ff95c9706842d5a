"""What a run of deep checks is to do: checks, sizes, jobs; and the text of a job's script (pure)."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hpctrain import __version__
from hpctrain.health.deep.baseline import Band, Stored, parse
from hpctrain.health.deep.pairing import MOST_ROUNDS
from hpctrain.health.deep.sizes import PROFILES, Sizes, time_limit_s

VERSION = 1


@dataclass(frozen=True, slots=True)
class DeepJob:
    """One Slurm job: all its nodes begin at the same time.

    Attributes:
        gpus: GPUs per node that Slurm says are there; 0 for none, and for simulated ones.
        gres: Slurm's request for all GPUs of a node, "" for none.
    """

    nodes: tuple[str, ...]
    gpus: int = 0
    gres: str = ""


@dataclass(frozen=True, slots=True)
class DeepPlan:
    """Everything that the nodes need to know; ``plan.json`` of the run directory.

    Attributes:
        checks: names of the checks of single nodes, in order.
        pairwise: pairs of nodes are measured, too.
        baselines: the site's stored baselines, as their file has them.
        local_dir: directory on every node's own disk.
        one_host: all nodes are this machine (a private cluster).
    """

    checks: tuple[str, ...]
    pairwise: bool
    profile: str
    band: Band
    jobs: tuple[DeepJob, ...]
    local_dir: str
    baselines: Mapping[str, Any]
    one_host: bool = False

    @property
    def sizes(self) -> Sizes:
        """The profile's numbers."""
        return PROFILES[self.profile]

    @property
    def stored(self) -> Stored:
        """The site's baselines; raises ValueError."""
        return parse(self.baselines) if self.baselines else {}

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"version": VERSION, **asdict(self)}

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> DeepPlan:
        """The plan in a JSON object.

        Raises:
            ValueError: it is not one, or of another version.
        """
        try:
            values = dict(record)
            if values.pop("version") != VERSION:
                raise ValueError("it is of another version of hpctrain")
            jobs = tuple(DeepJob(**{**job, "nodes": tuple(job["nodes"])}) for job in values.pop("jobs"))
            return DeepPlan(
                **{**values, "checks": tuple(values["checks"]), "band": Band(**values["band"]), "jobs": jobs}
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a plan of deep checks: {error}") from None


@dataclass(frozen=True, slots=True)
class Placement:
    """How Slurm is asked for nodes; "" leaves a choice to Slurm."""

    partition: str = ""
    account: str = ""
    reservation: str = ""
    time_limit_s: int = 0


def limit_of(plan: DeepPlan, placement: Placement) -> int:
    """The time limit of every job, in seconds."""
    return placement.time_limit_s or time_limit_s(plan.sizes, len(plan.checks), MOST_ROUNDS if plan.pairwise else 0)


def job_comment(run_name: str, number: int) -> str:
    """What tells a job of this run from all others."""
    return f"hpctrain-deep:{run_name}:{number}"


def script(
    plan: DeepPlan, number: int, placement: Placement, *, nodelist: str, run_dir: str, run_name: str, python: str
) -> str:
    """The batch script of one job.

    Args:
        nodelist: the job's nodes, folded.
        python: absolute path of the interpreter.
    """
    job = plan.jobs[number]
    count = len(job.nodes)
    minutes = -(-limit_of(plan, placement) // 60)
    options = [
        "--job-name=hpctrain-deep", f"--comment={job_comment(run_name, number)}", f"--nodes={count}",
        f"--nodelist={nodelist}", "--ntasks-per-node=1", "--exclusive", "--mem=0", f"--time={minutes}", "--no-requeue",
        "--no-kill", "--output=/dev/null",
    ]  # fmt: skip
    options += [f"--gres={job.gres}"] if job.gres else []
    options += [
        f"--{name}={value}"
        for name, value in (
            ("partition", placement.partition), ("account", placement.account), ("reservation", placement.reservation),
        )
        if value
    ]  # fmt: skip
    lines = [f"#SBATCH {option}" for option in options]
    words = [
        python, "-m", "hpctrain.health.deep", "conduct", "--run-dir", run_dir, "--job", str(number), "--",
        *srun_words(plan, job), python, "-m", "hpctrain.health.deep", "node", "--run-dir", run_dir, "--job", str(number),
    ]  # fmt: skip
    log = shlex.quote(f"{run_dir}/job-{number}.log")
    return "\n".join(
        (
            "#!/bin/bash", *lines, f"# Written by hpctrain {__version__}.", "set -u", "umask 077", f"exec >> {log} 2>&1",
            f"exec {shlex.join(words)}", "",
        )
    )  # fmt: skip


def srun_words(plan: DeepPlan, job: DeepJob) -> Sequence[str]:
    """``srun`` with its options: one process per node with all that the node has; the others go on when one dies."""
    count = len(job.nodes)
    gres = [f"--gres={job.gres}"] if job.gres else []
    return (
        "srun", f"--nodes={count}", f"--ntasks={count}", "--ntasks-per-node=1", *gres,
        *([] if plan.one_host else ["--cpu-bind=none"]), "--mpi=none", "--input=none", "--wait=0", "--no-kill",
        "--kill-on-bad-exit=0",
    )  # fmt: skip
