"""Probes in children: they hang, crash and are cut off, and the parent has its answer in time."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from hpctrain.health.probe_child import Probe, Report, run_probes
from hpctrain.health.probe_mounts import Mount, mount_table, read_mounts


def test_what_a_probe_says_arrives() -> None:
    """Records come in order, also large ones."""

    def read(report: Report) -> None:
        report.emit(number=1)
        report.emit(text="x" * 3_000_000)

    answer = run_probes([Probe("p", read, 30.0)])["p"]

    assert ("ok", 1, 3_000_000) == (answer.state.outcome, answer.records[0]["number"], len(answer.records[1]["text"]))


def test_a_probe_that_hangs_is_left_behind() -> None:
    """At its deadline the parent has what was said before, knows the step, and the child is gone; others are not delayed."""

    def hang(report: Report) -> None:
        report.emit(number=1)
        report.step("waiting for ever")
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        signal.pause()

    started = time.monotonic()
    answers = run_probes([Probe("hangs", hang, 0.3), Probe("works", lambda report: report.emit(fine=True), 30.0)])

    assert 20 > time.monotonic() - started
    assert ("timeout", "waiting for ever", [{"number": 1}]) == (
        answers["hangs"].state.outcome,
        answers["hangs"].state.step,
        answers["hangs"].records,
    )
    assert "ok" == answers["works"].state.outcome
    child = answers["hangs"].abandoned
    if child:  # on a busy machine its end takes longer than anybody waits for it
        assert (child, signal.SIGKILL) == os.waitpid(child, 0)


@pytest.mark.parametrize("how", ["raise", "kill", "exit"])
def test_a_probe_that_crashes_is_unknown(how: str) -> None:
    """An exception, a signal and an early exit are told apart from an answer, with the step."""

    def crash(report: Report) -> None:
        report.step("the step")
        if how == "raise":
            raise ValueError("boom")
        if how == "kill":
            os.kill(os.getpid(), signal.SIGSEGV)
        os._exit(3)

    answer = run_probes([Probe("p", crash, 30.0)])["p"]

    assert "crashed" == answer.state.outcome
    assert answer.state.step.startswith("the step")


def test_a_probe_has_a_session_and_descriptors_of_its_own(tmp_path: Path) -> None:
    """Nothing of the parent is open in the child but its pipe; its streams are /dev/null; its session is its own."""

    def look(report: Report) -> None:
        open_files = Path("/proc/self/fd")
        links = {}
        for entry in list(open_files.iterdir()):
            if entry.exists() or entry.is_symlink():
                links[int(entry.name)] = str(entry.readlink())
        report.emit(session=os.getsid(0), pid=os.getpid(), links=links)

    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        (record,) = run_probes([Probe("p", look, 30.0)])["p"].records

    assert record["pid"] == record["session"]
    assert ["/dev/null"] * 3 == [record["links"][str(stream)] for stream in range(3)]
    assert 1 == sum(link.startswith("pipe:") for link in record["links"].values())
    assert str(tmp_path / "open") not in record["links"].values()


def test_mounts_are_read_from_the_table(tmp_path: Path) -> None:
    """Local ones first, kernel file systems left out, blanks decoded, the last mount on a path counts."""
    (tmp_path / "self").mkdir()
    lines = [
        "proc /proc proc rw 0 0",
        "nas:/x /data nfs4 rw 0 0",
        "/dev/a /my\\040disk ext4 ro,relatime 0 0",
        "/dev/b /data xfs rw 0 0",
    ]
    table = "\n".join(lines) + "\n"
    (tmp_path / "self/mounts").write_text(table)

    assert [Mount("/my disk", "ext4", True), Mount("/data", "xfs", False)] == mount_table(str(tmp_path))


def test_a_mount_that_fails_is_told(tmp_path: Path) -> None:
    """An error of statvfs is told with the mount; the others are measured."""
    mounts = [Mount(str(tmp_path / "none"), "nfs4", False), Mount(str(tmp_path), "ext4", False)]
    records = run_probes([Probe("m", lambda report: read_mounts(report, mounts), 30.0)])["m"].records

    assert "No such file or directory" == records[0]["file_system"]["error"]
    assert records[1]["file_system"]["size_bytes"] > 0
