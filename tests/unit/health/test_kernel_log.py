"""The kernel log: which lines count, and what is remembered of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpctrain.health.kernel_log import MOST_EVENTS, LogMemory, Record, classify, clear, parse_record, remember
from hpctrain.health.probe_child import Answer, Probe, run_probes
from hpctrain.health.probe_kernel_log import read_kernel_log
from hpctrain.health.reading import KernelEvent

XID = "NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."


def test_a_record_of_the_kernel_is_read() -> None:
    """Sequence, time since boot and text of a record."""
    assert Record(12, 3.5, "hello; world") == parse_record("6,12,3500000,-;hello; world\n")
    assert Record(12, 3.5, "x") == parse_record("6,12,3500000,-,caller=T1;x")


@pytest.mark.parametrize(
    "line", ["", "hello", " SUBSYSTEM=pci", "14,12,3500000,-;" + XID, "30,1,1,-;" + XID, "x,1,1,-;y", "6,1,1;y"]
)
def test_what_programs_write_does_not_count(line: str) -> None:
    """Continuations, garbage and records of other facilities than the kernel's prove nothing."""
    assert parse_record(line) is None


@pytest.mark.parametrize(
    ("text", "kind", "entity", "number"),
    [
        (XID, "xid", "0000:3b:00", 79),
        ("NVRM: Xid (0000:03:00): 14, Channel 00000001", "xid", "0000:03:00", 14),
        ("NVRM: Xid (PCI:00000000:3B:00.0): 48, DBE", "xid", "0000:3b:00", 48),
        ("NVRM: GPU 0000:91:00.0: GPU has fallen off the bus.", "xid", "0000:91:00", 79),
        ("NVRM: GPU at PCI:0000:91:00: GPU has fallen off the bus.", "xid", "0000:91:00", 79),
        ("nvidia-nvswitch3: SXid (PCI:0000:05:00.0): 12028, Non-fatal, Link 32 egress", "sxid", "0000:05:00", 12028),
        ("mce: [Hardware Error]: CPU 3: Machine Check Exception: 5 Bank 7: be00000000800400", "mce", "3", 0),
        ("EDAC MC0: 1 CE memory read error on CPU_SrcID#0", "edac", "MC0", 0),
        ("Out of memory: Killed process 17563 (python) total-vm:1kB", "oom", "17563", 0),
        ("Memory cgroup out of memory: Killed process 4 (python)", "cgroup_oom", "4", 0),
        ("watchdog: BUG: soft lockup - CPU#12 stuck for 26s! [python:4242]", "lockup", "12", 0),
        ("INFO: task kworker/1:2:77 blocked for more than 120 seconds.", "hung_task", "kworker/1:2", 0),
        ("blk_update_request: I/O error, dev sda, sector 1", "io_error", "sda", 0),
        ("EXT4-fs (nvme0n1p1): Remounting filesystem read-only", "read_only", "nvme0n1p1", 0),
        ("nvme nvme0: I/O 12 QID 3 timeout, aborting", "nvme", "nvme0", 0),
        ("pcieport 0000:00:01.0: AER: Uncorrected (Fatal) error received: 0000:01:00.0", "pcie", "0000:01:00.0", 0),
        ("nfs: server nas1 not responding, still trying", "nfs", "nas1", 0),
        (
            "mlx5_core 0000:12:00.0: mlx5_pcie_event:301:(pid 1): Detected insufficient power on the PCIe slot (25W).",
            "network",
            "0000:12:00.0",
            0,
        ),
    ],
)
def test_lines_that_mean_something(text: str, kind: str, entity: str, number: int) -> None:
    """Each form of line becomes an event with the thing it is about."""
    event = classify(Record(1, 10.0, text), booted_at=1000.0)

    assert event is not None
    assert (kind, entity, number, 1010.0) == (event.kind, event.entity, event.number, event.time)


@pytest.mark.parametrize(
    "text",
    [
        "NVRM: Xid (PCI:0000:3b:00): xyz",
        "NVRM: Xid error: 79",
        "user said NVRM: Xid (PCI:0000:3b:00): 79, x",
        "NVRM: Xid (PCI:0000:3b:00): 0, x",
        "nvidia-nvswitch0: SXid (PCI:0000:05:00.0): 20034, Data {0x1}",
        "nvidia-nvswitch0: SXid (PCI:0000:05:00.0): 20034, Severity 1 Engine instance 60",
        "EDAC MC: Ver: 3.0.0",
        "usb 1-1: new device",
        "EXT4-fs (sda1): mounted filesystem with ordered data mode",
    ],
)
def test_lines_that_mean_nothing(text: str) -> None:
    """Lines that only look alike are not events."""
    assert classify(Record(1, 10.0, text), 0.0) is None


def event(time: float, **values: object) -> KernelEvent:
    return KernelEvent(**{"kind": "xid", "time": time, "entity": "0000:3b:00", "number": 79, "first": time, **values})  # type: ignore[arg-type]


def test_repeats_are_folded() -> None:
    """The same fault twice is one event with a count, its first and its last time."""
    memory = remember(LogMemory("b", 5, (event(10.0),)), "b", 9, [event(20.0)], now=30.0, age_s=100.0)

    assert 9 == memory.cursor
    assert [(2, 10.0, 20.0)] == [(one.count, one.first, one.time) for one in memory.events]


def test_a_boot_clears_everything() -> None:
    """Another boot id means that the node has booted: events, cursor and settled faults are of the past."""
    memory = remember(LogMemory("b", 500, (event(10.0),), {"x": 5.0}), "c", 3, [], now=30.0, age_s=100.0)

    assert LogMemory("c", 3) == memory


def test_a_reset_clears_its_gpu_only() -> None:
    """After a reset the older events of that GPU are settled; newer ones, and other GPUs, count."""
    other = event(10.0, entity="0000:4c:00")
    memory = clear(LogMemory("b", 5, (event(10.0), other)), "0000:3b:00", when=15.0)

    assert (other,) == memory.events
    later = remember(memory, "b", 6, [event(12.0), event(20.0)], now=30.0, age_s=100.0)
    assert [10.0, 20.0] == [one.time for one in later.events]


def test_old_events_are_forgotten_and_there_is_a_limit() -> None:
    """The memory is bounded by age and by number."""
    many = [event(100.0 + number, detail={"pid": str(number)}) for number in range(MOST_EVENTS + 50)]

    assert () == remember(LogMemory("b"), "b", 1, [event(10.0)], now=200.0, age_s=100.0).events
    assert MOST_EVENTS == len(remember(LogMemory("b"), "b", 1, many, now=700.0, age_s=1e6).events)


def read(path: Path, **options: object) -> Answer:
    values = {"source": str(path), "cursor": -1, "uptime_s": 1000.0, "age_s": 500.0, **options}
    return run_probes([Probe("log", lambda report: read_kernel_log(report, **values), 20.0)])["log"]  # type: ignore[arg-type]


def test_a_log_is_read_from_its_cursor(tmp_path: Path) -> None:
    """Only records after the cursor, and not older than the bound, are told; the new cursor always is."""
    log = tmp_path / "kmsg"
    log.write_text(f"4,1,100000000,-;{XID}\n4,2,900000000,-;{XID}\n SUBSYSTEM=pci\n4,3,950000000,-;{XID}\n\xff\xfe\n")

    assert 2 == sum("event" in record for record in read(log).records)
    assert 1 == sum("event" in record for record in read(log, cursor=2).records)
    assert [{"cursor": 3}] == read(log, cursor=3).records


def test_a_log_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    """A missing log crashes the probe, which is unknown and names the file."""
    answer = read(tmp_path / "none")

    assert "crashed" == answer.state.outcome
    assert "none" in answer.state.step
