"""The form of a check, and the checks that need no GPU, on readings made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpctrain.cli.main import invoke
from hpctrain.errors import NotFoundError
from hpctrain.health.config import CONTEXTS
from hpctrain.health.finding import Check, Finding, Mode, Severity, worst
from hpctrain.health.gpu import Gpu
from hpctrain.health.reading import (
    ClockState,
    Disk,
    Expected,
    FileSystem,
    KernelEvent,
    NetInterface,
    Port,
    Process,
    Reading,
    Sample,
    Service,
)
from hpctrain.health.registry import choose, for_context, load_checks
from hpctrain.health.take import PROBES
from hpctrain.health.verdict import Level, Rules, judge
from tests.source_tree import ROOT

GIB = 2**30
CRITICAL, WARNING, UNKNOWN = Severity.CRITICAL, Severity.WARNING, Severity.UNKNOWN


def fs(**changes: object) -> FileSystem:
    values: dict[str, object] = {
        "mount": "/scratch",
        "kind": "ext4",
        "size_bytes": 100 * GIB,
        "available_bytes": 50 * GIB,
        "inodes": 1000,
        "inodes_available": 900,
    }
    return FileSystem(**{**values, **changes})  # type: ignore[arg-type]


def port(**changes: object) -> Port:
    values: dict[str, object] = {
        "device": "mlx5_0",
        "port": 1,
        "link": "infiniband",
        "state": "active",
        "physical": "linkup",
        "rate_gbps": 400.0,
    }
    return Port(**{**values, **changes})  # type: ignore[arg-type]


def event(kind: str, **changes: object) -> KernelEvent:
    return KernelEvent(**{"kind": kind, "time": 990.0, "entity": "x", "text": "a line", **changes})  # type: ignore[arg-type]


def reading(**values: object) -> Reading:
    return Reading(**{"time": 1000.0, "node": "n1", "context": "periodic", **values})  # type: ignore[arg-type]


def findings(what: Reading, name: str) -> list[Finding]:
    return [finding for level, finding in judge(what, choose(load_checks(), [name])).findings if level is not Level.SKIP]


EARLIER = (
    Sample(400.0, {"mlx5_0/1.link_downed": 0, "mlx5_0/1.symbol_error": 0, "eth0.carrier_losses": 0, "edac_corrected": 0}),
)
TABLE: list[tuple[str, dict[str, object], Severity | None, str]] = [
    ("disk_space", {"file_systems": (fs(available_bytes=9 * GIB),)}, WARNING, "91.0 % of space"),
    ("disk_space", {"file_systems": (fs(available_bytes=GIB),)}, CRITICAL, "99.0 % of space"),
    ("disk_space", {"file_systems": (fs(inodes_available=0),)}, CRITICAL, "inodes"),
    ("disk_space", {"file_systems": (fs(inodes=0, inodes_available=0),)}, None, ""),
    ("disk_space", {"file_systems": (fs(expected_read_only=True, available_bytes=0),)}, None, ""),
    ("memory_size", {"memory_bytes": 90 * GIB, "expected": Expected(memory_bytes=100 * GIB)}, CRITICAL, "90.0 GiB"),
    ("memory_size", {"memory_bytes": 98 * GIB, "expected": Expected(memory_bytes=100 * GIB)}, None, ""),
    ("memory_size", {"expected": Expected(memory_bytes=100 * GIB)}, UNKNOWN, "could not be read"),
    ("memory_size", {"memory_bytes": GIB}, None, ""),
    ("memory_available", {"context": "prolog", "memory_bytes": 100, "memory_available_bytes": 10}, WARNING, "available"),
    ("memory_errors", {"edac_uncorrected": 1}, CRITICAL, "1 uncorrected"),
    ("memory_errors", {"edac_corrected": 5000, "samples": EARLIER}, WARNING, "a day"),
    ("mounts", {"file_systems": (fs(answers=False, took_s=2.0, kind="nfs4"),)}, CRITICAL, "did not answer"),
    ("mounts", {"file_systems": (fs(error="Stale file handle"),)}, CRITICAL, "Stale"),
    ("mounts", {"file_systems": (fs(error="Permission denied"),)}, None, ""),
    (
        "mounts",
        {"file_systems": (fs(),), "expected": Expected(mounts={"/data": "lustre"})},
        CRITICAL,
        "/data is not mounted",
    ),
    ("mounts", {"file_systems": (fs(),), "expected": Expected(mounts={"/scratch": "lustre"})}, CRITICAL, "not lustre"),
    ("mounts", {"expected": Expected(mounts={"/data": "lustre"})}, None, ""),
    ("read_only", {"file_systems": (fs(read_only=True),)}, WARNING, "read-only"),
    ("read_only", {"kernel_events": (event("read_only", entity="sda1"),)}, CRITICAL, "sda1"),
    ("disks", {"disks": (Disk("nvme0", "nvme", "dead"),)}, CRITICAL, "dead"),
    ("disks", {"disks": (Disk("md0", "md", "degraded", 1),)}, WARNING, "missing"),
    ("disks", {"kernel_events": (event("io_error", entity="sda"),)}, WARNING, "sda"),
    ("infiniband_ports", {"ports": (port(), port(port=2, state="down", physical="polling"))}, WARNING, "down"),
    ("infiniband_ports", {"ports": (port(), port(port=2, state="down", physical="disabled"))}, None, ""),
    ("infiniband_ports", {"ports": (port(),), "expected": Expected(ib_ports=2)}, CRITICAL, "1 of 2"),
    ("infiniband_ports", {"ports": (port(rate_gbps=200.0),), "expected": Expected(ib_rate_gbps=400)}, CRITICAL, "200 Gb/s"),
    ("infiniband_flaps", {"ports": (port(counters={"link_downed": 6}),), "samples": EARLIER}, CRITICAL, "6 times"),
    ("infiniband_flaps", {"ports": (port(counters={"link_downed": 1}),), "samples": EARLIER}, WARNING, "1 times"),
    ("infiniband_flaps", {"ports": (port(counters={"link_downed": 6}),)}, None, ""),
    (
        "infiniband_counters",
        {"ports": (port(counters={"symbol_error": 900}),), "samples": EARLIER},
        CRITICAL,
        "symbol_error",
    ),
    (
        "ethernet_links",
        {"interfaces": (NetInterface("eth0", "down"),), "expected": Expected(interfaces=("eth0",))},
        CRITICAL,
        "down",
    ),
    (
        "ethernet_links",
        {"interfaces": (NetInterface("eth0", "up", carrier_losses=4),), "samples": EARLIER},
        WARNING,
        "lost its link 4",
    ),
    (
        "ethernet_links",
        {"interfaces": (NetInterface("b", "up", bond_members=("a", "c"), bond_members_up=("a",)),)},
        WARNING,
        "lost c",
    ),
    ("cpu_count", {"cpus": 32, "cpus_present": 64}, WARNING, "32 CPUs"),
    ("cpu_count", {"sockets": 1, "expected": Expected(sockets=2)}, CRITICAL, "1 CPU sockets"),
    ("cpu_governor", {"governors": ("performance", "powersave")}, WARNING, "powersave"),
    ("clock", {"clock": ClockState(True, 0.001, 12.0)}, CRITICAL, "12.000 s ahead"),
    ("clock", {"clock": ClockState(False, 16.0)}, WARNING, "nothing synchronises"),
    ("clock", {"clock": ClockState(False, 16.0, 0.001)}, None, ""),
    ("clock", {"clock": ClockState()}, None, ""),
    ("clock_source", {"clock": ClockState(source="hpet")}, WARNING, "hpet"),
    ("services", {"services": (Service("munged", False),)}, CRITICAL, "munged"),
    ("services", {"services": (Service("munged", None),)}, UNKNOWN, "munged"),
    (
        "version_drift",
        {"versions": {"driver": "1"}, "expected": Expected(versions={"driver": "2"})},
        CRITICAL,
        "the fleet has 2",
    ),
    ("version_drift", {"expected": Expected(versions={"driver": "2"})}, UNKNOWN, "could not be read"),
    ("blocked_processes", {"processes": (Process(7, "cp", "D", 5.0),)}, None, ""),
    (
        "blocked_processes",
        {"processes": (Process(7, "cp", "D", 5.0, "nfs_wait"),), "blocked_before": ((7, 5.0),)},
        WARNING,
        "nfs_wait",
    ),
    (
        "blocked_processes",
        {"processes": (Process(7, "nvidia-smi", "D", 5.0),), "blocked_before": ((7, 5.0),)},
        CRITICAL,
        "nvidia",
    ),
    ("blocked_processes", {"processes": (Process(7, "cp", "D", 6.0),), "blocked_before": ((7, 5.0),)}, None, ""),
    ("zombies", {"processes": tuple(Process(pid, "z", "Z") for pid in range(1000))}, WARNING, "1000 zombie"),
    ("system_limits", {"process_count": 90, "process_limit": 100}, WARNING, "90 processes"),
    ("leftover_processes", {"leftovers": (Process(7, "python", "D"),)}, CRITICAL, "survives SIGKILL"),
    ("out_of_memory", {"kernel_events": (event("oom"),)}, WARNING, "killed 1 processes"),
    ("kernel_trouble", {"kernel_events": (event("lockup"),)}, CRITICAL, "a line"),
    ("kernel_trouble", {"kernel_events": (event("hung_task"),)}, WARNING, "a line"),
    ("machine_checks", {"kernel_events": (event("mce", entity="3"),)}, CRITICAL, "CPU 3"),
    ("machine_checks", {"kernel_events": (event("mce", entity="3", detail={"corrected": "1"}),)}, None, ""),
    ("nfs_server", {"kernel_events": (event("nfs", entity="nas1"),)}, WARNING, "nas1"),
    ("pcie_errors", {"kernel_events": (event("pcie", entity="0000:01:00.0"),)}, CRITICAL, "PCIe"),
    ("network_adapters", {"kernel_events": (event("network"),)}, CRITICAL, "network adapter"),
    ("sxid", {"kernel_events": (event("sxid", number=20034, detail={"fatal": "1"}),)}, CRITICAL, "20034"),
    ("sxid", {"kernel_events": (event("sxid", number=20009, detail={"fatal": "0"}),)}, None, ""),
    ("sxid", {"kernel_events": (event("sxid", number=20009, count=500, detail={"fatal": "0"}),)}, WARNING, "500 times"),
]


@pytest.mark.parametrize(("name", "values", "severity", "words"), TABLE)
def test_a_check_judges_a_reading(name: str, values: dict[str, object], severity: Severity | None, words: str) -> None:
    """Each line of the table: this check says this of such a reading, or nothing at all."""
    found = findings(reading(**values), name)

    assert [] == found if severity is None else severity is found[0].severity
    assert severity is None or words in found[0].message


def test_errors_before_a_reset_are_not_forgotten() -> None:
    """The count of a GPU's life grows where the one since the reset is zero again; a count that stands still is old."""
    values = {"ecc_volatile_corrected": 0, "ecc_volatile_uncorrected": 0, "ecc_aggregate_uncorrected": 5}
    gpu = Gpu(0, "GPU-x", values=values)
    grown = reading(gpus=(gpu,), samples=(Sample(400.0, {"GPU-x.ecc_aggregate_uncorrected": 3.0}),))
    old = reading(gpus=(gpu,), samples=(Sample(400.0, {"GPU-x.ecc_aggregate_uncorrected": 5.0}),))

    assert "2 uncorrected memory errors in 0.2 hours, 5 in its life" in findings(grown, "gpu_ecc_rate")[0].message
    assert [] == findings(old, "gpu_ecc_rate")


def test_every_check_documents_itself() -> None:
    """Each shipped check has the name of its file, all parts of its documentation, known probes and known contexts."""
    checks = load_checks()

    assert {path.stem for path in (ROOT / "healthchecks").glob("*.py")} - {"__init__"} == {check.name for check in checks}
    for check in checks:
        assert all((check.what, check.why, check.remedy, check.false_alarms)), check.name
        assert set(check.needs) <= set(PROBES), check.name
        assert set(check.contexts) <= set(CONTEXTS), check.name
        assert all(text.endswith(".") for text in (check.why, check.remedy, check.false_alarms)), check.name


def test_limits_per_model_name_real_checks_and_limits() -> None:
    """limits.json changes only limits that exist."""
    known = {check.name: set(check.limits) for check in load_checks()}
    models = json.loads((ROOT / "healthchecks/limits.json").read_text())["models"]

    assert [] == [
        (model["match"], name)
        for model in models
        for name, limits in model["limits"].items()
        if not set(limits) <= known.get(name, set())
    ]


def test_an_empty_reading_gives_no_finding() -> None:
    """What was not measured is neither a fault nor a doubt."""
    verdict = judge(reading(), load_checks())

    assert Level.OK is verdict.level
    assert [] == [finding for level, finding in verdict.findings if level is not Level.SKIP]


@pytest.mark.parametrize(
    ("mode", "level"), [("OFF", None), ("OBSERVE", Level.OBSERVE), ("WARN", Level.WARN), ("DRAIN", Level.DRAIN)]
)
def test_a_mode_says_how_far_a_check_may_go(mode: str, level: Level | None) -> None:
    """The same critical finding is nothing, a note, a warning or a drain, as the site says."""
    rules = Rules(modes={"disk_space": Mode[mode]})
    verdict = judge(reading(file_systems=(fs(available_bytes=0),)), choose(load_checks(), ["disk_space"]), rules)

    assert (level or Level.OK) is verdict.level
    assert (mode == "DRAIN") is bool(verdict.reason)


def test_a_sites_limit_is_used() -> None:
    """A limit that the site sets replaces the check's own, the others stay."""
    rules = Rules(limits={"disk_space": {"warning_percent": 40}})
    verdict = judge(reading(file_systems=(fs(),)), choose(load_checks(), ["disk_space"]), rules)

    assert Level.WARN is verdict.level


def test_a_check_that_raises_is_unknown() -> None:
    """A broken check neither stops the others nor drains the node."""

    def broken(_reading: Reading, _limits: object) -> list[Finding]:
        raise RuntimeError("boom")

    check = Check("broken", "w", "y", "r", "f", {}, broken, mode=Mode.DRAIN)  # type: ignore[arg-type]
    verdict = judge(reading(), [check])

    assert Level.UNKNOWN is verdict.level
    assert "boom" in verdict.findings[0][1].message


def test_a_long_reason_is_cut_and_counts_the_rest() -> None:
    """A drain reason begins with our prefix, is short enough for Slurm and says how many more findings there are."""
    broken = tuple(fs(mount=f"/m{'x' * 300}{number}", available_bytes=0, inodes=0) for number in range(3))
    verdict = judge(
        reading(file_systems=broken), choose(load_checks(), ["disk_space"]), Rules(modes={"disk_space": Mode.DRAIN})
    )

    assert verdict.reason.startswith("hpctrain: disk_space: ")
    assert verdict.reason.endswith("(+2 more)")
    assert 200 == len(verdict.reason)


def test_critical_beats_unknown_beats_warning() -> None:
    """A known fault outranks doubt, doubt outranks a warning, and what is skipped counts as fine."""

    def of(*severities: Severity) -> Severity:
        return worst(Finding("c", severity, "e", "m") for severity in severities)

    assert (CRITICAL, UNKNOWN, WARNING, Severity.OK, Severity.OK) == (
        of(UNKNOWN, CRITICAL, WARNING),
        of(WARNING, UNKNOWN),
        of(WARNING, Severity.OK),
        of(Severity.SKIPPED),
        of(),
    )


def test_a_prolog_runs_fewer_checks_than_the_periodic_look() -> None:
    """What needs an earlier reading or takes long is left to the periodic check."""
    names = {context: {check.name for check in for_context(load_checks(), context)} for context in CONTEXTS}

    assert "infiniband_flaps" in names["periodic"] - names["prolog"]
    assert {"gpu_lost", "xid"} <= names["prolog"] & names["epilog"] & names["periodic"]


def test_unknown_check_name_is_refused() -> None:
    """Asking for a check that does not exist names those that do."""
    with pytest.raises(NotFoundError) as caught:
        choose(load_checks(), ["disc_space"])

    assert "disk_space" in caught.value.advice


def test_a_sites_check_is_loaded_and_a_broken_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site's check runs beside ours; one that cannot be imported, or has a taken name, is a problem and no crash."""
    (tmp_path / "our_site_checks.py").write_text(
        "from hpctrain.health.finding import Check\n"
        "MINE = Check('mine', 'w', 'y', 'r', 'f', {}, lambda reading, limits: [])\n"
        "TAKEN = Check('clock', 'w', 'y', 'r', 'f', {}, lambda reading, limits: [])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    problems: list[str] = []
    checks = load_checks(["our_site_checks:MINE", "our_site_checks:TAKEN", "no_such_module:X"], problems)

    assert "mine" == checks[-1].name
    assert ["our_site_checks:TAKEN" in problems[0], "no_such_module" in problems[1]] == [True, True]


def test_command_exits_with_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    """``health check -o json`` prints one document and its exit code is the verdict's number."""
    code = invoke(["health", "check", "--only", "memory_size", "-o", "json"])

    document = json.loads(capsys.readouterr().out)
    assert 0 == code
    assert ("health", "OK") == (document["kind"], document["health"]["verdict"])
