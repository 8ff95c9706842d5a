"""What was measured on one node at one moment (pure).

A check sees nothing but a Reading, so a recorded one replays exactly. A value that could not be read is None or absent:
a check treats it as unknown, never as zero. The small things are named tuples, which take an eighth of the time to define:
a prolog pays for every class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from hpctrain.health.gpu import Gpu
from hpctrain.health.gpu_fields import COUNTERS


class FileSystem(NamedTuple):
    """One mounted file system.

    Attributes:
        size_bytes, available_bytes: total size, and what an ordinary user may still write.
        inodes, inodes_available: 0 and 0 where the file system does not count inodes.
        read_only: mounted read-only.
        expected_read_only: it is meant to be (from the mount table's type or a site's list).
        answers: it answered within its deadline; the sizes of one that did not are 0.
        took_s: how long it took to answer.
        error: what the system said instead of an answer, such as ``Stale file handle``; "" if it answered.
    """

    mount: str
    kind: str
    size_bytes: int
    available_bytes: int
    inodes: int = 0
    inodes_available: int = 0
    read_only: bool = False
    expected_read_only: bool = False
    answers: bool = True
    took_s: float = 0.0
    error: str = ""


class PciDevice(NamedTuple):
    """One PCI device from sysfs: a GPU, an NVSwitch or a network adapter.

    Attributes:
        kind: ``gpu``, ``nvswitch``, ``bridge`` or ``network``.
        driver: the kernel driver bound to it, "" if none.
        width, width_max: lanes; 0 if unknown.
        speed_gts, speed_max_gts: gigatransfers per second and lane; 0 if unknown.
        acs: access control is on (only known for bridges, and only to root).
        errors_fatal, errors_non_fatal, errors_correctable: AER totals, None where the kernel does not count them.
    """

    address: str
    kind: str
    vendor: int = 0
    device: int = 0
    driver: str = ""
    width: int = 0
    width_max: int = 0
    speed_gts: float = 0.0
    speed_max_gts: float = 0.0
    acs: bool | None = None
    errors_fatal: int | None = None
    errors_non_fatal: int | None = None
    errors_correctable: int | None = None


class Port(NamedTuple):
    """One port of an InfiniBand or RoCE adapter.

    Attributes:
        link: ``infiniband`` or ``ethernet``.
        state: ``active``, ``down``, ``init``, ``armed``... lower case.
        physical: ``linkup``, ``polling``, ``disabled``, ``linkerrorrecovery``... lower case.
        counters: names as in sysfs.
    """

    device: str
    port: int
    link: str = ""
    state: str = ""
    physical: str = ""
    rate_gbps: float | None = None
    pci_bus: str = ""
    counters: Mapping[str, int] = {}

    @property
    def entity(self) -> str:
        """How findings call it."""
        return f"{self.device}/{self.port}"


class NetInterface(NamedTuple):
    """One network interface that is hardware or a bond.

    Attributes:
        state: ``up``, ``down``, ``lowerlayerdown``, ``dormant``, ``unknown``: the kernel's operstate.
        enabled: the administrator has it up.
        speed_mbps: None if there is no link or it is not told.
        carrier_losses: how often the carrier went away since boot.
        bond_members, bond_members_up: names; empty for what is no bond.
    """

    name: str
    state: str
    enabled: bool = False
    speed_mbps: int | None = None
    carrier_losses: int | None = None
    rdma_device: str = ""
    bond_members: tuple[str, ...] = ()
    bond_members_up: tuple[str, ...] = ()


class Process(NamedTuple):
    """A process that stands out: blocked in the kernel, or a zombie.

    Attributes:
        state: ``D`` or ``Z``.
        started: seconds since boot; pid and start together name a process.
        waits_in: the kernel function it sleeps in, "" if not told.
    """

    pid: int
    name: str
    state: str
    started: float = 0.0
    waits_in: str = ""
    uid: int | None = None


@dataclass(frozen=True, slots=True)
class KernelEvent:
    """One line of the kernel log that means something, with its repeats folded in.

    Attributes:
        kind: ``xid``, ``sxid``, ``mce``, ``edac``, ``oom``, ``lockup``, ``hung_task``, ``io_error``, ``read_only``,
            ``pcie``, ``nvme``, ``nfs``, ``panic``, ``network``.
        entity: a PCI address (``0000:3b:00``), a device or a process; "" if the line names none.
        number: the Xid or SXid; 0 otherwise.
        text: the message, shortened.
        time: seconds since the epoch of the newest repeat.
        first: the same of the oldest.
        count: how often it was seen.
        detail: parts of the line that policies need, such as ``pid``, ``unit``, ``fatal``.
    """

    kind: str
    time: float
    entity: str = ""
    number: int = 0
    text: str = ""
    first: float = 0.0
    count: int = 1
    detail: Mapping[str, str] = field(default_factory=dict)


class ClockState(NamedTuple):
    """What the kernel thinks of its own clock.

    Attributes:
        synchronised: something disciplines it.
        error_s: bound of its error as the kernel keeps it (grows while nothing disciplines it), None if unknown.
        offset_s: measured distance to the time source, None if unknown.
        source: ``tsc``, ``hpet``, ``kvm-clock``...
    """

    synchronised: bool | None = None
    error_s: float | None = None
    offset_s: float | None = None
    source: str = ""


class Disk(NamedTuple):
    """A disk or array that says something about itself.

    Attributes:
        kind: ``nvme`` or ``md``.
        state: ``live``, ``dead``, ``resetting``... for NVMe; ``degraded`` or ``clean`` for an array.
    """

    name: str
    kind: str
    state: str
    missing: int = 0


class Service(NamedTuple):
    """A service this node needs.

    Attributes:
        running: None if that could not be found out.
    """

    name: str
    running: bool | None


@dataclass(frozen=True, slots=True)
class Job:
    """The job on whose behalf a prolog or epilog looks.

    Attributes:
        gpus: minor numbers of its GPUs; None if Slurm did not say, empty for a CPU-only job.
    """

    id: str
    uid: int | None = None
    gpus: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Expected:
    """What the site says this node has; None or empty where it has not said.

    Attributes:
        mounts: mount point -> kind, "" for any kind.
        services: names of processes or units that must run.
        versions: ``driver``, ``kernel``, ``vbios``, ``cuda`` -> the text every node of this kind shows.
    """

    gpus: int | None = None
    gpu_name: str = ""
    memory_bytes: int | None = None
    cpus: int | None = None
    sockets: int | None = None
    mounts: Mapping[str, str] = field(default_factory=dict)
    services: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    ib_ports: int | None = None
    ib_rate_gbps: float | None = None
    interfaces: tuple[str, ...] = ()
    nvme: int | None = None
    persistence: bool | None = None
    ecc: bool | None = None
    mig: bool | None = None
    compute_mode: int | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """Counters as they were at an earlier moment of the same boot."""

    time: float
    counters: Mapping[str, float]


class ProbeState(NamedTuple):
    """How a probe fared.

    Attributes:
        outcome: ``ok``, ``timeout``, ``crashed`` or ``skipped``.
        step: what it was doing when it stopped answering; why it was skipped; "" if all went well.
    """

    outcome: str
    step: str = ""
    took_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Reading:
    """One node, once.

    Attributes:
        time: seconds since the epoch when the reading was taken.
        node: the node's name.
        context: ``prolog``, ``epilog``, ``periodic`` or ``manual``.
        uptime_s: seconds since boot, None if unknown.
        nvml_error: why NVML could not be initialised, "" if it was or was not asked.
        gpus: those in scope: the job's in a prolog, else all.
        leftovers: processes of the job that has ended, which survived SIGKILL in its epilog.
        gpus_seen: how many NVML counts on the whole node, None if unknown.
        samples: earlier counters of this boot, oldest first.
        blocked_before: (pid, start) of processes that were blocked when this node was last looked at.
    """

    time: float
    node: str
    context: str = "manual"
    boot_id: str = ""
    uptime_s: float | None = None
    job: Job | None = None
    expected: Expected = Expected()
    probes: Mapping[str, ProbeState] = field(default_factory=dict)
    # GPUs
    nvml_error: str = ""
    gpus_seen: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    gpus: tuple[Gpu, ...] = ()
    # host
    memory_bytes: int | None = None
    memory_available_bytes: int | None = None
    cpus: int | None = None
    cpus_present: int | None = None
    sockets: int | None = None
    governors: tuple[str, ...] = ()
    modules: tuple[str, ...] | None = None
    file_systems: tuple[FileSystem, ...] = ()
    pci: tuple[PciDevice, ...] = ()
    ports: tuple[Port, ...] = ()
    interfaces: tuple[NetInterface, ...] = ()
    disks: tuple[Disk, ...] = ()
    edac_corrected: int | None = None
    edac_uncorrected: int | None = None
    processes: tuple[Process, ...] = ()
    leftovers: tuple[Process, ...] = ()
    process_count: int | None = None
    process_limit: int | None = None
    files_open: int | None = None
    files_limit: int | None = None
    services: tuple[Service, ...] = ()
    clock: ClockState = ClockState()  # noqa: RUF009 - a tuple, which nothing can change
    kernel_events: tuple[KernelEvent, ...] = ()
    # memory of earlier readings
    samples: tuple[Sample, ...] = ()
    blocked_before: tuple[tuple[int, float], ...] = ()

    def counters(self) -> Iterator[tuple[str, float]]:
        """Every growing number of this reading under a name that stays the same between readings."""
        for gpu in self.gpus:
            yield from ((f"{gpu.uuid}.{name}", value) for name in COUNTERS if (value := gpu.number(name)) is not None)
        for port in self.ports:
            yield from ((f"{port.entity}.{name}", value) for name, value in port.counters.items())
        for net in self.interfaces:
            if net.carrier_losses is not None:
                yield f"{net.name}.carrier_losses", net.carrier_losses
        for name, value in (("edac_corrected", self.edac_corrected), ("edac_uncorrected", self.edac_uncorrected)):
            if value is not None:
                yield name, value

    def increase(self, counter: str, now: float, within_s: float) -> tuple[float, float] | None:
        """By how much a counter has grown, and over how many seconds, since the oldest sample that is recent enough.

        None if there is no such sample, or if the counter went back (a reset: what it lost is not known).
        """
        for sample in self.samples:
            before = sample.counters.get(counter)
            age_s = self.time - sample.time
            if before is not None and 0 < age_s <= within_s:
                return (now - before, age_s) if now >= before else None
        return None

    def events(self, *kinds: str) -> tuple[KernelEvent, ...]:
        """The kernel events of these kinds."""
        return tuple(event for event in self.kernel_events if event.kind in kinds)
