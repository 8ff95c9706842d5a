"""``hpctrain cluster ... --docker``: the same commands for a cluster of containers (entry point)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from hpctrain.cli.output import print_json, say

if TYPE_CHECKING:
    from hpctrain.devcluster.docker_cluster import DockerCluster, Machine


def docker_up(name: str, nodes: int, gpus: int, suite: str, *, dry_run: bool, output: str) -> None:
    """Build the image, start the machines, say how to use them."""
    from hpctrain.devcluster.docker_cluster import DockerCluster

    cluster = DockerCluster(name, suite=suite, say=say)
    if dry_run:
        say(f"would build the image for {suite} and start cluster '{name}': 4 service machines and {nodes} nodes")
        if output == "json":
            print_json("plan", {"name": name, "suite": suite, "nodes": nodes, "project": cluster.project})
        return
    begun = time.monotonic()
    machines = cluster.up(nodes, gpus_per_node=gpus)
    login = next(one.container for one in machines if one.name == "login")
    say(f"cluster '{name}' is up: {nodes} nodes x {gpus} simulated GPUs ({time.monotonic() - begun:.1f} s)")
    if output == "json":
        print_json("cluster", _describe(cluster, machines))
        return
    option = "" if name == "default" else f" --name {name}"
    say(f"to work on it as alice:  docker exec -it --user alice --workdir /shared/home/alice {login} bash -l")
    say(f"to remove it:            hpctrain cluster down --docker{option}")


def docker_down(name: str, *, dry_run: bool, output: str) -> None:
    """Remove containers, network and volumes."""
    from hpctrain.devcluster.docker_cluster import DockerCluster

    cluster = DockerCluster(name, say=say)
    machines = cluster.machines()
    if dry_run:
        say(f"would remove {len(machines)} containers of cluster '{name}', with its volumes")
    elif cluster.down():
        say(f"removed {len(machines)} containers of cluster '{name}', with its volumes")
    else:
        say(f"there is no dockerised cluster '{name}': nothing to do")
    if output == "json":
        print_json("ended", [one.name for one in machines])


def docker_status(name: str | None, output: str) -> None:
    """Machines, nodes and jobs of the dockerised clusters."""
    from hpctrain.devcluster.docker_cluster import docker_clusters
    from hpctrain.errors import NotFoundError

    found = [one for one in docker_clusters() if name is None or one.name == name]
    if name is not None and not found:
        hint = f"make it with 'hpctrain cluster up --docker --name {name}'"
        raise NotFoundError(f"there is no dockerised cluster '{name}'", hint=hint)
    if output == "json":
        print_json("clusters", [_describe(one, one.machines()) for one in found])
        return
    if not found:
        say("no dockerised cluster; make one with 'hpctrain cluster up --docker'")
    for cluster in found:
        machines = cluster.machines()
        well = sum(one.healthy for one in machines)
        click.echo(f"cluster {cluster.name} ({cluster.suite}): {well} of {len(machines)} machines are healthy")
        for one in machines:
            if not one.healthy:
                click.echo(f"  {one.name}: {one.state}{', not healthy' if one.state == 'running' else ''}")
        if any(one.name == "login" and one.state == "running" for one in machines):
            answer = cluster.exec("login", ["sinfo", "-o", "%N %T %E", "-N", "-h"], user="root", timeout_s=30)
            for line in answer.stdout.splitlines():
                node, state, *reason = line.split(None, 2)
                click.echo(f"  {node}: {state}" + (f" ({reason[0]})" if reason and reason[0] != "none" else ""))


def docker_kill(name: str, node: str, *, dry_run: bool, output: str) -> None:
    """Power failure of one container."""
    from hpctrain.devcluster.docker_cluster import DockerCluster

    cluster = DockerCluster(name)
    container = cluster.container(node)
    if not dry_run:
        cluster.kill(node)
    say(f"{'would kill' if dry_run else 'killed'} {node} (container {container}); Slurm notices after SlurmdTimeout")
    if output == "json":
        print_json("killed", [{"machine": node, "container": container}])


def docker_start(name: str, node: str, *, dry_run: bool, output: str) -> None:
    """Switch one container on again."""
    from hpctrain.devcluster.docker_cluster import DockerCluster

    cluster = DockerCluster(name)
    container = cluster.container(node)
    if not dry_run:
        cluster.start(node)
    say(f"{'would start' if dry_run else 'started'} {node} (container {container})")
    if output == "json":
        print_json("node", {"name": node, "container": container})


def docker_fault(
    name: str, node: str, fault: str, number: int, until: str, *, healing: bool, dry_run: bool, output: str
) -> None:
    """Break or heal a node's simulated hardware."""
    from hpctrain.devcluster.docker_cluster import DockerCluster
    from hpctrain.devcluster.faults import fault_named

    cluster = DockerCluster(name)
    cluster.container(node)
    told: dict[str, Any] = {"node": node}
    if healing:
        if not dry_run:
            cluster.heal_node(node)
        say(f"{'would heal' if dry_run else 'healed'} node {node}")
    else:
        chosen = fault_named(fault)
        if not dry_run:
            cluster.break_node(node, fault, number, until=until)
        told |= {"fault": chosen.name, "gpu": number, "found_by": chosen.check}
        say(f"{'would break' if dry_run else 'broke'} node {node}: {chosen.what}; the check '{chosen.check}' should find it")
    if output == "json":
        print_json("fault", told)


def _describe(cluster: DockerCluster, machines: Sequence[Machine]) -> dict[str, Any]:
    return {
        "name": cluster.name, "suite": cluster.suite, "project": cluster.project,
        "machines": [
            {"name": one.name, "container": one.container, "state": one.state, "healthy": one.healthy} for one in machines
        ],
    }
