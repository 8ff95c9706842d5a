"""Read the kernel log from where it was left: /dev/kmsg, a file of the same form, or the journal (adapter)."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict

from hpctrain.health.kernel_log import Record, classify, parse_record
from hpctrain.health.probe_child import Report

JOURNAL = "journal"
_MOST_RECORDS = 200_000
_RECORD_BYTES = 8192


def read_kernel_log(report: Report, *, source: str, cursor: int, uptime_s: float, age_s: float) -> None:
    """Tell the events after the cursor, and the new cursor.

    Args:
        source: ``/dev/kmsg``, a file of such records, or ``journal``.
        cursor: sequence number of the newest record that is known; -1 for none.
        uptime_s: seconds since boot, now.
        age_s: older records are passed over.
    """
    report.step(f"reading {source}")
    booted_at = time.time() - uptime_s
    newest = -1
    for record in _journal(report, age_s) if source == JOURNAL else _records(source):
        newest = max(newest, record.sequence)
        if record.sequence <= cursor or record.since_boot_s < uptime_s - age_s:
            continue
        event = classify(record, booted_at)
        if event:
            report.emit(event=asdict(event))
    report.emit(cursor=newest)


def _records(source: str) -> Iterator[Record]:
    handle = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
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


def _journal(report: Report, age_s: float) -> Iterator[Record]:
    """Records from journalctl; its own cursor is not needed, as an event that is told twice is told at the same time."""
    from hpctrain import process

    report.step("running journalctl")
    since = f"--since=-{int(age_s)}s"
    result = process.run(["/usr/bin/journalctl", "-k", "-b", "-o", "json", "--no-pager", since], timeout_s=30)
    for line in result.stdout.splitlines():
        try:
            entry = json.loads(line)
            at_us, text = int(entry["_SOURCE_MONOTONIC_TIMESTAMP"]), entry["MESSAGE"]
        except (ValueError, KeyError, TypeError):
            continue
        if isinstance(text, str):
            yield Record(at_us, at_us / 1e6, text)  # microseconds since boot grow, so they serve as the sequence
