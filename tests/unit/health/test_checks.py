"""The shipped health checks, on readings made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.cli.main import invoke
from hpctrain.errors import NotFoundError
from hpctrain.health.finding import Check, Finding, Severity, worst
from hpctrain.health.probe_host import read_host
from hpctrain.health.reading import FileSystem, Reading
from hpctrain.health.run import choose, judge, load_checks

GIB = 2**30


def fs(**changes: object) -> FileSystem:
    values: dict[str, object] = {
        "mount": "/scratch", "kind": "ext4", "size_bytes": 100 * GIB, "available_bytes": 50 * GIB,
        "inodes": 1000, "inodes_available": 900,
    }
    return FileSystem(**{**values, **changes})  # type: ignore[arg-type]


def findings(reading: Reading, name: str) -> list[Finding]:
    return judge(reading, choose(load_checks(), [name]))


def test_every_check_documents_itself() -> None:
    """Each shipped check carries its name, what, why, remedy and known false alarms."""
    checks = load_checks()

    assert {"disk_space", "memory_size", "read_only"} == {check.name for check in checks}
    for check in checks:
        assert all((check.what, check.why, check.remedy, check.false_alarms)), check.name


def test_healthy_node_has_no_findings() -> None:
    """A node with room on its disks and all of its memory gives no finding at all."""
    reading = Reading(0.0, "n1", memory_bytes=98 * GIB, memory_expected_bytes=100 * GIB, file_systems=(fs(),))

    assert judge(reading, load_checks()) == []


@pytest.mark.parametrize(("free_gib", "severity"), [(9, Severity.WARNING), (1, Severity.CRITICAL)])
def test_full_disk_is_found_with_its_number(free_gib: int, severity: Severity) -> None:
    """A nearly full file system is a warning, a full one critical, and the message says how full."""
    (found,) = findings(Reading(0.0, "n1", file_systems=(fs(available_bytes=free_gib * GIB),)), "disk_space")

    assert severity is found.severity
    assert f"{100 - free_gib}.0 % of space" in found.message


def test_inodes_run_out_while_space_is_free() -> None:
    """A file system without free inodes is found although it has free space."""
    (found,) = findings(Reading(0.0, "n1", file_systems=(fs(inodes_available=0),)), "disk_space")

    assert Severity.CRITICAL is found.severity
    assert "inodes" in found.message


def test_file_system_without_inode_counts_is_skipped() -> None:
    """A file system that does not count inodes (0 of 0) is not reported as out of inodes."""
    reading = Reading(0.0, "n1", file_systems=(fs(inodes=0, inodes_available=0),))

    assert findings(reading, "disk_space") == []


def test_read_only_remount_is_found_and_squashfs_is_not() -> None:
    """A writable kind mounted read-only is reported; a kind that is always read-only is not."""
    reading = Reading(0.0, "n1", file_systems=(
        fs(read_only=True), fs(mount="/sw", kind="squashfs", read_only=True, expected_read_only=True),
    ))

    assert ["/scratch"] == [found.entity for found in findings(reading, "read_only")]


def test_missing_memory_is_critical_and_unreadable_memory_unknown() -> None:
    """A lost memory module is critical; a size that could not be read is UNKNOWN, never a fault."""
    lost = Reading(0.0, "n1", memory_bytes=64 * GIB, memory_expected_bytes=128 * GIB)
    unread = Reading(0.0, "n1", memory_bytes=None, memory_expected_bytes=128 * GIB)

    assert [Severity.CRITICAL] == [found.severity for found in findings(lost, "memory_size")]
    assert [Severity.UNKNOWN] == [found.severity for found in findings(unread, "memory_size")]


def test_a_check_that_raises_condemns_nobody() -> None:
    """An exception inside a check becomes an UNKNOWN finding and the other checks still run."""
    def broken(_reading: Reading, _limits: object) -> list[Finding]:
        raise ZeroDivisionError("oops")

    bad = Check("bad", "w", "w", "r", "f", {}, broken)
    found = judge(Reading(0.0, "n1", file_systems=(fs(read_only=True),)), [bad, *choose(load_checks(), ["read_only"])])

    assert [("bad", Severity.UNKNOWN), ("read_only", Severity.WARNING)] == [(f.check, f.severity) for f in found]


def test_known_fault_outranks_unknown() -> None:
    """The verdict is CRITICAL when one check is critical and another cannot tell."""
    rows = [Finding("a", Severity.UNKNOWN, "", ""), Finding("b", Severity.CRITICAL, "", "")]

    assert Severity.CRITICAL is worst(rows)
    assert Severity.OK is worst([])


NUMBER = st.integers()


@given(NUMBER, NUMBER, NUMBER, NUMBER, st.none() | NUMBER, st.none() | st.integers(1))
def test_no_reading_makes_a_check_crash(
    size: int, free: int, inodes: int, ifree: int, mem: int | None, want: int | None
) -> None:
    """Whatever numbers a broken kernel reports, no check raises."""
    file_system = fs(size_bytes=size, available_bytes=free, inodes=inodes, inodes_available=ifree)
    reading = Reading(0.0, "n1", memory_bytes=mem, memory_expected_bytes=want, file_systems=(file_system,))

    assert not [f for f in judge(reading, load_checks()) if "check itself failed" in f.message]


def test_probe_reads_a_recorded_proc(tmp_path: Path) -> None:
    """The probe reads uptime, memory and mounts (with a blank in the name) and leaves out kernel file systems."""
    data = tmp_path / "my data"
    data.mkdir()
    (tmp_path / "self").mkdir()
    (tmp_path / "uptime").write_text("123.45 99.0\n")
    (tmp_path / "meminfo").write_text("MemTotal:       1024 kB\nMemFree: 1 kB\n")
    mounts = f"proc /proc proc rw 0 0\n/dev/sda1 {str(data).replace(' ', chr(92) + '040')} ext4 ro,relatime 0 0\n"
    (tmp_path / "self" / "mounts").write_text(mounts)

    reading = read_host("n7", proc=tmp_path)

    assert (123.45, 1024 * 1024) == (reading.uptime_s, reading.memory_bytes)
    assert [(str(data), True)] == [(f.mount, f.read_only) for f in reading.file_systems]


def test_unreadable_proc_is_unknown(tmp_path: Path) -> None:
    """Where nothing can be read every value is unknown, and nothing raises."""
    reading = read_host("n7", proc=tmp_path)

    assert (None, None, ()) == (reading.uptime_s, reading.memory_bytes, reading.file_systems)


def test_unknown_check_name_is_refused() -> None:
    """Asking for a check that does not exist names those that do."""
    with pytest.raises(NotFoundError) as caught:
        choose(load_checks(), ["disc_space"])

    assert "disk_space" in caught.value.advice


def test_command_exits_with_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    """``health check -o json`` prints one document and its exit code is the verdict's number."""
    code = invoke(["health", "check", "--only", "memory_size", "-o", "json"])

    document = json.loads(capsys.readouterr().out)
    assert 0 == code
    assert ("health", "OK") == (document["kind"], document["health"]["verdict"])
