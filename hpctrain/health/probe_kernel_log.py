"""Read the kernel log from where it was left: /dev/kmsg, a file of the same form, or the journal (adapter)."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict

from hpctrain.health.config import JOURNALCTL
from hpctrain.health.kernel_log import LogMemory, Record, classify, parse_record
from hpctrain.health.probe_child import Report

JOURNAL, KMSG = "journal", "kmsg"
_MOST_RECORDS = 200_000
_MOST_LINES = 20_000
_RECORD_BYTES = 8192
_JOURNAL_S = 20.0
_SLACK_S = 2.0
"""The journal's clock and ours may differ by so much where it is asked for what is new."""


def read_kernel_log(
    report: Report, *, source: str, known: LogMemory, boot_id: str, uptime_s: float, age_s: float, journalctl: str = ""
) -> None:
    """Tell the events that are new, the new cursor, and which log it belongs to.

    Args:
        source: ``/dev/kmsg``, a file of such records, or ``journal``.
        known: what was read before, whose cursor counts for the same boot and the same log only.
        boot_id: of this boot.
        uptime_s: seconds since boot, now.
        age_s: older records are passed over.
        journalctl: its path; it is asked where the source cannot be read. "" for never.

    Raises:
        OSError: neither can be read.
    """
    booted_at, newest = time.time() - uptime_s, -1
    since = time.time() - age_s
    if (known.boot_id, known.source) == (boot_id, JOURNAL) and known.cursor > 0:
        since = max(since, booted_at + known.cursor / 1e6 - _SLACK_S)
    kind, records = _open(report, source, boot_id, since=since, journalctl=journalctl)
    cursor = known.cursor if (known.boot_id, known.source or kind) == (boot_id, kind) else -1
    for record in records:
        newest = max(newest, record.sequence)
        if record.sequence <= cursor or record.since_boot_s < uptime_s - age_s:
            continue
        event = classify(record, booted_at)
        if event:
            report.emit(event=asdict(event))
    report.emit(cursor=newest, log=kind)


def _open(report: Report, source: str, boot_id: str, *, since: float, journalctl: str) -> tuple[str, Iterable[Record]]:
    """Which log, and its records; what cannot be opened is known before the first of them."""
    why = ""
    if source != JOURNAL:
        report.step(f"reading {source}")
        try:
            return KMSG, _records(source, os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError as error:
            if not journalctl:
                raise
            why = f"{source}: {error.strerror}; "
    return JOURNAL, _journal(report, journalctl or JOURNALCTL, boot_id, since, why)


def _records(source: str, handle: int) -> Iterator[Record]:
    try:
        device = not os.path.isfile(source)  # noqa: PTH113 - one stat
        lines = _device_lines(handle) if device else _file_lines(handle)
        for line in lines:
            record = parse_record(line)
            if record:
                yield record
    finally:
        os.close(handle)


def _device_lines(handle: int) -> Iterator[str]:
    """Each read of /dev/kmsg gives one record; its first line is the message, the rest are keys."""
    for _ in range(_MOST_RECORDS):
        try:
            data = os.read(handle, _RECORD_BYTES)
        except BlockingIOError:
            return  # all has been read
        except OSError as error:
            if error.errno == errno.EPIPE:
                continue  # the ring went round under us: the next read goes on with the oldest record that is left
            raise
        if not data:
            return
        yield data.decode(errors="replace").partition("\n")[0]


def _file_lines(handle: int) -> Iterable[str]:
    with os.fdopen(os.dup(handle), "rb") as file:
        for raw in file:
            yield raw.decode(errors="replace").rstrip("\n")


def _journal(report: Report, journalctl: str, boot_id: str, since: float, why: str) -> list[Record]:
    """The kernel's records of this boot, from journalctl. Microseconds since boot grow, so they serve as the sequence."""
    from hpctrain import process

    report.step(f"{why}running {journalctl}")
    argv = [journalctl, "-k", "-b", "-o", "json", "--no-pager", "-n", str(_MOST_LINES), f"--since=@{since:.3f}"]
    result = process.run(argv, timeout_s=_JOURNAL_S, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"})
    told = result.stderr.strip()
    if not result.ok or (told and not result.stdout.strip()):  # "No journal files were found" comes with exit code 0
        raise OSError(f"{why}{journalctl}: {told[:200] or f'exit status {result.returncode}'}")
    return [record for line in result.stdout.splitlines() if (record := parse_entry(line, boot_id))]


def parse_entry(line: str, boot_id: str) -> Record | None:
    """A record from a line of ``journalctl -o json``; None for what programs wrote, another boot, and anything else."""
    try:
        entry = json.loads(line)
        at_us, text = int(entry["_SOURCE_MONOTONIC_TIMESTAMP"]), entry["MESSAGE"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if entry.get("_TRANSPORT", "kernel") != "kernel" or entry.get("SYSLOG_FACILITY", "0") != "0":
        return None
    ours = boot_id.replace("-", "")
    if ours and entry.get("_BOOT_ID", ours) != ours:
        return None
    if isinstance(text, list):  # bytes that are no UTF-8
        try:
            text = bytes(text).decode(errors="replace")
        except (ValueError, TypeError):
            return None
    return Record(at_us, at_us / 1e6, text) if isinstance(text, str) and at_us >= 0 else None
