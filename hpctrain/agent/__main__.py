"""``python -m hpctrain.agent``: what the batch script starts (entry point).

::

    coordinate --run-dir DIR -- SRUN ARGS...     in the batch step; starts SRUN, which starts the agents
    node --run-dir DIR                           one per node, under srun
    writer --run-dir DIR                         one per node, beside the ranks: makes checkpoints in memory durable
    lift-delay --run-dir DIR --job ID            detached helper after a requeue
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpctrain.clock import SystemClock
from hpctrain.errors import HpctrainError
from hpctrain.ids import Incarnation, JobId, NodeName
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.writer import EventWriter
from hpctrain.slurm.port import Slurm
from hpctrain.submit.plan_model import Plan
from hpctrain.train.environment import INCARNATION


def main(argv: Sequence[str]) -> int:
    """Run one of the roles; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m hpctrain.agent", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("role", choices=("coordinate", "node", "writer", "lift-delay"))
    parser.add_argument("--run-dir", required=True)
    parser.add_argument("--job", type=int, default=0)
    before, _, after = _split(argv)
    options = parser.parse_args(before)
    run_dir = RunDir(Path(options.run_dir))
    try:
        if options.role == "coordinate":
            return coordinate(run_dir, after)
        if options.role == "writer":
            return writer(run_dir)
        return node(run_dir) if options.role == "node" else lift_delay(JobId(options.job))
    except HpctrainError as error:
        _say(f"hpctrain: error: {error}" + (f"\nhint: {error.advice}" if error.advice else ""))
        return error.exit_code


def _say(text: str) -> None:
    """Print to job.out, which may lie on a full disk; unbuffered, so that nothing is left to fail at the exit."""
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode())


def coordinate(run_dir: RunDir, srun: Sequence[str]) -> int:
    """Build the coordinator from the batch step's environment and run it."""
    from hpctrain.agent.coordinator import Coordinator
    from hpctrain.agent.lift_delay import start_helper
    from hpctrain.agent.memory import heal_record
    from hpctrain.slurm.nodelist import expand

    clock, env = SystemClock(), dict(os.environ)
    job_id = JobId(int(env["SLURM_JOB_ID"]))
    host = env.get("SLURMD_NODENAME") or os.uname().nodename
    heal_record(run_dir, job_id, clock.time())
    return Coordinator(
        _plan(run_dir), srun=srun, nodes=expand(env["SLURM_JOB_NODELIST"]), job_id=job_id, slurm=_slurm(),
        events=EventWriter(run_dir, "coordinator", host, clock, job_id), clock=clock, env=env, lift_delay=start_helper,
        restarts=int(env.get("SLURM_RESTART_COUNT") or 0),
    ).run()


def node(run_dir: RunDir) -> int:
    """Build this node's agent from the task's environment and run it."""
    from hpctrain.agent.control import Control
    from hpctrain.agent.node import NodeAgent

    clock, env = SystemClock(), dict(os.environ)
    name = NodeName(env.get("SLURMD_NODENAME") or os.uname().nodename)
    events = EventWriter(run_dir, "agent", name, clock, int(env.get("SLURM_JOB_ID") or 0) or None)
    control = Control(run_dir, Incarnation(int(env.get(INCARNATION) or 0)))
    return NodeAgent(_plan(run_dir), control, node=name, events=events, clock=clock, env=env).run()


def writer(run_dir: RunDir) -> int:
    """Carry out the ranks' orders until the keeper is gone."""
    from hpctrain.agent.control import Control
    from hpctrain.agent.rendezvous import own_address
    from hpctrain.checkpoint.keeper_client import shared_secret
    from hpctrain.checkpoint.writer import run_writer

    clock, env, plan = SystemClock(), dict(os.environ), _plan(run_dir)
    name = NodeName(env.get("SLURMD_NODENAME") or os.uname().nodename)
    events = EventWriter(run_dir, "writer", name, clock, int(env.get("SLURM_JOB_ID") or 0) or None)

    def notify(kind: str, reason: str, step: int, evidence: Mapping[str, Any]) -> None:
        events.note(kind, reason, node=name, step=step, evidence=evidence)

    bind = own_address(plan.interface, plan.nodes > 1, env)[0] if plan.checkpoint.peer else None
    secret = shared_secret(Control(run_dir, Incarnation(int(env.get(INCARNATION) or 0))).secret)
    run_writer(secret, name, notify, peer_bind=bind)
    return 0


def lift_delay(job_id: JobId) -> int:
    """Detach, then wait for the job to be queued again."""
    from hpctrain.agent.lift_delay import detach, lift

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    if detach():
        lift(_slurm(), job_id, SystemClock())
    return 0


def _plan(run_dir: RunDir) -> Plan:
    try:
        return Plan.from_json(json.loads(run_dir.plan.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HpctrainError(f"the plan cannot be read: {error}", where=str(run_dir.plan)) from None


def _slurm() -> Slurm:
    """Slurm as this job sees it, asked briefly: a job that is being ended has little time."""
    from hpctrain.settings import Settings
    from hpctrain.slurm.connect import connect

    return connect(Settings(runs_dir="", slurm_timeout_s=10.0, slurm_retries=1))


def _split(argv: Sequence[str]) -> tuple[list[str], str, list[str]]:
    words = list(argv)
    at = words.index("--") if "--" in words else len(words)
    return words[:at], "--", words[at + 1 :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
