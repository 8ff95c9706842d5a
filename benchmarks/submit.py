"""How long a submission takes: hpctrain, raw sbatch and submitit on the same private cluster (entry point).

    pip install -r benchmarks/requirements.txt      # submitit; without it that row is left out
    python benchmarks/submit.py [--short]

Each case is a whole process, from its start to a job id, as a person at a shell waits for it. The cluster's partition is
closed, so that jobs queue and nothing trains meanwhile. What the three do is not the same: sbatch gets a finished script;
submitit pickles a function and writes a script; hpctrain also checks the recipe against the cluster and makes the run
directory.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from measure import machine, summarise, table, take_turns  # noqa: E402 - the path is set above

from hpctrain import process  # noqa: E402
from hpctrain.devcluster.cluster import Clusters  # noqa: E402

BASELINE = "sbatch SCRIPT"
SUBMITIT = """
import submitit
executor = submitit.AutoExecutor(folder={folder!r}, cluster="slurm")
executor.update_parameters(nodes=2, tasks_per_node=1, timeout_min=10)
print(executor.submit(print, "hello").job_id)
"""
HPCTRAIN_API = 'import hpctrain; print(hpctrain.submit("quickstart").id)'


def run(argv: list[str], env: Mapping[str, str]) -> str:
    """Standard output of a command that must succeed."""
    result = process.run(argv, timeout_s=120, env=env, cwd=env["BENCHMARK_DIR"])
    if not result.ok:
        sys.exit(f"{' '.join(argv)} failed:\n{result.stderr}")
    return result.stdout


def cases(env: Mapping[str, str], place: Path) -> dict[str, Callable[[], object]]:
    """The ways to submit, each as one process."""
    hpctrain, python = str(Path(sys.executable).with_name("hpctrain")), sys.executable
    script = place / "sbatch.sh"
    script.write_text(run([hpctrain, "submit", "quickstart", "--dry-run"], env))
    found: dict[str, Callable[[], object]] = {
        BASELINE: lambda: run(["sbatch", "--parsable", str(script)], env),
        "hpctrain submit": lambda: run([hpctrain, "submit", "quickstart"], env),
        "hpctrain.submit() from Python": lambda: run([python, "-c", HPCTRAIN_API], env),
    }
    if importlib.util.find_spec("submitit"):
        code = SUBMITIT.format(folder=str(place / "submitit"))
        found["submitit"] = lambda: run([python, "-c", code], env)
    else:
        print("submitit is not installed: its row is missing (pip install -r benchmarks/requirements.txt)\n")
    return found


def main(arguments: list[str]) -> None:
    """Bring a cluster up, measure, print the table, and leave nothing behind."""
    rounds = 2 if "--short" in arguments else 20
    place = Path(tempfile.mkdtemp(prefix="hpct-bench-"))
    clusters = Clusters(place / "state" / "clusters", say=lambda _: None)
    name = f"bench-{os.getpid()}"
    print(machine() + "\n")
    try:
        info = clusters.up(name, 4, 8)
        ours = {"HPCTRAIN_STATE_DIR": place / "state", "HPCTRAIN_RUNS_DIR": place / "runs", "BENCHMARK_DIR": place}
        env = {**os.environ, **info.env, **{key: str(value) for key, value in ours.items()}}
        partition = run(["sinfo", "--noheader", "--format=%R"], env).split()[0]
        run(["scontrol", "update", f"PartitionName={partition}", "State=DOWN"], env)
        print(table(summarise(take_turns(cases(env, place), rounds), BASELINE), BASELINE))
    finally:
        clusters.down(name)
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])
