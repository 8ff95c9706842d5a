"""What a job of deep checks runs: ``conduct`` in its batch step, ``node`` on every node (entry point)."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from hpctrain.health.deep.files import DeepFiles

_PORT = "HPCTRAIN_DEEP_PORT"


def main(argv: list[str]) -> int:
    """Exit status 0 when the process did its work, whatever the checks found."""
    parser = argparse.ArgumentParser(prog="python -m hpctrain.health.deep")
    parser.add_argument("role", choices=["conduct", "node"])
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--job", type=int, required=True)
    split = argv.index("--") if "--" in argv else len(argv)
    options, command = parser.parse_args(argv[:split]), argv[split + 1 :]
    files = DeepFiles(options.run_dir)
    return conduct(files, options.job, command) if options.role == "conduct" else node(files, options.job)


def conduct(files: DeepFiles, job: int, command: list[str]) -> int:
    """The batch step."""
    from hpctrain import process
    from hpctrain.health.deep.conduct import Conductor, Step

    def start(port: int) -> Step:
        env = {**os.environ, _PORT: str(port)}
        return process.start(command, env=env, new_session=False)

    return Conductor(files, job, start).run()


def node(files: DeepFiles, job: int) -> int:
    """The process of one node."""
    name = os.environ.get("SLURMD_NODENAME") or os.uname().nodename
    plan = files.plan()
    # Before torch is imported: a login shell's OMP_NUM_THREADS=1 would make every node slow. Nodes that share one host
    # would wait for each other's threads instead of computing.
    os.environ["OMP_NUM_THREADS"] = "1" if plan.one_host else str(len(os.sched_getaffinity(0)))
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    from hpctrain.health.deep.wire import Line

    scratch = tempfile.mkdtemp(prefix=f"hpctrain-deep-{name}-", dir=plan.local_dir)
    try:
        port, line = int(os.environ.get(_PORT) or 0), None
        if port:
            line = Line(os.environ.get("SLURM_LAUNCH_NODE_IPADDR") or "127.0.0.1", port, files.secret())
            line.say({"node": name})
        from hpctrain.health.deep.node import NodeRun  # imports torch; the conductor knows by now that this node is here

        run = NodeRun(files, job, name, scratch, os.environ)
        run.checks()
        if line is not None:
            run.pairs(line)
        run.end()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
