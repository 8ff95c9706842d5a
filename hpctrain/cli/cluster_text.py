"""What ``hpctrain cluster`` says of clusters, nodes and processes (entry point)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from hpctrain.devcluster.control import NodeState
    from hpctrain.devcluster.members import Member
    from hpctrain.devcluster.state import ClusterInfo


def status_of(info: ClusterInfo) -> dict[str, Any]:
    """Daemons, nodes and jobs of a cluster, for people and programs."""
    from hpctrain.devcluster.control import Control
    from hpctrain.devcluster.state import daemon_pid, layout_of, load_spec
    from hpctrain.errors import ClusterError

    spec = load_spec(info.state_dir)
    layout = layout_of(spec) if spec else None
    pids = {node: daemon_pid(layout, node) if layout else None for node in info.nodes}
    report = describe(info)
    report["problem"] = ""
    states: dict[str, Any] = {}
    try:
        if info.slurmctld_pid is None or layout is None:
            raise ClusterError("slurmctld does not run")
        control = Control(layout)
        states = control.nodes()
        report["jobs"] = control.job_counts()
    except ClusterError as error:
        report["problem"] = str(error)
    report["node_states"] = [
        {
            "name": node, "slurmd_pid": pids[node],
            "state": states[node].state if node in states else "UNKNOWN",
            "responds": node in states and states[node].responds,
            "reason": reason_of(states[node]) if node in states else "",
        }
        for node in info.nodes
    ]
    return report


def reason_of(state: NodeState) -> str:
    """Why a node is out of service; "" where it is not."""
    return "" if state.in_service else state.reason


def describe(info: ClusterInfo) -> dict[str, Any]:
    """What a cluster is made of."""
    return {
        "name": info.name, "nodes": list(info.nodes), "gpus_per_node": info.gpus_per_node, "slurm_conf": info.slurm_conf,
        "state_dir": str(info.state_dir), "controller_port": info.controller_port,
        "slurmctld_pid": info.slurmctld_pid, "munged_pid": info.munged_pid,
    }


def print_status(report: dict[str, Any]) -> None:
    """The report of :func:`status_of` as text."""
    rows = report["node_states"]
    slurmds = sum(row["slurmd_pid"] is not None for row in rows)
    daemons = [f"{name} {'runs' if report[f'{name}_pid'] else 'is down'}" for name in ("munged", "slurmctld")]
    click.echo(f"cluster {report['name']}: {', '.join(daemons)}, {slurmds} of {len(rows)} slurmd run")
    if report["problem"]:
        click.echo(f"  {report['problem']}; 'hpctrain cluster up --name {report['name']}' restarts what is missing")
        return
    groups: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        state = row["state"] + ("" if row["responds"] else ", does not answer")
        groups.setdefault((state, row["reason"]), []).append(row["name"])
    for (state, reason), names in groups.items():
        click.echo(f"  {summary(names)}: {state}" + (f" ({reason})" if reason else ""))
    jobs = ", ".join(f"{count} {state.lower()}" for state, count in sorted(report["jobs"].items()))
    click.echo(f"  jobs: {jobs or 'none'}")


def process_record(member: Member) -> dict[str, Any]:
    """A process of a cluster."""
    return {"pid": member.pid, "kind": member.kind, "node": member.node}


def processes_text(members: Sequence[Member]) -> str:
    """``3 processes (2 slurmd, 1 job)``."""
    kinds = [member.kind for member in members]
    words = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    return f"{len(members)} process{'' if len(members) == 1 else 'es'}" + (f" ({words})" if words else "")


def summary(names: Sequence[str]) -> str:
    """Names, folded where there are many: ``munged,n[1-512],slurmctld``."""
    from hpctrain.slurm.nodelist import fold

    return fold(names)


def count(number: int, noun: str) -> str:
    """``1 node``, ``2 nodes``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def nothing_to_do(name: str) -> str:
    """What to say when all of a cluster runs."""
    return f"all of cluster '{name}' runs: nothing to do"
