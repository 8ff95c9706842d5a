"""The journal: what is on record survives, one acts at a time, and what follows from the records."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpctrain.errors import StorageError
from hpctrain.health.policy import Deed, Step
from hpctrain.nodes import journal as module
from hpctrain.nodes.journal import KEEP_S, Journal
from hpctrain.nodes.record import (
    DONE,
    DROPPED,
    FAILED,
    INTENT,
    NEXT,
    SEEN,
    Entry,
    deeds,
    interrupted,
    is_open_drain,
    next_id,
    verdict_used,
)

REBOOT = Entry(10.0, "n1", INTENT, "reboot", "n1-10", "GPU 3: Xid 79", "ladder", "xid/gpu3", "alice", detail={"a": 1})


def end(kind: str, time: float = 20.0, **detail: object) -> Entry:
    return Entry(time, "n1", kind, "reboot", "n1-10", detail=detail)


def test_entries_come_back_as_they_were(tmp_path: Path) -> None:
    """Also after a torn line; the files are their owner's only."""
    journal = Journal(tmp_path / "state")
    assert journal.entries() == []
    journal.append(REBOOT)
    with journal.path.open("a") as file:
        file.write('{"time": 11, "node": "n1", "kind": "do')
    second = Entry(12.0, "n2", NEXT, "wait", due=40.0, evidence=({"check": "xid"},))
    journal.append(second)
    assert Journal(tmp_path / "state").entries() == [REBOOT, second]
    assert journal.path.stat().st_mode & 0o077 == 0
    assert journal.directory.stat().st_mode & 0o077 == 0


def test_one_acts_at_a_time(tmp_path: Path) -> None:
    """Whoever comes second is told to wait."""
    first, second = Journal(tmp_path), Journal(tmp_path)
    with first.locked(), pytest.raises(StorageError, match="another"), second.locked(wait_s=0.2):
        pass
    with second.locked(wait_s=0.2):
        pass


def test_a_long_journal_keeps_what_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is older than a month goes, but an act that is not over stays."""
    monkeypatch.setattr(module, "LONGEST_BYTES", 10)
    journal = Journal(tmp_path)
    done = Entry(11.0, "n2", DONE, "reboot", "n2-11")
    recent = Entry(KEEP_S + 90, "n2", SEEN, "drain")
    for entry in (REBOOT, done, recent):
        journal.append(entry)
    journal.compact(KEEP_S + 100)
    assert journal.entries() == [REBOOT, recent]


def test_an_intent_without_an_end_was_interrupted() -> None:
    """Done, failed and dropped are ends."""
    assert interrupted([REBOOT]) == [REBOOT]
    for kind in (DONE, FAILED, DROPPED):
        assert interrupted([REBOOT, end(kind)]) == []


def test_deeds_are_what_was_done() -> None:
    """At the time of the end; a refusal is no deed, a failure that may have worked is one; announcements are none."""
    assert deeds([REBOOT]) == [Deed(10.0, "n1", Step.REBOOT, "xid/gpu3")]
    assert deeds([REBOOT, end(DONE)]) == [Deed(20.0, "n1", Step.REBOOT, "xid/gpu3")]
    assert deeds([REBOOT, end(FAILED)]) == []
    assert deeds([REBOOT, end(DROPPED)]) == []
    assert deeds([REBOOT, end(FAILED, counts=True)]) == [Deed(10.0, "n1", Step.REBOOT, "xid/gpu3")]
    assert deeds([Entry(1.0, "n1", NEXT, "reboot"), Entry(1.0, "n1", DONE, "spare", "n1-1-spare")]) == []


def test_ids_are_never_used_twice() -> None:
    """Two acts in one second have different ids."""
    assert next_id([REBOOT], "n1", 10.7) == "n1-11"
    assert next_id([REBOOT], "n2", 10.7) == "n2-10"


def test_drain_and_return_open_and_close_an_episode() -> None:
    """Whoever made them; a verdict from before the return is spent."""
    drained = Entry(5.0, "n1", DONE, "drain", "n1-5", detail={"verdict_time": 4.0})
    back = Entry(30.0, "n1", SEEN, "return")
    assert is_open_drain([drained, REBOOT, end(DONE)])
    assert not is_open_drain([drained, back])
    assert verdict_used([drained]) == 4.0
    assert verdict_used([drained, back]) == 30.0
