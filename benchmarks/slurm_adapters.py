"""What the ways to Slurm cost: pyslurm, Slurm's commands as text, and as JSON, on one private cluster (entry point).

    python benchmarks/slurm_adapters.py [--short]      # where pyslurm is installed, such as in hpctrain's image

A cluster of 512 nodes with 2,000 jobs in its queue, none of them running. Listings end with hpctrain's own values in this
process. What the rows named *raw* measure is a call of pyslurm in this process, without a helper and without values;
hpctrain does not work like that, since such a call may end its process. Submissions are of one small script; hpctrain
submits with sbatch, and the row of pyslurm shows what that costs. Without pyslurm, its rows are left out.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from measure import machine, summarise, table, take_turns  # noqa: E402 - the path is set above

from hpctrain import process  # noqa: E402
from hpctrain.devcluster.cluster import Clusters  # noqa: E402
from hpctrain.errors import HpctrainError  # noqa: E402
from hpctrain.slurm.adapter import pyslurm_is_installed  # noqa: E402
from hpctrain.slurm.commands import clean_environment  # noqa: E402
from hpctrain.slurm.model import Submission  # noqa: E402
from hpctrain.slurm.pyslurm_helper import Helper  # noqa: E402
from hpctrain.slurm.via_cli import SlurmCli  # noqa: E402
from hpctrain.slurm.via_pyslurm_client import SlurmPyslurm  # noqa: E402

TEXT, PYSLURM = "hpctrain, Slurm's commands as text", "hpctrain, pyslurm in its helper"
SCRIPT = "#!/bin/sh\n#SBATCH --hold\n#SBATCH --output=/dev/null\n#SBATCH --comment=benchmark\ntrue\n"
ONE_LISTING = """
import sys
from hpctrain.settings import Settings
from hpctrain.slurm.connect import connect
connect(Settings(runs_dir="/", slurm_adapter=sys.argv[1])).jobs(all_users=True)
"""
Cases = dict[str, Callable[[], object]]


def run(argv: list[str], env: Mapping[str, str], stdin: str | None = None) -> str:
    """Standard output of a command that must succeed."""
    result = process.run(argv, timeout_s=300, env=env, stdin=stdin)
    if not result.ok:
        sys.exit(f"{' '.join(argv)} failed:\n{result.stderr}")
    return result.stdout


def raw_pyslurm(env: Mapping[str, str]) -> Any:
    """The module in this process, or None."""
    if not pyslurm_is_installed():
        return None
    os.environ["PYSLURM_DISABLE_AUTO_INIT"] = "1"
    flags = sys.getdlopenflags()
    pyslurm = importlib.import_module("pyslurm")
    sys.setdlopenflags(flags)
    pyslurm.slurm_init(env["SLURM_CONF"])
    return pyslurm


def listings(text: SlurmCli, fast: SlurmPyslurm | None, raw: Any, env: Mapping[str, str]) -> dict[str, Cases]:
    """Reading jobs and nodes."""
    first = min(job.job_id for job in text.jobs())
    jobs: Cases = {
        TEXT: lambda: text.jobs(all_users=True),
        "the same, without excluded nodes": lambda: text.jobs(all_users=True, exclusions=False),
        "squeue --json, parsed": lambda: json.loads(run(["squeue", "--json", "--all"], env)),
    }
    one: Cases = {TEXT: lambda: text.jobs([first])}
    nodes: Cases = {TEXT: text.nodes}
    in_json = ["scontrol", "show", "nodes", "--json"]
    if process.run(in_json, timeout_s=60, env=env).ok:  # from Slurm 23.02 on
        nodes["scontrol show nodes --json, parsed"] = lambda: json.loads(run(in_json, env))
    if fast is not None:
        jobs[PYSLURM] = lambda: fast.jobs(all_users=True)
        one[PYSLURM] = lambda: fast.jobs([first])
        nodes[PYSLURM] = fast.nodes
    if raw is not None:
        jobs["pyslurm, raw: Jobs.load()"] = raw.Jobs.load
        jobs["pyslurm, raw: to_dict() of each"] = lambda: [job.to_dict() for job in raw.Jobs.load().values()]
        one["pyslurm, raw: Job.load()"] = lambda: raw.Job.load(first)
        nodes["pyslurm, raw: Nodes.load()"] = raw.Nodes.load
    return {"all jobs": jobs, "one job": one, "all nodes": nodes}


def changes(text: SlurmCli, raw: Any, place: Path) -> Cases:
    """Submitting one job."""
    found: Cases = {"sbatch, as hpctrain submits": lambda: text.submit(Submission(SCRIPT, str(place)))}
    if raw is not None:
        def submit() -> int:
            described = raw.JobSubmitDescription(
                script=SCRIPT, working_directory=str(place), environment=dict(os.environ), priority=0,
                standard_output="/dev/null", comment="benchmark",
            )
            return int(described.submit())

        found["pyslurm, raw: JobSubmitDescription.submit()"] = submit
    return found


def whole_processes(env: Mapping[str, str], *, installed: bool) -> Cases:
    """One listing by a process that does nothing else: what a command costs that asks once."""
    names = ("cli", "pyslurm") if installed else ("cli",)
    return {
        f"one process, one listing, slurm_adapter = {name}": lambda name=name: run(  # type: ignore[misc]
            [sys.executable, "-c", ONE_LISTING, name], env
        )
        for name in names
    }


def fill(text: SlurmCli, jobs: int, place: Path) -> None:
    """Put jobs into the queue, none of which starts."""
    for number in range(jobs):
        script = SCRIPT.replace("--comment=benchmark", f"--job-name=llama-{number:05d} --nodes={1 + number % 16}")
        text.submit(Submission(script, str(place)))


def show(title: str, cases: Cases, rounds: int, baseline: str) -> None:
    """Measure and print one table."""
    print(f"### {title}\n\n{table(summarise(take_turns(cases, rounds), baseline), baseline)}\n")


def main(arguments: list[str]) -> None:
    """Bring a cluster up, measure, print the tables, and leave nothing behind."""
    short = "--short" in arguments
    node_count, job_count, rounds = (8, 30, 2) if short else (512, 2000, 30)
    place = Path(tempfile.mkdtemp(prefix="hpct-bench-", dir="/tmp"))
    clusters, name = Clusters(place / "clusters", say=lambda _: None), f"bench-{os.getpid()}"
    helper: Helper | None = None
    print(machine() + "\n")
    try:
        info = clusters.up(name, node_count, 8)
        env = {**os.environ, **info.env, "PYTHONPATH": str(ROOT)}
        text, raw = SlurmCli(env), raw_pyslurm(env)
        helper = Helper(clean_environment(env), text.version)
        fast = SlurmPyslurm(text, helper, required=True) if raw is not None else None
        print(f"Slurm {text.version()}, {node_count} nodes, {job_count} jobs"
              + ("" if raw is not None else "; pyslurm is not installed: its rows are missing") + "\n")
        fill(text, job_count, place)
        for title, cases in listings(text, fast, raw, env).items():
            show(title, cases, rounds, TEXT)
        show("one submission", changes(text, raw, place), rounds, "sbatch, as hpctrain submits")
        processes = whole_processes(env, installed=raw is not None)
        show("a whole process", processes, max(rounds // 2, 2), "one process, one listing, slurm_adapter = cli")
    except HpctrainError as error:
        sys.exit(f"error: {error}")
    finally:
        if helper is not None:
            helper.close()
        clusters.down(name)
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])
