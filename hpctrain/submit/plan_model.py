"""The plan: everything that is decided before Slurm is asked (pure, standard library only).

The agents read it back from ``plan.json`` with nothing but the standard library, so that a node needs no YAML
or pydantic to start ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

PLAN_VERSION = 1


@dataclass(frozen=True, slots=True)
class RankCommand:
    """How one rank is started.

    Attributes:
        argv: program and arguments, no shell.
        workdir: directory it starts in.
        env: variables added to the job's environment, recipe's and ours.
        is_trainer: it is our own trainer: it answers stop files, writes heartbeats and exits with EXIT_STOPPED.
    """

    argv: tuple[str, ...]
    workdir: str
    env: Mapping[str, str] = field(default_factory=dict)
    is_trainer: bool = True


@dataclass(frozen=True, slots=True)
class SlurmRequest:
    """The header of the batch script, field by field. None leaves a line out.

    Attributes:
        after: a job that has to begin before this one may.
    """

    job_name: str
    nodes: int
    output: str
    gpus_per_node: int = 0
    gpu_type: str | None = None
    cpus_per_node: int | None = None
    memory_per_node_mib: int | None = None
    time_limit_s: int | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    reservation: str | None = None
    constraint: str | None = None
    exclusive: bool = False
    requeue: bool = True
    signal_before_limit_s: int = 120
    comment: str = ""
    after: int | None = None


@dataclass(frozen=True, slots=True)
class Container:
    """An image the ranks run in."""

    image: str
    runtime: str
    mounts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckpointPlan:
    """What the agents do for the checkpoint tiers.

    Attributes:
        ram: each agent keeps a keeper and a writer process.
        peer: and tells its keeper which other node gets copies.
        flush_limit_s: longest time for writing what only memory holds when the ranks have died.
        values: all tiers, as the ranks read them from HPCTRAIN_CHECKPOINT.
    """

    ram: bool = False
    peer: bool = False
    flush_limit_s: int = 60
    values: Mapping[str, Any] = field(default_factory=dict)

    def on_node(self, node: str) -> dict[str, Any]:
        """The values for the ranks of one node, with a directory of its own in the local tier: nodes may share a host."""
        local = self.values.get("local")
        return {**self.values, **({"local": {**local, "path": f"{local['path']}/{node}"}} if local else {})}


@dataclass(frozen=True, slots=True)
class Plan:
    """One run, decided.

    Attributes:
        run_name: name of run and directory.
        run_dir: absolute path of the run directory.
        python: absolute path of the interpreter that runs coordinator, agents and trainer.
        nodes: training nodes (without spares).
        ranks_per_node: training processes per node.
        device: ``cpu`` or ``cuda``.
        interface: network interface for rendezvous and collectives; "" lets the resolver decide.
        one_host: all nodes are one machine (the private cluster).
        status_dir: where the coordinator publishes its status for a watchdog of the whole cluster, "" for nowhere.
        total_steps: optimizer steps if known before the data is read, else None.
        max_restarts, max_restarts_without_progress, stop_signal: see the recipe's ``resilience``.
        restarts_per_window, max_same_failure, exclude_after: likewise; durations beside them are in seconds.
        in_place, agent_silence_s: see the recipe's ``resilience``.
        checkpoint: see :class:`CheckpointPlan`.
        detection: the recipe's section, as :mod:`hpctrain.detect.settings` reads it.
        warm_imports: ranks are forked from a process that has imported what they need, where that can be.
        notes: sentences about choices the user did not make, shown at submission.
    """

    run_name: str
    run_dir: str
    python: str
    nodes: int
    spares: int
    ranks_per_node: int
    device: str
    command: RankCommand
    slurm: SlurmRequest
    interface: str = ""
    container: Container | None = None
    one_host: bool = False
    status_dir: str = ""
    total_steps: int | None = None
    max_restarts: int = 20
    max_restarts_without_progress: int = 2
    restarts_per_window: int = 10
    restart_window_s: int = 3600
    max_same_failure: int = 3
    exclude_after: int = 2
    exclude_window_s: int = 86400
    exclude_for_s: int = 86400
    stop_signal: str = "SIGTERM"
    in_place: bool = True
    agent_silence_s: float = 8.0
    checkpoint: CheckpointPlan = field(default_factory=CheckpointPlan)
    detection: Mapping[str, Any] = field(default_factory=dict)
    warm_imports: bool = True
    notes: tuple[str, ...] = ()
    version: int = PLAN_VERSION

    @property
    def world_size(self) -> int:
        """Number of training processes."""
        return self.nodes * self.ranks_per_node

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``plan.json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        """Read ``plan.json`` back.

        Raises:
            ValueError: written by a version of hpctrain that this one does not understand.
        """
        if data.get("version") != PLAN_VERSION:
            raise ValueError(f"plan.json has version {data.get('version')!r}, this hpctrain reads {PLAN_VERSION}")
        values = dict(data)
        command, container = dict(values["command"]), values.get("container")
        values["command"] = RankCommand(**{**command, "argv": tuple(command["argv"])})
        values["slurm"] = SlurmRequest(**values["slurm"])
        values["container"] = Container(**{**container, "mounts": tuple(container["mounts"])}) if container else None
        values["checkpoint"] = CheckpointPlan(**values.get("checkpoint", {}))
        values["notes"] = tuple(values.get("notes", ()))
        return cls(**values)
