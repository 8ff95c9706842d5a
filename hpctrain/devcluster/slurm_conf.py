"""The text of slurm.conf, gres.conf and cgroup.conf of a private cluster (pure).

It holds for Slurm 21.08 to 26.05. What deviates from Slurm's defaults does so for one of three reasons: everything
runs as one user on one host; a test should not wait for a scheduler's leisure; or nearly every site sets it that way.
The 121 seconds that Slurm holds a requeued job back are kept, because real sites have them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hpctrain.devcluster.layout import Layout, Spec
from hpctrain.errors import UsageError

CPUS_PER_NODE = 64
MEMORY_PER_NODE_MIB = 256_000
PARTITION = "main"
CGROUP_PLUGIN_CAN_BE_DISABLED = (24, 5)
"""First version whose ``CgroupPlugin`` knows ``disabled``."""

# slurm.conf has no way to write a blank, '#', '%', ',' or quote inside a path in all the places we need one.
_SAFE_PATH = re.compile(r"[A-Za-z0-9_./+@:~-]+")
_VERSION = re.compile(r"(\d+)\.(\d+)")

_SLURM_CONF = """\
# Written by 'hpctrain cluster up', and again whenever it starts the controller: changes here are lost.
ClusterName=hpctrain-{name}
# Not this machine's own name, which need not resolve. Daemons listen on all addresses, since NoInAddrAny would make
# them listen on whatever that name resolves to; only who has the munge key is obeyed.
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={munge_socket}
StateSaveLocation={controller_state}
SlurmdSpoolDir={spool}/%n
SlurmctldPidFile={pids}/slurmctld.pid
SlurmdPidFile={pids}/%n.pid
SlurmctldLogFile={logs}/slurmctld.log
SlurmdLogFile={logs}/%n.log
MailProg=/bin/true
MpiDefault=none
# No cgroups and no affinity: an ordinary user has neither, and the nodes' CPUs are imaginary.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
# Scheduling
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,sched_min_interval=0,bf_interval=3,nohold_on_prolog_fail
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU={memory_per_cpu_mib}
JobRequeue=1
KillWait=5
MaxJobCount=20000
MinJobAge=3600
# Nodes that stop answering are declared DOWN soon; one that was set DOWN by hand stays so.
SlurmdTimeout=40
ReturnToService=1
RebootProgram={reboot_program}
ResumeTimeout=120
{gres_types}NodeName={nodes} NodeHostname=localhost NodeAddr=127.0.0.1 Port={slurmd_ports} \
CPUs={cpus} RealMemory={memory_mib}{gres} State=UNKNOWN
PartitionName={partition} Nodes={nodes} Default=YES DefaultTime=60 MaxTime=UNLIMITED State=UP
Include {health_conf}
"""


@dataclass(frozen=True, slots=True)
class Host:
    """What the configuration needs to know about this machine.

    Attributes:
        user: name of the user who runs everything.
        slurm_version: major and minor version, such as ``(22, 5)``.
    """

    user: str
    slurm_version: tuple[int, int]


def render_slurm_conf(spec: Spec, layout: Layout, host: Host) -> str:
    """The complete slurm.conf."""
    gpus = spec.gpus_per_node
    first = spec.controller_port + 1
    return _SLURM_CONF.format(
        name=spec.name,
        user=host.user,
        controller_port=spec.controller_port,
        munge_socket=layout.munge_socket,
        controller_state=layout.controller_state,
        spool=layout.spool,
        pids=layout.pids,
        logs=layout.logs,
        memory_per_cpu_mib=MEMORY_PER_NODE_MIB // CPUS_PER_NODE,
        gres_types="GresTypes=gpu\n" if gpus else "",
        nodes=_numbered("n", 1, spec.nodes),
        slurmd_ports=_numbered("", first, first + spec.nodes - 1),
        cpus=CPUS_PER_NODE,
        memory_mib=MEMORY_PER_NODE_MIB,
        gres=f" Gres=gpu:sim:{gpus}" if gpus else "",
        partition=PARTITION,
        health_conf=layout.health_conf,
        reboot_program=layout.reboot_program,
    )


def render_gres_conf(spec: Spec, layout: Layout) -> str:
    """gres.conf: every node names the same stand-ins for GPUs, of type ``sim``."""
    if not spec.gpus_per_node:
        return "# no GPUs\n"
    files = f"{layout.gpus}/{_numbered('gpu', 0, spec.gpus_per_node - 1)}"
    return f"AutoDetect=off\nNodeName={_numbered('n', 1, spec.nodes)} Name=gpu Type=sim File={files}\n"


def render_cgroup_conf(host: Host) -> str:
    """cgroup.conf: keep slurmd away from cgroups, which an ordinary user may not manage.

    Older versions load a plugin in any case; the one for version 1 touches nothing until a task plugin asks it to,
    where the one for version 2 insists on a systemd scope.
    """
    disabled = host.slurm_version >= CGROUP_PLUGIN_CAN_BE_DISABLED
    return f"CgroupPlugin={'disabled' if disabled else 'cgroup/v1'}\n"


def render_health_conf(layout: Layout, interval_s: int) -> str:
    """The part of slurm.conf that checks nodes before and after jobs, and from time to time."""
    scripts = layout.health_dir
    return (
        f"Prolog={scripts}/prolog.sh\nEpilog={scripts}/epilog.sh\nPrologFlags=Alloc\n"
        f"HealthCheckProgram={scripts}/health_program.sh\nHealthCheckInterval={interval_s}\nHealthCheckNodeState=ANY\n"
    )


def parse_version(text: str) -> tuple[int, int]:
    """Version in the answer of ``slurmd -V``, such as ``slurm-wlm 22.05.8``; ``(0, 0)`` if there is none."""
    match = _VERSION.search(text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def check_path(path: str) -> None:
    """Refuse a directory whose path slurm.conf cannot hold.

    Raises:
        UsageError: it has a blank or another character that means something else there.
    """
    if not _SAFE_PATH.fullmatch(path):
        hint = "set HPCTRAIN_STATE_DIR to a directory with letters, digits, '.', '_', '-' and '/' only"
        message = "the path of the state directory has a character that slurm.conf cannot hold"
        raise UsageError(message, where=path, hint=hint)


def _numbered(prefix: str, first: int, last: int) -> str:
    return f"{prefix}[{first}-{last}]" if last > first else f"{prefix}{first}"
