"""What is no fault gives no alarm: what a GPU, a driver or a node does not have, a node at work, one that has booted."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest

from hpctrain.devcluster.faults import FAULTS, Changes
from hpctrain.devcluster.simulated_gpus import DRIVER, PROFILES
from hpctrain.health.gpu import Gpu, GpuProcess
from hpctrain.health.gpu_fields import COUNTERS, NOT_HERE, NUMBERS
from hpctrain.health.reading import ClockState, Job, Port, Process, Reading, Sample
from hpctrain.health.registry import for_context, load_checks, with_model
from hpctrain.health.run import Look, take_reading
from hpctrain.health.verdict import Level, Rules, judge
from tests.unit.health.conftest import SimulatedNode

CHECKS = load_checks()
IDENTITY = {"name", "uuid", "pci_bus", "minor"}


def alarms(reading: Reading) -> list[tuple[str, str]]:
    """The findings above observe."""
    rules = with_model(Rules(), (gpu.text("name") for gpu in reading.gpus))
    found = judge(reading, for_context(CHECKS, reading.context), rules).findings
    return [(finding.check, finding.message) for level, finding in found if level > Level.OBSERVE]


def reading_of(node: SimulatedNode, context: str = "periodic", job: Job | None = None) -> Reading:
    return take_reading(node.config, Look(node.name, context, job, remember=False)).reading


def with_gpus(reading: Reading, change: Callable[[Gpu], Gpu]) -> Reading:
    return replace(reading, gpus=tuple(map(change, reading.gpus)))


def lacking(fields: set[str], error: str) -> Callable[[Gpu], Gpu]:
    """A GPU without these fields."""

    def change(gpu: Gpu) -> Gpu:
        values = {key: value for key, value in gpu.values.items() if key not in fields}
        return replace(gpu, values=values, errors={**gpu.errors, **dict.fromkeys(fields, error)})

    return change


@pytest.mark.parametrize("context", ["prolog", "epilog", "periodic", "manual"])
@pytest.mark.parametrize("profile", PROFILES)
def test_any_field_may_be_missing(profile: str, context: str, make_node: Callable[..., SimulatedNode]) -> None:
    """Each field, and each two of them, not supported or not permitted, on all GPUs or on one of them."""
    reading = replace(reading_of(make_node(profile=profile, gpus=2)), context=context)
    assert [] == alarms(reading)

    fields = sorted({*NUMBERS, "vbios", "inforom", "gsp_firmware", "serial", "processes"} - IDENTITY)
    pairs = [{one} for one in fields]
    if (profile, context) == ("h100", "periodic"):
        pairs += [{*two} for two in itertools.combinations(fields, 2)]
    for number, missing in enumerate(pairs):
        for error in sorted(NOT_HERE)[: 2 if len(missing) == 1 else 1]:
            changed = with_gpus(reading, lacking(missing, error))
            if number % 2 and len(missing) > 1:
                changed = replace(changed, gpus=(reading.gpus[0], *changed.gpus[1:]))
            assert [] == alarms(changed), (missing, error)


ABSENT = {3: "not supported", 4: "no permission", 13: "function not found", 25: "version mismatch", 26: "deprecated"}


@pytest.mark.parametrize("code", ABSENT, ids=ABSENT.get)
def test_a_driver_may_refuse_everything_but_identity(code: int, node: SimulatedNode) -> None:
    """Every call of the real binding answers that it is not there: nothing is known, and nothing is wrong."""
    keys = {key for profile in PROFILES.values() for key in profile} - IDENTITY
    node.files.inject(Changes(gpus={f"gpu.{gpu}.{key}": f"!{code}" for gpu in range(8) for key in keys}))

    for context in ("prolog", "periodic"):
        assert [] == alarms(reading_of(node, context, Job("7", 1000, tuple(range(8)))))


@pytest.mark.parametrize("profile", ["h100", "v100"])
def test_each_call_of_the_binding_may_be_refused(profile: str, make_node: Callable[..., SimulatedNode]) -> None:
    """One call after the other is not supported, through the library and the binding."""
    node = make_node(profile=profile, gpus=1)
    for key in sorted(PROFILES[profile].keys() - IDENTITY):
        if key.startswith("nvlink.") and key != "nvlink.0":
            continue  # a link that does not answer ends the count of links; see below
        node.files.heal()
        node.files.inject(Changes(gpus={f"gpu.0.{key}": "!3"}))
        assert [] == alarms(reading_of(node)), key


def test_mig(node: SimulatedNode) -> None:
    """GPUs that are cut into instances do not tell load, processes or clocks, and are not leftovers of anybody."""
    node.files.inject(Changes(gpus={f"gpu.{gpu}.mig_mode": 1 for gpu in range(8)}))
    for context, job in itertools.product(("prolog", "epilog", "periodic"), (None, Job("7", 1000, (0,)))):
        reading = reading_of(node, context, job)
        assert {1} == {gpu.number("mig_mode") for gpu in reading.gpus}
        silent = with_gpus(reading, lacking({"utilization_percent", "clock_reasons", "processes"}, "not_supported"))
        busy = with_gpus(silent, lambda gpu: replace(gpu, values={**gpu.values, "memory_used_bytes": 70 * 2**30}))
        assert [] == alarms(busy)


def test_ecc_switched_off(node: SimulatedNode) -> None:
    """A site may run without ECC: its counters are then not supported."""
    counters = {"ecc_volatile_corrected", "ecc_volatile_uncorrected", "ecc_aggregate_corrected", "ecc_aggregate_uncorrected"}
    off: dict[str, int | str] = {"ecc_mode": 0, "ecc_mode_pending": 0, **dict.fromkeys(counters, "!3")}
    node.files.inject(Changes(gpus={f"gpu.{gpu}.{key}": value for gpu in range(8) for key, value in off.items()}))

    assert [] == alarms(reading_of(node))


@pytest.mark.parametrize("links", [0, 2, 12])
def test_fewer_links_than_the_board_has(links: int, make_node: Callable[..., SimulatedNode]) -> None:
    """A PCIe card without NVLink, with a bridge, or a board of half as many: the card says how many links it has."""
    node = make_node(profile="l40s", gpus=2)
    present: dict[str, int | str] = {f"nvlink.{link}": 1 for link in range(links)}
    if links:
        present["field.91"] = links
    node.files.inject(Changes(gpus={f"gpu.{gpu}.{key}": value for gpu in range(2) for key, value in present.items()}))
    reading = reading_of(node)

    assert {links or None} == {gpu.number("nvlinks") for gpu in reading.gpus}
    assert [] == alarms(reading)


def test_an_old_driver(make_node: Callable[..., SimulatedNode]) -> None:
    """A driver of years ago knows no fields, no margins and no recovery action, and its versions look otherwise."""
    node = make_node(profile="v100")
    old = {"driver_version": "418.87.00", "nvml_version": "10.418.87.00", "cuda_version": 10010}
    module = {"proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  418.87.00  now\n"}
    node.files.inject(Changes(gpus=old, tree=module))
    assert old.keys() == DRIVER.keys()

    assert [] == alarms(reading_of(node, "prolog", Job("7", 1000, tuple(range(8)))))
    assert [] == alarms(reading_of(node))


@pytest.mark.parametrize("ports", [0, 2])
def test_no_infiniband_and_few_ports(ports: int, make_node: Callable[..., SimulatedNode]) -> None:
    """A node without adapters, and one with ports that are switched off on purpose."""
    node = make_node(ib_ports=ports)
    node.document["expected"] = {}
    reading = reading_of(node)
    spare = replace(reading, ports=(*reading.ports, Port("mlx5_9", 1, "ethernet", "down", "disabled")))

    assert [] == alarms(reading)
    assert [] == alarms(spare)


def test_a_node_that_the_site_says_nothing_about(node: SimulatedNode) -> None:
    """Without any expectation there is nothing to miss."""
    node.document["expected"] = {}
    for context in ("prolog", "epilog", "periodic"):
        assert [] == alarms(reading_of(node, context))


def at_work(reading: Reading) -> Reading:
    """The same node in the middle of a job: hot, at its power limit, full, its counters growing as they do."""
    owner = GpuProcess(4242, 78 * 2**30, "python", 1000, "7")
    busy = {
        "power_w": 699.0, "power_average_w": 698.0, "temperature_c": 84, "memory_temperature_c": 94, "clock_reasons": 0x24,
        "utilization_percent": 100, "memory_used_bytes": 79 * 2**30, "clock_sm_mhz": 1300, "margin_c": 3,
        "pcie_replays": 40, "ecc_volatile_corrected": 200, "nvlink_crc_errors": 1, "hw_thermal_slowdown_ns": 10**9,
    }  # fmt: skip
    before = {f"{gpu.uuid}.{name}": 0.0 for gpu in reading.gpus for name in COUNTERS}
    busy_gpus = with_gpus(reading, lambda gpu: replace(gpu, values={**gpu.values, **busy}, processes=(owner,)))
    stuck = tuple(Process(pid, "python", "D", 5.0, "io_schedule") for pid in range(100, 400))
    dead = tuple(Process(pid, "sh", "Z", 5.0) for pid in range(500, 520))
    grown = {"port_xmit_wait": 10**9, "symbol_error": 1}
    ports = tuple(port._replace(counters={**port.counters, **grown}) for port in reading.ports)
    return replace(
        busy_gpus,
        memory_available_bytes=2 * 2**30,
        processes=(*stuck, *dead),
        blocked_before=tuple((process.pid, 4.0) for process in stuck),  # other processes then, of the same numbers
        ports=ports,
        edac_corrected=3,
        samples=(Sample(reading.time - 3000, {**before, "edac_corrected": 0.0}),),
        process_count=3000,
        process_limit=4_194_304,
    )


@pytest.mark.parametrize("context", ["epilog", "periodic", "manual"])
def test_a_node_at_work(context: str, node: SimulatedNode) -> None:
    """Power cap, heat, full memory, blocked and dead processes, a few corrected errors: what work looks like."""
    reading = replace(reading_of(node, context), job=Job("7", 1000, tuple(range(8))) if context == "epilog" else None)

    assert [] == alarms(at_work(reading))


def test_a_node_that_has_just_booted(node: SimulatedNode) -> None:
    """Links are trained, the fabric is joined, nothing synchronises the clock yet, and nothing is remembered."""
    reading = reading_of(node)
    young = with_gpus(reading, lambda gpu: replace(gpu, values={**gpu.values, "fabric_state": 2, "fabric_health_mask": 0}))
    rising = (reading.ports[0]._replace(state="init"), reading.ports[1]._replace(state="down", physical="polling"))
    young = replace(
        young, uptime_s=25.0, ports=(*rising, *reading.ports[2:]), clock=ClockState(False, 16.0, None, "tsc"), samples=()
    )

    assert [] == alarms(young)
    assert {"gpu_fabric", "infiniband_ports"} == {check for check, _ in alarms(replace(young, uptime_s=1000.0))}


def test_what_is_found_right_after_a_boot_drains_a_little_later(node: SimulatedNode) -> None:
    """The periodic check gives a node time to settle; a prolog does not start a job on a broken GPU."""
    node.files.inject(FAULTS["gpu-lost"].make(1))
    node.files.inject(Changes(tree={"proc/uptime": "25.00 0.00\n"}))

    settling = node.check("periodic")
    assert (Level.DRAIN, False) == (settling.verdict.level, settling.drain)
    assert any("settles for 120 s" in note for note in settling.notes)
    assert node.check("prolog", Job("7", 1000, (1,))).drain
    node.files.inject(Changes(tree={"proc/uptime": "125.00 0.00\n"}))
    assert node.check("periodic").drain
