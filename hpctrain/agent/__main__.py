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
import traceback
from collections.abc import Callable, Mapping, Sequence
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

EXIT_OWN_FAULT = 70
"""Of a coordinator that met an error of its own (EX_SOFTWARE)."""

EXIT_ALREADY_OVER = 71
"""For the batch script: the coordinator before had ended by decision. Its code was that of a rank that a signal killed, so
that the script took it for killed itself."""


def main(argv: Sequence[str]) -> int:
    """Run one of the roles; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m hpctrain.agent", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("role", choices=("coordinate", "node", "writer", "lift-delay"))
    parser.add_argument("--run-dir", required=True)
    parser.add_argument("--job", type=int, default=0)
    parser.add_argument("--exclude", default="")
    before, _, after = _split(argv)
    options = parser.parse_args(before)
    run_dir = RunDir(Path(options.run_dir))
    try:
        if options.role == "coordinate":
            return _or_successor(lambda: coordinate(run_dir, after))
        if options.role == "writer":
            return writer(run_dir)
        if options.role == "node":
            return node(run_dir)
        return lift_delay(JobId(options.job), tuple(filter(None, options.exclude.split(","))))
    except HpctrainError as error:
        _say(f"hpctrain: error: {error}" + (f"\nhint: {error.advice}" if error.advice else ""))
        return error.exit_code


def _or_successor(run: Callable[[], int]) -> int:
    """A fault of our own must not cost the job its ranks: the batch script starts another coordinator, which finds them."""
    try:
        return run()
    except HpctrainError:
        raise
    except Exception:  # noqa: BLE001 - whatever it is
        _say(f"hpctrain: a fault of the coordinator:\n{traceback.format_exc()}")
        return EXIT_OWN_FAULT


def _say(text: str) -> None:
    """Print to job.out, which may lie on a full disk; unbuffered, so that nothing is left to fail at the exit."""
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode())


def coordinate(run_dir: RunDir, srun: Sequence[str]) -> int:
    """Build the coordinator from the batch step's environment and run it."""
    from hpctrain.agent.coordinator import Coordinator
    from hpctrain.agent.coordinator_file import read_state
    from hpctrain.agent.lift_delay import start_helper
    from hpctrain.agent.memory import heal_record
    from hpctrain.slurm.nodelist import expand

    clock, env = SystemClock(), dict(os.environ)
    job_id = JobId(int(env["SLURM_JOB_ID"]))
    host = env.get("SLURMD_NODENAME") or os.uname().nodename
    restarts = int(env.get("SLURM_RESTART_COUNT") or 0)
    heal_record(run_dir, job_id, clock.time())
    before = read_state(run_dir)
    if before is not None and (before.job, before.restarts) != (job_id, restarts):
        before = None
    if before is not None and before.state == "over":
        return EXIT_ALREADY_OVER
    return Coordinator(
        _plan(run_dir), srun=srun, nodes=expand(env["SLURM_JOB_NODELIST"]), job_id=job_id, slurm=_slurm(),
        events=EventWriter(run_dir, "coordinator", host, clock, job_id), clock=clock, env=env, lift_delay=start_helper,
        restarts=restarts, before=before,
    ).run()


def node(run_dir: RunDir) -> int:
    """Build this node's agent from the task's environment and run it."""
    from hpctrain.agent.control import Control
    from hpctrain.agent.node import NodeAgent
    from hpctrain.agent.requeue_alone import RequeueAlone
    from hpctrain.checkpoint.keeper_client import shared_secret

    clock, env, plan = SystemClock(), dict(os.environ), _plan(run_dir)
    name = NodeName(env.get("SLURMD_NODENAME") or os.uname().nodename)
    job_id, restarts = JobId(int(env.get("SLURM_JOB_ID") or 0)), int(env.get("SLURM_RESTART_COUNT") or 0)
    events = EventWriter(run_dir, "agent", name, clock, job_id or None)
    secret = shared_secret(Control(run_dir, Incarnation(0)).secret)
    alone = RequeueAlone(plan, run_dir, job_id, restarts, slurm=_slurm(), events=events, clock=clock)
    return NodeAgent(plan, run_dir, node=name, secret=secret, events=events, clock=clock, env=env, alone=alone).run()


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


def lift_delay(job_id: JobId, exclude: tuple[str, ...] = ()) -> int:
    """Detach, then wait for the job to be queued again."""
    from hpctrain.agent.lift_delay import detach, lift

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    if detach():
        lift(_slurm(), job_id, SystemClock(), exclude)
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
