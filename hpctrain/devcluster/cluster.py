"""Bringing a private cluster up and taking it down (service)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from hpctrain.clock import Clock, SystemClock
from hpctrain.devcluster import daemons, ports, prepare
from hpctrain.devcluster.control import Control, NodeState
from hpctrain.devcluster.kill import kill_members
from hpctrain.devcluster.layout import DEFAULT_GPUS_PER_NODE, DEFAULT_NODES, Layout, Spec, check_name
from hpctrain.devcluster.lock import cluster_lock, lock_path
from hpctrain.devcluster.members import CONTROLLER, MUNGE, SLURMD, Member, find_members
from hpctrain.devcluster.slurm_conf import check_path
from hpctrain.devcluster.state import ClusterInfo, daemon_pid, describe, layout_of, load_spec, save_spec, state_root
from hpctrain.errors import ClusterError
from hpctrain.files import make_private_dir

KILL_REASON = "hpctrain: kill-node"
SLURMS_OWN_REASONS = ("Not responding", "Node unexpectedly rebooted")
"""Reasons that Slurm gives itself when a node was away; a node that is back need not keep them."""

_STARTERS = 8
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Plan:
    """What ``up`` has to do, or ``down`` would end.

    Attributes:
        spec: size and ports; ports are 0 for a cluster that does not exist yet.
        missing: daemons that do not run: ``munged``, ``slurmctld``, and node names.
    """

    spec: Spec
    missing: tuple[str, ...]
    exists: bool


class Clusters:
    """The private clusters of this user.

    Args:
        root: directory of all clusters; see :func:`hpctrain.devcluster.state.state_root`.
        say: takes messages for people, such as what is being waited for.
        random: where to look for free ports.
    """

    def __init__(
        self,
        root: Path | None = None,
        *,
        say: Callable[[str], None],
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None:
        self._root = root or state_root()
        self._say = say
        self._clock = clock or SystemClock()
        self._random = random or Random()  # noqa: S311 - spreads clusters over ports, keeps no secret

    def plan(self, name: str, nodes: int | None = None, gpus_per_node: int | None = None) -> Plan:
        """What :meth:`up` would do; changes nothing.

        Raises:
            UsageError: the name or the state directory's path cannot be used.
            ClusterError: the cluster exists with another size.
            MissingDependencyError: Slurm or munge is not installed.
        """
        state_dir = self._root / check_name(name)
        check_path(str(state_dir))
        daemons.require_programs()
        spec = load_spec(state_dir)
        if spec is None:
            count = DEFAULT_NODES if nodes is None else nodes
            gpus = DEFAULT_GPUS_PER_NODE if gpus_per_node is None else gpus_per_node
            new = Spec(name, count, gpus, controller_port=0, runtime_dir=str(state_dir))
            return Plan(new, ("munged", "slurmctld", *new.node_names), exists=False)
        _check_size(spec, nodes, gpus_per_node)
        layout = layout_of(spec, self._root)
        wanted = ("munged", "slurmctld", *spec.node_names)
        return Plan(spec, tuple(daemon for daemon in wanted if daemon_pid(layout, daemon) is None), exists=True)

    def up(self, name: str, nodes: int | None = None, gpus_per_node: int | None = None) -> ClusterInfo:
        """Start whatever of the cluster does not run, and wait until all its nodes are in service.

        Args:
            nodes: size of a new cluster, 4 by default; an existing one must have it.
            gpus_per_node: likewise, 8 by default.

        Raises:
            UsageError, ClusterError, MissingDependencyError: see :meth:`plan`; also with the log of what did not start.
            StorageError: the state directory cannot be written.
        """
        self.plan(name, nodes, gpus_per_node)  # refuse before anything is touched
        with self._lock(name):
            plan = self.plan(name, nodes, gpus_per_node)
            if not plan.exists:
                self._clear_leftovers(name)
            spec = self._with_places(plan)
            layout = layout_of(spec, self._root)
            if "slurmctld" in plan.missing:
                prepare.write_files(spec, layout)
            if plan.missing:
                self._end_strays(layout, plan.missing)
                self._start(spec, layout, plan.missing)
            self._wait_for_nodes(spec, layout)
            return describe(spec, layout)

    def members(self, name: str) -> list[Member]:
        """All processes of a cluster: daemons, steps and jobs'."""
        return find_members(self._layout(check_name(name)))

    def down(self, name: str) -> list[Member]:
        """End all processes of a cluster and remove its files; return the processes that were ended.

        Raises:
            ClusterError: a process cannot be killed.
            StorageError: a file cannot be removed.
        """
        layout = self._layout(check_name(name))
        if not layout.state_dir.exists() and not lock_path(self._root, name).exists() and not find_members(layout):
            return []
        with self._lock(name) as lock_file:
            layout = self._layout(name)
            killed = kill_members(layout, lambda _: True, self._clock)
            prepare.remove_files(layout)
            lock_file.unlink(missing_ok=True)
        prepare.remove_root_if_empty(self._root)
        return killed

    def exists(self, name: str) -> bool:
        """Files of such a cluster are there, however broken."""
        return (self._root / check_name(name)).exists()

    def _lock(self, name: str) -> AbstractContextManager[Path]:
        return cluster_lock(self._root, name, on_wait=lambda: self._say(f"waiting for another command on cluster '{name}'"))

    def _layout(self, name: str) -> Layout:
        spec = load_spec(self._root / name)
        return layout_of(spec, self._root) if spec else Layout(self._root / name, self._root / name)

    def _clear_leftovers(self, name: str) -> None:
        """Remove what an interrupted ``up`` or a damaged record has left: without a record nothing of it can be used."""
        layout = self._layout(name)
        if layout.state_dir.exists():
            self._say(f"removing an incomplete cluster '{name}'")
            kill_members(layout, lambda _: True, self._clock)
            prepare.remove_files(layout)

    def _with_places(self, plan: Plan) -> Spec:
        """Give a cluster ports and directories; one that does not run at all may get new ones if its own are gone."""
        spec, layout = plan.spec, layout_of(plan.spec, self._root)
        if plan.exists and len(plan.missing) < spec.nodes + 2:
            return spec
        wanted = range(spec.controller_port, spec.controller_port + spec.nodes + 1)
        if not plan.exists or not all(map(ports.is_free, wanted)):
            spec = replace(spec, controller_port=ports.free_block(spec.nodes + 1, self._random))
        if not plan.exists or not prepare.is_usable_runtime_dir(layout):
            spec = replace(spec, runtime_dir=str(prepare.choose_runtime_dir(layout.state_dir, spec.nodes)))
        if spec != plan.spec:
            make_private_dir(layout.state_dir)
            save_spec(layout.state_dir, spec)
        return spec

    def _end_strays(self, layout: Layout, missing: Sequence[str]) -> None:
        """End daemons that run without their pid file, as an ``up`` that was interrupted may leave them."""
        kinds = {MUNGE: "munged", CONTROLLER: "slurmctld"}
        names = frozenset(missing)
        kill_members(
            layout,
            lambda member: kinds.get(member.kind, "") in names or (member.kind == SLURMD and member.node in names),
            self._clock,
        )

    def _start(self, spec: Spec, layout: Layout, missing: Sequence[str]) -> None:
        if "munged" in missing:
            daemons.start_munged(layout)
        if "slurmctld" in missing:
            daemons.start_slurmctld(layout, spec)
        nodes = [daemon for daemon in missing if daemon not in ("munged", "slurmctld")]
        with ThreadPoolExecutor(_STARTERS) as pool:
            try:
                for _ in pool.map(lambda node: daemons.start_slurmd(layout, spec, node), nodes):
                    pass
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _wait_for_nodes(self, spec: Spec, layout: Layout) -> None:
        control = Control(layout)
        deadline = self._clock.monotonic() + 30 + 0.2 * spec.nodes
        while True:
            nodes = control.nodes()
            late = [name for name in spec.node_names if name not in nodes or not is_settled(nodes[name])]
            if not late:
                self._say_who_stays_out(nodes.values())
                return
            control.resume(name for name in late if name in nodes and is_resumable(nodes[name]))
            dead = [name for name in late if daemon_pid(layout, name) is None]
            if dead or self._clock.monotonic() > deadline:
                raise self._not_up(layout, dead or late)
            self._clock.sleep(_POLL_S)

    def _say_who_stays_out(self, nodes: Iterable[NodeState]) -> None:
        for node in nodes:
            if not node.in_service:
                self._say(f"node {node.name} stays {node.state}, for the reason '{node.reason}'")

    def _not_up(self, layout: Layout, nodes: Sequence[str]) -> ClusterError:
        first = nodes[0]
        told = daemons.why_down(layout, first)
        what = f"node {first} did not come up" if len(nodes) == 1 else f"{len(nodes)} nodes did not come up, such as {first}"
        message = what + (":\n  " + told.replace("\n", "\n  ") if told else "")
        return ClusterError(message, where=str(layout.log(first)), hint="run 'hpctrain cluster up' again, or 'down' first")


def is_resumable(node: NodeState) -> bool:
    """The node answers and is kept out of service only by what we or Slurm wrote while it was away."""
    return node.responds and node.base == "DOWN" and (
        node.reason.startswith(SLURMS_OWN_REASONS) or node.reason in ("", "none", KILL_REASON)
    )


def is_settled(node: NodeState) -> bool:
    """The node answers, and is in service or kept out of it by a person."""
    return node.responds and (node.in_service or not is_resumable(node))


def _check_size(spec: Spec, nodes: int | None, gpus_per_node: int | None) -> None:
    asked = (spec.nodes if nodes is None else nodes, spec.gpus_per_node if gpus_per_node is None else gpus_per_node)
    if asked != (spec.nodes, spec.gpus_per_node):
        raise ClusterError(
            f"private cluster '{spec.name}' exists with {spec.nodes} nodes x {spec.gpus_per_node} GPUs,"
            f" and {asked[0]} x {asked[1]} were asked for",
            hint=f"take it down first with 'hpctrain cluster down --name {spec.name}', or give this one another --name",
        )
