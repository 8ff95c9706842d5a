"""The kernel log: which lines count, and what is remembered of them."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hpctrain.devcluster.faults import FAULTS
from hpctrain.devcluster.simulated_gpus import pci_bus
from hpctrain.health.kernel_log import MOST_EVENTS, LogMemory, Record, classify, clear, parse_record, pci_entity, remember
from hpctrain.health.node_state import NodeFiles
from hpctrain.health.probe_child import Answer, Probe, run_probes
from hpctrain.health.probe_kernel_log import parse_entry, read_kernel_log
from hpctrain.health.reading import KernelEvent
from tests.unit.health.conftest import SimulatedNode

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


BOOT = "4c3ad9ba-6d5c-4a0e-9c0f-3f7f8a3b2c1d"


def read(path: Path, **options: object) -> Answer:
    cursor = options.pop("cursor", -1)
    known = LogMemory(BOOT, cursor)  # type: ignore[arg-type]
    values = {"source": str(path), "known": known, "boot_id": BOOT, "uptime_s": 1000.0, "age_s": 500.0, **options}
    return run_probes([Probe("log", lambda report: read_kernel_log(report, **values), 20.0)])["log"]  # type: ignore[arg-type]


def test_a_log_is_read_from_its_cursor(tmp_path: Path) -> None:
    """Only records after the cursor, and not older than the bound, are told; the new cursor always is."""
    log = tmp_path / "kmsg"
    log.write_text(f"4,1,100000000,-;{XID}\n4,2,900000000,-;{XID}\n SUBSYSTEM=pci\n4,3,950000000,-;{XID}\n\xff\xfe\n")

    assert 2 == sum("event" in record for record in read(log).records)
    assert 1 == sum("event" in record for record in read(log, cursor=2).records)
    assert [{"cursor": 3, "log": "kmsg"}] == read(log, cursor=3).records


def test_a_cursor_of_another_boot_or_log_does_not_count(tmp_path: Path) -> None:
    """After a boot, or where the journal was read before, everything is read again."""
    log = tmp_path / "kmsg"
    log.write_text(f"4,1,900000000,-;{XID}\n")

    for known in (LogMemory("other", 7), LogMemory(BOOT, 900_000_000, source="journal")):
        assert 1 == sum("event" in record for record in read(log, known=known).records)


def test_a_log_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    """A missing log crashes the probe, which is unknown and names the file, and what the journal said."""
    answer = read(tmp_path / "none")
    assert "crashed" == answer.state.outcome
    assert "none" in answer.state.step

    answer = read(tmp_path / "none", journalctl=str(journalctl(tmp_path, [], stderr="No journal files were found.")))
    assert "crashed" == answer.state.outcome
    assert "none: No such file or directory" in answer.state.step
    assert "No journal files were found." in answer.state.step

    answer = read(tmp_path / "none", journalctl="/no/such/journalctl")
    assert "crashed" == answer.state.outcome


def entry(at_us: int, text: object = XID, **fields: object) -> dict[str, object]:
    """What journald keeps of a line of the kernel."""
    values = {"_TRANSPORT": "kernel", "SYSLOG_FACILITY": "0", "_BOOT_ID": BOOT.replace("-", ""), "PRIORITY": "4"}
    return {**values, "_SOURCE_MONOTONIC_TIMESTAMP": str(at_us), "MESSAGE": text, **fields}


def journalctl(place: Path, entries: list[dict[str, object]], stderr: str = "", code: int = 0) -> Path:
    """A stand-in for journalctl that prints these entries and keeps its arguments."""
    (place / "entries").write_text("".join(json.dumps(one) + "\n" for one in entries))
    program = place / "journalctl"
    said = f"echo '{stderr}' >&2" if stderr else ":"
    program.write_text(f'#!/bin/sh\necho "$@" > {place}/arguments\n{said}\n/bin/cat {place}/entries\nexit {code}\n')
    program.chmod(0o700)
    return program


def test_the_journal_stands_in_for_a_log_that_cannot_be_read(tmp_path: Path) -> None:
    """The kernel's lines of this boot are told, and only they; the journal's cursor is the time of the newest."""
    entries = [
        entry(100_000_000),  # older than the bound
        entry(900_000_000),
        entry(910_000_000, [*XID.encode(), 255]),  # journald's way with bytes that are no UTF-8
        entry(920_000_000, SYSLOG_FACILITY="3"),  # a program's line, written into /dev/kmsg
        entry(930_000_000, _TRANSPORT="syslog"),
        entry(940_000_000, _BOOT_ID="0" * 32),
        entry(950_000_000, None),
        entry(960_000_000, "usb 1-1: new device"),
        {"MESSAGE": XID},
    ]
    answer = read(tmp_path / "none", journalctl=str(journalctl(tmp_path, entries, stderr="Hint: something")))

    assert "ok" == answer.state.outcome
    events = [record["event"] for record in answer.records if "event" in record]
    assert ["xid", "xid"] == [event["kind"] for event in events]
    assert {"cursor": 960_000_000, "log": "journal"} == answer.records[-1]
    known = LogMemory(BOOT, 900_000_000, source="journal")
    again = read(tmp_path / "none", journalctl=str(tmp_path / "journalctl"), known=known)
    assert 1 == sum("event" in record for record in again.records)
    since = float((tmp_path / "arguments").read_text().rpartition("--since=@")[2])
    assert -400 < since - time.time() < -95  # from the cursor on, and not all of the day


@pytest.mark.parametrize("code", [1, 3])
def test_a_journalctl_that_fails_is_unknown(code: int, tmp_path: Path) -> None:
    """What it has printed before is not taken for the whole."""
    program = journalctl(tmp_path, [entry(900_000_000)], stderr="damaged", code=code)

    assert "crashed" == read(Path("journal"), journalctl=str(program)).state.outcome


@pytest.mark.parametrize(
    "line", ["", "[]", "3", "-- No entries --", "[" * 100_000, '{"MESSAGE": [300], "_SOURCE_MONOTONIC_TIMESTAMP": "1"}',
             '{"MESSAGE": "x", "_SOURCE_MONOTONIC_TIMESTAMP": "-1"}', '{"MESSAGE": "x", "_SOURCE_MONOTONIC_TIMESTAMP": []}'],
    ids=range(8),
)  # fmt: skip
def test_garbage_from_the_journal_is_nothing(line: str) -> None:
    """A line that is no entry is passed over."""
    assert parse_entry(line, BOOT) is None


def test_a_change_of_logs_counts_nothing_twice() -> None:
    """The other log tells what is known already: it is not a repeat; what comes after is."""
    memory = LogMemory("b", 7, (event(10.0), event(12.0, number=48)), source="kmsg")
    told = [event(10.4), event(12.01, number=48), event(20.0), event(5.0, number=63)]
    later = remember(memory, "b", 20_000_000, told, now=30.0, age_s=100.0, source="journal")

    assert [(63, 1), (48, 1), (79, 2)] == [(one.number, one.count) for one in later.events]
    assert ("journal", 20_000_000) == (later.source, later.cursor)
    assert 7 == remember(later, "b", 7, [], now=30.0, age_s=100.0, source="kmsg").cursor
    assert later.cursor == remember(later, "b", -1, [], now=30.0, age_s=100.0).cursor


def test_an_xid_counts_until_a_reset_or_a_boot(node: SimulatedNode) -> None:
    """The same line drains at every look, until a reset of its GPU or a boot has settled it; another GPU's line stays."""
    node.files.inject(FAULTS["xid-79"].make(1))
    node.files.inject(FAULTS["xid-119"].make(2))
    for _ in range(2):
        assert {"xid"} == {finding.check for finding in node.check().verdict.draining}

    files = NodeFiles(node.state_dir, node.name)
    state = files.load()
    files.save(replace(state, log=clear(state.log, pci_entity(pci_bus(1)), time.time())))
    assert ["GPU 2"] == [finding.message.partition(":")[0] for finding in node.check().verdict.draining]

    node.files.heal(reboot=True)
    assert () == node.check().verdict.draining
    assert () == files.load().log.events
