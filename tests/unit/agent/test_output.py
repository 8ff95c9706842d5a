"""Output of ranks reaches its file, and a bad disk never reaches the ranks."""

from __future__ import annotations

import os
import time
from pathlib import Path

from hpctrain import process
from hpctrain.agent.output import OutputWriter, RankOutput
from hpctrain.clock import SystemClock
from hpctrain.testing.fake_clock import FakeClock

STAMP = "2027-01-15T08:00:00.000Z"


def capture(path: Path, *argv: str, echo: bool = False, echoed: list[bytes] | None = None) -> RankOutput:
    """Run a program as a rank is run and wait for its last word."""
    sink = echoed if echoed is not None else []
    writer = OutputWriter(FakeClock(), sink.append)
    child = process.start(argv, stdout=process.PIPE, stderr=process.STDOUT)
    assert child.stdout is not None
    output = RankOutput(child.stdout, writer, writer.open(path, echo=echo), SystemClock())
    child.wait(timeout=30)
    output.finish(10)
    writer.close(10)
    child.stdout.close()
    return output


def test_stdout_and_stderr_are_stamped_and_kept_in_order(tmp_path: Path) -> None:
    """Both streams, also the last line without an end, stand in one private file, each line with its time."""
    log = tmp_path / "i000" / "rank.log"
    capture(log, "sh", "-c", "echo one; echo two >&2; printf three")
    assert log.read_text() == f"{STAMP} one\n{STAMP} two\n{STAMP} three\n"
    assert log.stat().st_mode & 0o777 == 0o600
    assert log.parent.stat().st_mode & 0o777 == 0o700


def test_bytes_that_are_no_text_are_kept(tmp_path: Path) -> None:
    """Binary garbage goes into the log as it is and ends nothing."""
    log = tmp_path / "rank.log"
    output = capture(log, "printf", r"\377\000\001\nok\n")
    assert log.read_bytes() == f"{STAMP} ".encode() + b"\xff\x00\x01\n" + f"{STAMP} ok\n".encode()
    assert output.tail[-1] == "ok"


def test_rank_0_is_echoed(tmp_path: Path) -> None:
    """Lines of an echoed rank go to the agent's standard output as well."""
    echoed: list[bytes] = []
    capture(tmp_path / "rank.log", "echo", "hello", echo=True, echoed=echoed)
    assert b"".join(echoed) == f"{STAMP} hello\n".encode()


def test_full_disk_costs_lines_and_nothing_else(tmp_path: Path) -> None:
    """On a full disk the program runs to its end, its lines are still echoed, and its tail is still known."""
    full = tmp_path / "rank.log"
    full.symlink_to("/dev/full")
    echoed: list[bytes] = []
    output = capture(full, "sh", "-c", "for i in 1 2 3; do echo $i; done", echo=True, echoed=echoed)
    assert list(output.tail) == ["1", "2", "3"]
    assert b"".join(echoed).count(b"\n") == 3


def test_lines_lost_to_a_full_disk_are_counted_in_the_log(tmp_path: Path) -> None:
    """Once there is space again the log says how many lines are missing, before the next one."""
    log = tmp_path / "rank.log"
    writer = OutputWriter(FakeClock(), lambda _: None)
    target = writer.open(log, echo=False)
    log.symlink_to("/dev/full")
    for number in range(3):
        writer.put(target, b"lost %d" % number)
    deadline = time.monotonic() + 10
    while target.dropped < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    log.unlink()
    assert target.fd is not None
    os.close(target.fd)
    target.fd = None
    writer.put(target, b"kept")
    writer.close(10)
    lines = log.read_text().splitlines()
    assert lines == [f"{STAMP} hpctrain: 3 lines are missing here: No space left on device", f"{STAMP} kept"]


def test_slow_disk_does_not_hold_up_the_program(tmp_path: Path) -> None:
    """When the queue is full lines are dropped and counted instead of making the rank wait."""
    fifo = tmp_path / "rank.log"
    os.mkfifo(fifo)  # opening it for writing blocks until somebody reads: a disk that hangs
    writer = OutputWriter(FakeClock(), lambda _: None, limit_bytes=1000)
    target = writer.open(fifo, echo=False)
    begun = time.monotonic()
    for _ in range(2000):
        writer.put(target, b"x" * 100)
    assert time.monotonic() - begun < 5
    # The writer hangs from its first batch on; how many lines it took before that is a matter of luck.
    assert target.dropped > 0
    with fifo.open("rb", buffering=0) as reader:
        writer.close(10)
        assert reader.read(1000).startswith(STAMP.encode())


def test_a_log_that_is_done_with_is_closed_and_a_late_line_still_written(tmp_path: Path) -> None:
    """A node that starts many incarnations must not keep all their logs open; other logs go on."""
    writer = OutputWriter(FakeClock(), lambda _: None)
    logs = [writer.open(tmp_path / f"{name}.log", echo=False) for name in "ab"]
    for log in logs:
        writer.put(log, b"one")
    writer.release(logs[0])
    deadline = time.monotonic() + 20
    while logs[0].fd is not None or not (tmp_path / "a.log").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for log in logs:
        writer.put(log, b"two")
    writer.close(10)

    assert [[f"{STAMP} one", f"{STAMP} two"]] * 2 == [(tmp_path / f"{name}.log").read_text().splitlines() for name in "ab"]
