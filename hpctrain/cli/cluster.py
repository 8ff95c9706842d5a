"""``hpctrain cluster``: a real Slurm of one's own on this machine (entry point)."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hpctrain.cli.cluster_text import (
    count,
    describe,
    nothing_to_do,
    print_status,
    process_record,
    processes_text,
    reason_of,
    status_of,
    summary,
)
from hpctrain.cli.output import output_option, print_json, say
from hpctrain.devcluster.layout import DEFAULT_GPUS_PER_NODE, DEFAULT_NAME, DEFAULT_NODES, check_name

if TYPE_CHECKING:
    from hpctrain.devcluster.cluster import Clusters
    from hpctrain.devcluster.layout import Spec

F = TypeVar("F", bound=Callable[..., Any])

_QUOTES = {"sh": "export {}={}", "fish": "set -gx {} {};", "csh": "setenv {} {};"}


def _name_option(function: F) -> F:
    return click.option(
        "--name", envvar="HPCTRAIN_CLUSTER", default=DEFAULT_NAME, show_default=True,
        callback=lambda _ctx, _param, value: check_name(value) if value else value,
        help="Which cluster, where several run side by side.",
    )(function)


def _docker_option(function: F) -> F:
    return click.option("--docker", is_flag=True, help="A cluster of containers instead of processes.")(function)


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
@click.option(
    "--suite", type=click.Choice(["bookworm", "trixie", "forky"]), default="trixie", show_default=True,
    help="With --docker: Debian's release, and so Slurm 22.05, 24.11 or 26.05.",
)
@_docker_option
@_name_option
@_dry_run_option
@output_option
def up(
    nodes: int | None, gpus_per_node: int | None, *, health: bool, suite: str, docker: bool, name: str, dry_run: bool,
    output: str,
) -> None:
    """Start the cluster, or whatever of it does not run.

    Safe to repeat: a cluster that runs is left alone, a killed daemon or a reboot is repaired, and the queue is kept.
    With --docker its nodes c1 to cN are containers, with a login node, accounting and health checks of their own; that
    needs a Docker engine and hpctrain's source.
    """
    if docker:
        from hpctrain.cli.cluster_docker import docker_up

        gpus = DEFAULT_GPUS_PER_NODE if gpus_per_node is None else gpus_per_node
        docker_up(name, nodes or DEFAULT_NODES, gpus, suite, dry_run=dry_run, output=output)
        return
    clusters = _clusters()
    if dry_run:
        plan = clusters.plan(name, nodes, gpus_per_node)
        size = f"{count(plan.spec.nodes, 'node')} x {count(plan.spec.gpus_per_node, 'simulated GPU')}"
        say(f"would start {summary(plan.missing)} of cluster '{name}' ({size})" if plan.missing else nothing_to_do(name))
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
    size = f"{count(len(info.nodes), 'node')} x {count(info.gpus_per_node, 'simulated GPU')}"
    say(f"cluster '{name}' is up: {size} ({time.monotonic() - begun:.1f} s)")
    if output == "json":
        print_json("cluster", describe(info))
    else:
        option = "" if name == DEFAULT_NAME else f" --name {name}"
        say(f'for srun and squeue in this shell:  eval "$(hpctrain cluster env{option})"')
        say(f"to remove it:                       hpctrain cluster down{option}")


@cluster.command()
@_docker_option
@_name_option
@_dry_run_option
@output_option
def down(*, docker: bool, name: str, dry_run: bool, output: str) -> None:
    """End the cluster with all its jobs, and remove its files."""
    if docker:
        from hpctrain.cli.cluster_docker import docker_down

        docker_down(name, dry_run=dry_run, output=output)
        return
    clusters = _clusters()
    existed = clusters.exists(name)
    ended = clusters.members(name) if dry_run else clusters.down(name)
    if existed or ended:
        verbs = ("would end", "remove") if dry_run else ("ended", "removed")
        say(f"{verbs[0]} {processes_text(ended)}, and {verbs[1]} cluster '{name}'")
    else:
        say(f"there is no cluster '{name}': nothing to do")
    if output == "json":
        print_json("ended", [process_record(member) for member in ended])


@cluster.command()
@click.option("--name", envvar="HPCTRAIN_CLUSTER", default=None, help="Only this cluster.  [default: all]")
@_docker_option
@output_option
def status(name: str | None, *, docker: bool, output: str) -> None:
    """Show daemons, nodes and jobs."""
    if docker:
        from hpctrain.cli.cluster_docker import docker_status

        docker_status(name, output)
        return
    from hpctrain.devcluster.state import known_clusters
    from hpctrain.errors import NotFoundError

    found = [info for info in known_clusters() if name is None or info.name == check_name(name)]
    if name is not None and not found:
        hint = f"make it with 'hpctrain cluster up --name {name}'"
        raise NotFoundError(f"there is no private cluster '{name}'", hint=hint)
    reports = [status_of(info) for info in found]
    if output == "json":
        print_json("clusters", reports)
        return
    if not reports:
        say("no private cluster; make one with 'hpctrain cluster up'")
    for report in reports:
        print_status(report)


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
@_docker_option
@_name_option
@_dry_run_option
@output_option
def kill_node(node: str, *, silent: bool, docker: bool, name: str, dry_run: bool, output: str) -> None:
    """Kill all that runs on a node, as a power failure would.

    That is its slurmd, its step daemons and the jobs' processes on it, and nothing else. A container is always killed
    silently.
    """
    if docker:
        from hpctrain.cli.cluster_docker import docker_kill

        docker_kill(name, node, dry_run=dry_run, output=output)
        return
    from hpctrain.clock import SystemClock
    from hpctrain.devcluster import nodes
    from hpctrain.devcluster.state import layout_of

    layout = layout_of(_running(name, node))
    if dry_run:
        killed = nodes.node_members(layout, node)
        say(f"would kill {processes_text(killed)} on node {node}{'' if silent else ' and set it DOWN'}")
    else:
        killed = nodes.kill_node(layout, node, SystemClock(), silent=silent)
        told = "; Slurm does not know yet" if silent else ", which is DOWN now"
        say(f"killed {processes_text(killed)} on node {node}{told}")
    if output == "json":
        print_json("killed", [process_record(member) for member in killed])


@cluster.command()
@click.argument("node")
@click.argument("kind", required=False)
@click.option("--gpu", "number", type=click.IntRange(0, 63), default=0, show_default=True, help="Which GPU, or which port.")
@click.option("--until", type=click.Choice(["reset", "reboot", "replace"]), help="What mends it.  [default: as in life]")
@click.option("--heal", "healing", is_flag=True, help="Undo all faults of the node, as a repair and a reboot would.")
@_docker_option
@_name_option
@_dry_run_option
@output_option
def fault(
    node: str, kind: str | None, *, number: int, until: str | None, healing: bool, docker: bool, name: str, dry_run: bool,
    output: str,
) -> None:
    """Break a node's simulated hardware on purpose; without KIND, list what can be broken.

    The cluster has to be made with 'hpctrain cluster up --health'.
    Examples: hpctrain cluster fault n1 row-remap-failed --gpu 3; hpctrain cluster fault n1 --heal
    """
    if docker and (healing or kind is not None):
        from hpctrain.cli.cluster_docker import docker_fault

        docker_fault(name, node, kind or "", number, until or "", healing=healing, dry_run=dry_run, output=output)
        return
    from hpctrain.devcluster import health_setup
    from hpctrain.devcluster.faults import DEEP_FAULTS, FAULTS, fault_named
    from hpctrain.devcluster.state import layout_of

    told: dict[str, Any] = {"node": node}
    if healing:
        spec = _running(name, node)
        if not dry_run:
            health_setup.heal(layout_of(spec), spec, node)
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
        spec = _running(name, node)
        if not dry_run:
            health_setup.inject(layout_of(spec), spec, node, chosen, number, until=until or "")
        told |= {"fault": chosen.name, "gpu": number, "found_by": chosen.check}
        say(f"{'would break' if dry_run else 'broke'} node {node}: {chosen.what}; the check '{chosen.check}' should find it")
    if output == "json":
        print_json("fault", told)


@cluster.command("start-node")
@click.argument("node")
@_docker_option
@_name_option
@_dry_run_option
@output_option
def start_node(node: str, *, docker: bool, name: str, dry_run: bool, output: str) -> None:
    """Bring a killed node back into service. A reason that a person gave it stays."""
    if docker:
        from hpctrain.cli.cluster_docker import docker_start

        docker_start(name, node, dry_run=dry_run, output=output)
        return
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
        print_json("node", {"name": node, "state": state.state, "in_service": state.in_service, "reason": reason_of(state)})


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
