"""Garbage in, no drain out: NVML values, kernel log lines, sysfs files and recordings that no healthy system would give."""

from __future__ import annotations

import multiprocessing
import random
import string
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpctrain.devcluster.simulated_gpus import PROFILES, Value, node_state, render
from hpctrain.devcluster.simulated_node import CPUS, IB_RATE_GBPS, MEMORY_KIB
from hpctrain.health.assemble import assemble
from hpctrain.health.gpu_fields import NUMBERS, TEXTS
from hpctrain.health.kernel_log import classify, parse_record
from hpctrain.health.probe_devices import read_devices
from hpctrain.health.probe_host import read_host
from hpctrain.health.reading import Expected, KernelEvent, Reading
from hpctrain.health.registry import load_checks
from hpctrain.health.verdict import Verdict, judge
from hpctrain.health.xid import decide
from tests.unit.health.conftest import SimulatedNode

CHECKS = load_checks()
EXPECTED = Expected(
    gpus=8,
    memory_bytes=MEMORY_KIB * 1024,
    cpus=CPUS,
    ib_ports=8,
    ib_rate_gbps=IB_RATE_GBPS,
    nvme=1,
    modules=("nvidia_uvm",),
    services=("munged",),
    persistence=True,
    ecc=True,
)
JUNK = [
    "",
    " ",
    "\n",
    "-1",
    "-0",
    "nan",
    "inf",
    "1e999",
    "0x",
    "0xg",
    "1.2.3",
    "é",
    "\x00",
    "ÿ" * 40,
    "4294967295",
    "18446744073709551615",
    "99999999999999999999999",
    "None",
    "[]",
    "{}",
    "../../x",
    "%s%n",
    "a b c d",
    "9" * 400,
    "🂡",
]
FAULTS = {8, 9, 11, 14, 15, 16, 18, 28}
"""NVML's errors that do say something about a GPU or driver."""


class Collected:
    """A report that keeps what a probe says, in this process."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def step(self, text: str) -> None:
        """Not needed here."""

    def emit(self, **record: Any) -> None:
        """Keep it."""
        self.records.append(record)


def verdict_of(records: list[dict[str, Any]], expected: Expected = EXPECTED) -> Verdict:
    """What all checks say of these records; a check that crashed fails the test."""
    verdict = judge(assemble(Reading(1000.0, "n1", "periodic", expected=expected), records), CHECKS)
    assert [] == [finding for _, finding in verdict.findings if "check itself failed" in finding.message]
    return verdict


def garbage(dice: random.Random) -> Value:
    """What no GPU would say: an error code, all ones, a negative or huge number, or words."""
    kind = dice.randrange(5)
    if kind == 0:
        return f"!{dice.choice([code for code in range(1, 40) if code not in FAULTS] + [999, 12345])}"
    if kind == 1:
        return dice.choice([2**32 - 1, 2**64 - 1, 2**63 - 1])
    if kind == 2:
        return -dice.randrange(1000, 2**31)
    if kind == 3:
        return dice.randrange(2**50, 2**62)
    return "!999"


def in_a_child(body: Callable[[], None]) -> None:
    """Run it in a process of its own: a library that this one has loaded would be taken for that of later tests' nodes."""
    child = multiprocessing.get_context("fork").Process(target=body)
    child.start()
    child.join(240)
    assert 0 == child.exitcode, "see the traceback above"


@pytest.mark.parametrize("profile", PROFILES)
def test_garbage_from_nvml(profile: str, nvml_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of values that cannot be true: each is skipped or unknown, and none drains the node."""
    monkeypatch.setenv("HPCTRAIN_SIMULATED_GPUS", str(tmp_path / "gpus.state"))
    in_a_child(lambda: _garbage_from_nvml(profile, nvml_library, tmp_path / "gpus.state"))


def _garbage_from_nvml(profile: str, nvml_library: Path, state: Path) -> None:
    from hpctrain.health.probe_nvml import read_gpus

    dice, count = random.Random(profile), 0
    for _ in range(120):
        values = node_state("n1", 1, profile)
        keys = [key for key in values if key.startswith("gpu.0.") and not key.endswith((".uuid", ".pci_bus", ".minor"))]
        for key in dice.sample(keys, dice.randrange(1, len(keys))):
            values[key] = garbage(dice)
            count += 1
        state.write_text(render(values))
        told = Collected()
        read_gpus(told, minors=None, thorough=True, library=str(nvml_library))  # type: ignore[arg-type]

        verdict = verdict_of(told.records, Expected())
        assert "" == verdict.reason, values
    assert count > 1000


def test_a_torn_state_file(nvml_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that answers nonsense from the first call on crashes nothing."""
    monkeypatch.setenv("HPCTRAIN_SIMULATED_GPUS", str(tmp_path / "gpus.state"))
    in_a_child(lambda: _torn_state_files(nvml_library, tmp_path / "gpus.state"))


def _torn_state_files(nvml_library: Path, state: Path) -> None:
    from hpctrain.health.probe_nvml import read_gpus

    dice = random.Random(1)
    whole = render(node_state("n1", 2))
    for _ in range(200):
        cut = sorted(dice.sample(range(len(whole)), 2))
        state.write_text(whole[: cut[0]] + whole[cut[1] :])
        told = Collected()
        read_gpus(told, minors=None, thorough=True, library=str(nvml_library))  # type: ignore[arg-type]
        verdict_of(told.records, Expected())


def line(dice: random.Random) -> str:
    """A line of words that the patterns look for, and of anything else, but never a whole message."""
    words = [
        "NVRM: Xid",
        "SXid",
        "(PCI:",
        "0000:3b:00",
        "):",
        "Machine Check",
        "EDAC",
        "blocked for more than",
        "I/O error,",
        "Oops",
        "AER:",
        "mlx5_core",
        "fallen off the bus",
        "rcu:",
        "nvme",
        "154,",
        "pid=",
        "Fatal",
        "\x00",
        "é",
    ]
    parts = [
        dice.choice(words) if dice.random() < 0.4 else "".join(dice.choices(string.printable, k=dice.randrange(12)))
        for _ in range(dice.randrange(1, 9))
    ]
    return dice.choice(["", " "]).join(parts)


def test_garbage_in_the_kernel_log() -> None:
    """12,000 lines: none crashes, and together with the prefix of a record none drains."""
    dice, events = random.Random(2), []
    for _ in range(12_000):
        record = parse_record(f"4,{dice.randrange(10**6)},{dice.randrange(10**12)},-;{line(dice)}")
        event = classify(record, 0.0) if record else None
        if event:
            events.append(event)

    verdict = judge(Reading(1e9, "n1", "periodic", kernel_events=tuple(events)), CHECKS)
    assert "" == verdict.reason


def test_damaged_lines_of_the_driver() -> None:
    """6,000 real lines with bytes changed, lost or doubled: parser and policy never crash."""
    real = [
        "NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
        "NVRM: Xid (PCI:0009:01:00): 149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 01 (0x021425c6 0x00000000 0x0 0x0 0x0 0x0)",
        "NVRM: Xid (PCI:0009:01:00): 154, GPU recovery action changed from 0x0 (None) to 0x4 (Drain and Reset)",
        "NVRM: Xid (PCI:0000:3b:00): 74, NVLink: fatal error detected on link 3(0x200000, 0x0, 0x0, 0x0)",
        "nvidia-nvswitch0: SXid (PCI:0000:05:00.0): 20034, Fatal, Link 30 LTSSM Fault Up",
        "mce: [Hardware Error]: CPU 3: Machine Check Exception: 5 Bank 7: be00000000800400",
    ]
    dice, events = random.Random(3), []
    for number in range(6000):
        text = list(real[number % len(real)])
        for _ in range(dice.randrange(1, 6)):
            place = dice.randrange(len(text))
            text[place] = dice.choice(["", text[place] * 2, dice.choice(string.printable), "9"])
        record = parse_record(f"4,{number},{number},-;" + "".join(text).replace("\n", " "))
        event = classify(record, 0.0) if record else None
        if event:
            events.append(event)
            decide(events[-30:], (), "580.1")

    judge(Reading(1e9, "n1", "periodic", kernel_events=tuple(events)), CHECKS)


def test_garbage_in_sysfs(make_node: Callable[..., SimulatedNode]) -> None:
    """Every file of the node's /sys and /proc in turn, and all of them together, full of nonsense: no crash, no drain."""
    node, dice, count = make_node(), random.Random(4), 0
    files = [path for top in ("sys", "proc") for path in (node.directory / top).rglob("*") if path.is_file()]
    for turn in range(60):
        chosen = files if turn == 0 else dice.sample(files, dice.randrange(1, 40))
        before = {path: path.read_bytes() for path in chosen}
        for path in chosen:
            path.write_bytes(dice.choice(JUNK).encode() if dice.random() < 0.7 else dice.randbytes(dice.randrange(200)))
            count += 1
        told = Collected()
        read_host(told, proc=str(node.directory / "proc"), sys=str(node.directory / "sys"), clock=str(chosen[0]))  # type: ignore[arg-type]
        read_devices(told, sys=str(node.directory / "sys"))  # type: ignore[arg-type]

        assert "" == verdict_of(told.records, replace(EXPECTED, gpus=None)).reason
        for path, data in before.items():
            path.write_bytes(data)
    assert count > 1000


def thing(dice: random.Random, depth: int = 0) -> Any:
    """Any JSON."""
    kind = dice.randrange(7 if depth < 3 else 5)
    if kind < 5:
        return [
            None,
            dice.choice([True, False]),
            dice.choice([0, -1, 2**70, 1.5, float("nan"), float("inf")]),
            dice.choice(JUNK),
            dice.randrange(10),
        ][kind]
    if kind == 5:
        return [thing(dice, depth + 1) for _ in range(dice.randrange(3))]
    return {
        dice.choice([*NUMBERS, *TEXTS, "index", "uuid", "values", "errors"]): thing(dice, depth + 1)
        for _ in range(dice.randrange(4))
    }


def test_garbage_in_a_recording() -> None:
    """5,000 records of any shape: what does not fit is left out, and nothing crashes or drains."""
    dice = random.Random(5)
    kinds = [
        "gpu",
        "host",
        "file_system",
        "pci",
        "port",
        "interface",
        "disk",
        "process",
        "service",
        "clock",
        "versions",
        "gpus_seen",
        "nvml_error",
        "event",
        "cursor",
    ]
    for _ in range(5000):
        records = [{dice.choice(kinds): thing(dice)} for _ in range(4)]
        assert "" == verdict_of(records, Expected()).reason, records


def test_events_with_any_detail() -> None:
    """3,000 combinations of Xids of any number: the policy always decides, and always says why."""
    dice = random.Random(6)
    for _ in range(3000):
        events = [
            KernelEvent(
                "xid",
                dice.random() * 500,
                f"0000:{dice.randrange(3):02x}:00",
                dice.randrange(1, 200),
                first=0.0,
                count=dice.randrange(1, 5),
                detail={
                    key: dice.choice(JUNK)
                    for key in dice.sample(["pid", "unit", "fatal", "status", "registers", "link", "recovery"], 3)
                },
            )
            for _ in range(dice.randrange(1, 6))
        ]
        assert all(
            decision.reason and decision.rule
            for decision in decide(events, (), dice.choice(["", "580.65", "garbage", "9" * 50]))
        )
