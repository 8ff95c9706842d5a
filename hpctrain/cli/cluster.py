"""``hpctrain cluster``: a real Slurm of one's own on this machine (entry point)."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hpctrain.cli.output import output_option, print_json, say
from hpctrain.devcluster.layout import DEFAULT_GPUS_PER_NODE, DEFAULT_NAME, DEFAULT_NODES, check_name

if TYPE_CHECKING:
    from hpctrain.devcluster.cluster import Clusters
    from hpctrain.devcluster.control import NodeState
    from hpctrain.devcluster.layout import Spec
    from hpctrain.devcluster.members import Member
    from hpctrain.devcluster.state import ClusterInfo

F = TypeVar("F", bound=Callable[..., Any])

_QUOTES = {"sh": "export {}={}", "fish": "set -gx {} {};", "csh": "setenv {} {};"}


def _name_option(function: F) -> F:
    return click.option(
        "--name", envvar="HPCTRAIN_CLUSTER", default=DEFAULT_NAME, show_default=True,
        callback=lambda _ctx, _param, value: check_name(value) if value else value,
        help="Which cluster, where several run side by side.",
    )(function)


def _dry_run_option(function: F) -> F:
    return click.option("--dry-run", is_flag=True, help="Only say what would be done.")(function)


class _InOrder(click.Group):
    """A group that lists its commands in the order of their use, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.commands)


@click.group(cls=_InOrder)
def cluster() -> None:
    """Run a private Slurm cluster on this machine, as yourself, with simulated GPUs.

    It is for trying things out and for breaking nodes on purpose. The nodes' CPUs, memory and GPUs are imaginary: they
    are there for Slurm to hand out, and what runs on them shares this machine.
    """


@cluster.command()
@click.option("--nodes", type=click.IntRange(1, 5000), default=None, help=f"Nodes n1 to nN.  [default: {DEFAULT_NODES}]")
@click.option(
    "--gpus-per-node", type=click.IntRange(0, 64), default=None, help=f"Simulated GPUs.  [default: {DEFAULT_GPUS_PER_NODE}]"
)
@click.option("--health", is_flag=True, help="Simulate GPUs and kernels of the nodes, and let Slurm check them.")
@_name_option
@_dry_run_option
@output_option
def up(nodes: int | None, gpus_per_node: int | None, *, health: bool, name: str, dry_run: bool, output: str) -> None:
    """Start the cluster, or whatever of it does not run.

    Safe to repeat: a cluster that runs is left alone, a killed daemon or a reboot is repaired, and the queue is kept.
    """
    clusters = _clusters()
    if dry_run:
        plan = clusters.plan(name, nodes, gpus_per_node)
        size = f"{_count(plan.spec.nodes, 'node')} x {_count(plan.spec.gpus_per_node, 'simulated GPU')}"
        say(f"would start {_summary(plan.missing)} of cluster '{name}' ({size})" if plan.missing else _nothing_to_do(name))
        if output == "json":
            print_json("plan", {"name": name, "exists": plan.exists, "start": list(plan.missing)})
        return
    begun = time.monotonic()
    info = clusters.up(name, nodes, gpus_per_node)
    if health:
        from hpctrain.devcluster.health_setup import enable_health
        from hpctrain.devcluster.state import layout_of

        spec = _running(name, info.nodes[0])
        enable_health(layout_of(spec), spec)
    size = f"{_count(len(info.nodes), 'node')} x {_count(info.gpus_per_node, 'simulated GPU')}"
    say(f"cluster '{name}' is up: {size} ({time.monotonic() - begun:.1f} s)")
    if output == "json":
        print_json("cluster", _describe(info))
    else:
        option = "" if name == DEFAULT_NAME else f" --name {name}"
        say(f'for srun and squeue in this shell:  eval "$(hpctrain cluster env{option})"')
        say(f"to remove it:                       hpctrain cluster down{option}")


@cluster.command()
@_name_option
@_dry_run_option
@output_option
def down(name: str, dry_run: bool, output: str) -> None:
    """End the cluster with all its jobs, and remove its files."""
    clusters = _clusters()
    existed = clusters.exists(name)
    ended = clusters.members(name) if dry_run else clusters.down(name)
    if existed or ended:
        verbs = ("would end", "remove") if dry_run else ("ended", "removed")
        say(f"{verbs[0]} {_processes(ended)}, and {verbs[1]} cluster '{name}'")
    else:
        say(f"there is no cluster '{name}': nothing to do")
    if output == "json":
        print_json("ended", [_process(member) for member in ended])


@cluster.command()
@click.option("--name", envvar="HPCTRAIN_CLUSTER", default=None, help="Only this cluster.  [default: all]")
@output_option
def status(name: str | None, output: str) -> None:
    """Show daemons, nodes and jobs."""
    from hpctrain.devcluster.state import known_clusters
    from hpctrain.errors import NotFoundError

    found = [info for info in known_clusters() if name is None or info.name == check_name(name)]
    if name is not None and not found:
        hint = f"make it with 'hpctrain cluster up --name {name}'"
        raise NotFoundError(f"there is no private cluster '{name}'", hint=hint)
    reports = [_status(info) for info in found]
    if output == "json":
        print_json("clusters", reports)
        return
    if not reports:
        say("no private cluster; make one with 'hpctrain cluster up'")
    for report in reports:
        _print_status(report)


@cluster.command()
@click.option(
    "--shell", type=click.Choice(list(_QUOTES)), default="sh", show_default=True, help="sh is for bash and zsh too."
)
@_name_option
@output_option
def env(shell: str, name: str, output: str) -> None:
    """Print what a shell needs to use the cluster.

    Use it as: eval "$(hpctrain cluster env)"
    """
    from hpctrain.devcluster.state import find_cluster

    variables = find_cluster(name).env
    if output == "json":
        print_json("env", variables)
        return
    for key, value in variables.items():
        click.echo(_QUOTES[shell].format(key, shlex.quote(value)))


@cluster.command("kill-node")
@click.argument("node")
@click.option("--silent", is_flag=True, help="Do not set the node DOWN: let Slurm find out (after 40 s).")
@_name_option
@_dry_run_option
@output_option
def kill_node(node: str, silent: bool, name: str, dry_run: bool, output: str) -> None:
    """Kill all that runs on a node, as a power failure would.

    That is its slurmd, its step daemons and the jobs' processes on it, and nothing else.
    """
    from hpctrain.clock import SystemClock
    from hpctrain.devcluster import nodes
    from hpctrain.devcluster.state import layout_of

    layout = layout_of(_running(name, node))
    if dry_run:
        killed = nodes.node_members(layout, node)
        say(f"would kill {_processes(killed)} on node {node}{'' if silent else ' and set it DOWN'}")
    else:
        killed = nodes.kill_node(layout, node, SystemClock(), silent=silent)
        say(f"killed {_processes(killed)} on node {node}{'; Slurm does not know yet' if silent else ', which is DOWN now'}")
    if output == "json":
        print_json("killed", [_process(member) for member in killed])


@cluster.command()
@click.argument("node")
@click.argument("kind", required=False)
@click.option("--gpu", "number", type=click.IntRange(0, 63), default=0, show_default=True, help="Which GPU, or which port.")
@click.option("--until", type=click.Choice(["reset", "reboot", "replace"]), help="What mends it.  [default: as in life]")
@click.option("--heal", "healing", is_flag=True, help="Undo all faults of the node, as a repair and a reboot would.")
@_name_option
@_dry_run_option
@output_option
def fault(
    node: str, kind: str | None, *, number: int, until: str | None, healing: bool, name: str, dry_run: bool, output: str
) -> None:
    """Break a node's simulated hardware on purpose; without KIND, list what can be broken.

    The cluster has to be made with 'hpctrain cluster up --health'.
    Examples: hpctrain cluster fault n1 row-remap-failed --gpu 3; hpctrain cluster fault n1 --heal
    """
    from hpctrain.devcluster import health_setup
    from hpctrain.devcluster.faults import DEEP_FAULTS, FAULTS, fault_named
    from hpctrain.devcluster.state import layout_of

    spec = _running(name, node)
    layout = layout_of(spec)
    told: dict[str, Any] = {"node": node}
    if healing:
        if not dry_run:
            health_setup.heal(layout, spec, node)
        say(f"{'would heal' if dry_run else 'healed'} node {node}")
        say(f"if it was drained: scontrol update nodename={node} state=undrain")
    elif kind is None:
        everything = (*FAULTS.values(), *DEEP_FAULTS.values())
        told["faults"] = [
            {"name": one.name, "what": one.what, "found_by": one.check, "drains": one.drains} for one in everything
        ]
        if output == "text":
            for one in everything:
                click.echo(f"{one.name:<22} {one.what} (found by {one.check}{', drains' if one.drains else ''})")
    else:
        chosen = fault_named(kind)
        if not dry_run:
            health_setup.inject(layout, spec, node, chosen, number, until=until or "")
        told |= {"fault": chosen.name, "gpu": number, "found_by": chosen.check}
        say(f"{'would break' if dry_run else 'broke'} node {node}: {chosen.what}; the check '{chosen.check}' should find it")
    if output == "json":
        print_json("fault", told)


@cluster.command("start-node")
@click.argument("node")
@_name_option
@_dry_run_option
@output_option
def start_node(node: str, name: str, dry_run: bool, output: str) -> None:
    """Bring a killed node back into service. A reason that a person gave it stays."""
    from hpctrain.clock import SystemClock
    from hpctrain.devcluster import nodes
    from hpctrain.devcluster.control import Control
    from hpctrain.devcluster.state import daemon_pid, layout_of

    spec = _running(name, node)
    layout = layout_of(spec)
    if dry_run:
        runs = daemon_pid(layout, node) is not None
        say(f"slurmd of node {node} runs" if runs else f"would start slurmd of node {node} and return it to service")
        state = Control(layout).nodes()[node]
    else:
        state = nodes.start_node(layout, spec, node, SystemClock())
        if state.in_service:
            say(f"node {node} is in service")
        else:
            say(f"node {node} answers, and stays {state.state} for the reason '{state.reason}'")
            say(f"to undo that: scontrol update nodename={node} state=resume")
    if output == "json":
        print_json("node", {"name": node, "state": state.state, "in_service": state.in_service, "reason": _reason(state)})


def _clusters() -> Clusters:
    from hpctrain.devcluster.cluster import Clusters

    return Clusters(say=say)


def _running(name: str, node: str) -> Spec:
    from hpctrain.devcluster.nodes import check_node
    from hpctrain.devcluster.state import find_cluster, load_spec
    from hpctrain.errors import NotFoundError

    info = find_cluster(name)
    check_node(info, node)
    spec = load_spec(info.state_dir)
    if spec is None:
        raise NotFoundError(f"private cluster '{name}' has just gone away")
    return spec


def _status(info: ClusterInfo) -> dict[str, Any]:
    from hpctrain.devcluster.control import Control
    from hpctrain.devcluster.state import daemon_pid, layout_of, load_spec
    from hpctrain.errors import ClusterError

    spec = load_spec(info.state_dir)
    layout = layout_of(spec) if spec else None
    pids = {node: daemon_pid(layout, node) if layout else None for node in info.nodes}
    report = _describe(info)
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
            "reason": _reason(states[node]) if node in states else "",
        }
        for node in info.nodes
    ]
    return report


def _reason(state: NodeState) -> str:
    return "" if state.in_service else state.reason


def _describe(info: ClusterInfo) -> dict[str, Any]:
    return {
        "name": info.name, "nodes": list(info.nodes), "gpus_per_node": info.gpus_per_node, "slurm_conf": info.slurm_conf,
        "state_dir": str(info.state_dir), "controller_port": info.controller_port,
        "slurmctld_pid": info.slurmctld_pid, "munged_pid": info.munged_pid,
    }


def _print_status(report: dict[str, Any]) -> None:
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
        click.echo(f"  {_summary(names)}: {state}" + (f" ({reason})" if reason else ""))
    jobs = ", ".join(f"{count} {state.lower()}" for state, count in sorted(report["jobs"].items()))
    click.echo(f"  jobs: {jobs or 'none'}")


def _process(member: Member) -> dict[str, Any]:
    return {"pid": member.pid, "kind": member.kind, "node": member.node}


def _processes(members: Sequence[Member]) -> str:
    kinds = [member.kind for member in members]
    words = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    return f"{len(members)} process{'' if len(members) == 1 else 'es'}" + (f" ({words})" if words else "")


def _summary(names: Sequence[str]) -> str:
    """Names, folded where there are many: ``munged,n[1-512],slurmctld``."""
    from hpctrain.slurm.nodelist import fold

    return fold(names)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _nothing_to_do(name: str) -> str:
    return f"all of cluster '{name}' runs: nothing to do"
