"""Do a context's work in a child, and answer in time whatever becomes of it (entry point).

The child reads the configuration, looks, judges and drains. If it crashes, is killed or does not end within the budget, that
is our own failure: it is logged and counted by another child, which may fail as well, and the answer is 0.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from hpctrain.health.config import DEFAULT_CONFIG, DEFAULT_STATE_DIR, Config, parse_config
from hpctrain.health.probe_child import Probe, Report, run_probes
from hpctrain.health.reading import Job

BUDGET_S = {"prolog": 5.0, "epilog": 5.0, "periodic": 55.0}
_LEAST_S, _MOST_S = 0.5, 300.0
_FAILURE_S = 0.5
DEFAULT_SYSLOG = "/dev/log"
_DAEMON_WARNING = 3 * 8 + 4  # facility and severity
OK = 0


def supervise(context: str, started: float, drain_code: int) -> int:
    """Run one context; 0, or ``drain_code`` if the node is to be drained."""
    environment = dict(os.environ)
    budget_s = _budget(environment, context)

    def work(report: Report) -> None:
        report.emit(**check(context, environment, budget_s - (time.monotonic() - started), report))

    say = partial(_say, syslog=environment.get("HPCTRAIN_HEALTH_SYSLOG", DEFAULT_SYSLOG))
    answer = run_probes([Probe("check", work, budget_s - _FAILURE_S - (time.monotonic() - started))])["check"]
    result = next(iter(answer.records), None)
    if result is None or answer.state.outcome != "ok":
        why = f"{answer.state.outcome}: {answer.state.step}"
        say(f"hpctrain health {context}: our own failure, the node stays in service: {why}")
        run_probes([Probe("failure", lambda _: record_failure(environment, context, why), _FAILURE_S)])
        return drain_code if context == "prolog" and _wants_drain(environment, why, say) else OK
    for note in result.get("notes", ()):
        say(f"hpctrain health {context}: {note}")
    if result.get("drain"):
        say(str(result.get("reason", "")))
        return drain_code
    return OK


def _wants_drain(environment: Mapping[str, str], why: str, say: Callable[[str], None]) -> bool:
    """A site may prefer a node out of service to a job on a node that could not be checked; only if a breaker permits it."""
    if environment.get("HPCTRAIN_HEALTH_ON_FAILURE", "start") != "drain":
        return False

    def ask(report: Report) -> None:
        from hpctrain.health.breaker import ask as ask_for_slot

        breaker = for_node(load_config(environment)[0], node_name(environment)).breaker
        if not breaker.directory:
            report.emit(granted=False, reason="this site has no breaker")
            return
        answer = ask_for_slot(breaker.directory, breaker.slots, node_name(environment), why, breaker.timeout_s)
        report.emit(granted=answer.granted, reason=answer.reason)

    told = next(iter(run_probes([Probe("breaker", ask, _FAILURE_S)])["breaker"].records), {"reason": "no answer"})
    say(f"hpctrain health: this site drains after such a failure: {told.get('reason')}")
    return told.get("granted") is True


def check(context: str, environment: Mapping[str, str], budget_s: float, report: Report) -> dict[str, Any]:
    """All of one context's work, in the child; what the supervisor has to know of it."""
    report.step("reading the configuration")
    config, problems = load_config(environment)
    node = node_name(environment)
    config = for_node(config, node)
    job = job_of(environment, config) if context != "periodic" else None
    report.step("loading")
    from hpctrain.health.breaker import Permission, ask
    from hpctrain.health.run import Look, Tools, check_node

    def ask_breaker(name: str, reason: str) -> Permission:
        breaker = config.breaker
        if not breaker.directory:
            return Permission(True, "this site has no breaker")
        return ask(breaker.directory, breaker.slots, name, reason, breaker.timeout_s)

    drain = None
    if config.drain_via == "scontrol" or (context == "periodic" and config.drain_via != "controller"):

        def drain(name: str, reason: str) -> str:
            from hpctrain.health.drain import drain as drain_node

            patience_s = config.scontrol_timeout_s
            return drain_node(name, reason, scontrol=config.scontrol, slurm_conf=config.slurm_conf, timeout_s=patience_s)

    end = None
    if context == "epilog" and job and job.uid is not None:

        def end(of: Job, name: str) -> Any:
            from hpctrain.health.copies import remove_copies
            from hpctrain.health.leftovers import end_leftovers

            lift_requeue_delay(of, environment, config)
            cluster = environment.get("SLURM_CLUSTER_NAME", "")
            left = end_leftovers(of.id, of.uid or 0, name, cluster=cluster, proc=config.roots.processes)
            remove_copies(config.copy_dirs, of.id, of.uid or 0, name)
            return left.survivors

    begun, notes = time.monotonic(), []
    if context == "periodic" and (Path(config.state_dir) / f"{node}.reset.json").exists():
        report.step("resetting a GPU")
        notes.append(_reset(config, node))
    report.step("checking")
    budget_s = min(budget_s, config.budget_s.get(context, budget_s)) - (time.monotonic() - begun)
    look = Look(node, context, job, budget_s=budget_s - _FAILURE_S)
    outcome = check_node(config, problems, look, Tools(ask_breaker, drain, end))
    notes += outcome.notes
    if notes:
        report.step("writing notes")
        _append(
            config,
            node,
            {"kind": "health_note", "context": context, "job": job.id if job else None, "notes": notes},
        )
    return {"drain": outcome.drain, "reason": outcome.verdict.reason, "notes": notes}


def lift_requeue_delay(job: Job, environment: Mapping[str, str], config: Config) -> None:
    """Do for a job that has queued itself again what it cannot do itself; see :mod:`hpctrain.health.requeued`."""
    from hpctrain.errors import HpctrainError
    from hpctrain.health.requeued import lift, take

    if job.uid is not None and job.id.isdecimal() and take(job.uid, environment):
        with contextlib.suppress(HpctrainError):
            lift(job.id, scontrol=config.scontrol, slurm_conf=config.slurm_conf)


def _reset(config: Config, node: str) -> str:
    from hpctrain.errors import HpctrainError
    from hpctrain.health.reset import carry_out

    try:
        return carry_out(config, node)
    except HpctrainError as error:
        return f"a GPU was to be reset: {error}"


def load_config(environment: Mapping[str, str]) -> tuple[Config, list[str]]:
    """The site's configuration, and what is wrong with it; the defaults where there is none, or none that can be read."""
    state_dir = environment.get("HPCTRAIN_HEALTH_STATE", DEFAULT_STATE_DIR)
    named = environment.get("HPCTRAIN_HEALTH_CONFIG", "")
    path = Path(named or DEFAULT_CONFIG)
    try:
        return parse_config(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return Config(state_dir), [f"there is no {path}"] if named else []
    except (OSError, ValueError) as error:
        return Config(state_dir), [f"{path} cannot be read, defaults are used: {error}"]


def node_name(environment: Mapping[str, str]) -> str:
    """The node's name as Slurm knows it; the host's short name outside Slurm."""
    name = environment.get("SLURMD_NODENAME") or os.uname().nodename.partition(".")[0]
    return name if name and "/" not in name and len(name) <= 255 else "unknown"


def for_node(config: Config, node: str) -> Config:
    """Put the node's name into the paths that have a place for it."""
    from dataclasses import asdict, replace

    from hpctrain.health.config import Roots

    roots = Roots(**{key: value.replace("{node}", node) for key, value in asdict(config.roots).items()})
    return replace(config, roots=roots, state_dir=config.state_dir.replace("{node}", node))


def job_of(environment: Mapping[str, str], config: Config) -> Job | None:
    """The job of a prolog or epilog, from the variables that Slurm sets."""
    job_id = environment.get("SLURM_JOB_ID", environment.get("SLURM_JOBID", ""))
    if not job_id:
        return None
    uid = environment.get("SLURM_JOB_UID", "")
    gpus = None if config.gpu_scope == "node" else gpu_list(environment.get("SLURM_JOB_GPUS", ""))
    return Job(job_id, int(uid) if uid.isdecimal() else None, gpus)


def gpu_list(text: str) -> tuple[int, ...] | None:
    """``0,2-3`` as numbers; None, which means all, if it is not such a list."""
    found: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()) or int(last or first) > 1023:
            return None
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


def record_failure(environment: Mapping[str, str], context: str, why: str) -> None:
    """Log a failure of our own, and count it in the node's state."""
    from dataclasses import replace

    from hpctrain.health.node_state import NodeFiles

    config, _ = load_config(environment)
    node = node_name(environment)
    config = for_node(config, node)
    _append(
        config, node, {"kind": "health_failure", "context": context, "job": environment.get("SLURM_JOB_ID"), "reason": why}
    )
    files = NodeFiles(Path(config.state_dir), node, config.log_bytes)
    with files.locked() as locked:
        if locked:
            state = files.load()
            count = int(state.failures.get("count", 0)) + 1
            files.save(replace(state, failures={"count": count, "time": time.time(), "context": context, "reason": why}))


def _append(config: Config, node: str, event: Mapping[str, Any]) -> None:
    from hpctrain.errors import StorageError
    from hpctrain.health.node_state import NodeFiles

    with contextlib.suppress(StorageError, OSError):
        files = NodeFiles(Path(config.state_dir or DEFAULT_STATE_DIR), node, config.log_bytes)
        files.append({"time": time.time(), "source": "health", "node": node, **event})


def _budget(environment: Mapping[str, str], context: str) -> float:
    """The supervisor reads no file, so a budget beyond the default is given in the environment."""
    with contextlib.suppress(ValueError):
        return min(_MOST_S, max(_LEAST_S, float(environment.get("HPCTRAIN_HEALTH_BUDGET_S", ""))))
    return BUDGET_S[context]


def _say(text: str, *, syslog: str) -> None:
    """One line for people and one for syslog, as slurmd writes down what a program says only if that fails.

    A closed or full pipe, and a syslog that is not there or does not read, must not matter.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text[:1000] + "\n")
        sys.stderr.flush()
    import socket  # here, as a healthy node has nothing to say

    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.setblocking(False)
        line.sendto(f"<{_DAEMON_WARNING}>hpctrain[{os.getpid()}]: {text[:1000]}".encode(), syslog)
