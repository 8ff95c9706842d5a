"""What a watchdog of the whole cluster believes: plain, small files of the job's own user, and nothing else of them."""

from __future__ import annotations

import getpass
import json
import os
from pathlib import Path

import pytest

from hpctrain.ids import JobId
from hpctrain.slurm.model import Job, JobState
from hpctrain.testing.fake_clock import FakeClock
from hpctrain.watchdog.budget import BudgetLimits
from hpctrain.watchdog.journal import Journal
from hpctrain.watchdog.publish import publish
from hpctrain.watchdog.spool import KEEP_S, SpoolFiles

RECORD = {"time": 1.0, "beat": 2, "host": "n1", "restarts": 0, "incarnation": 0, "state": "run", "exit_code": None}


def job(user: str = "", comment: str = "hpctrain:run-1") -> Job:
    """A running job of ours."""
    return Job(JobId(7), "run-1", user or getpass.getuser(), JobState.RUNNING, comment=comment)


def files(path: Path) -> SpoolFiles:
    """A reader of that spool."""
    return SpoolFiles(path, BudgetLimits(), Journal(None), FakeClock())


def beat(path: Path, *, user: str = "") -> object:
    """What is believed of job 7."""
    reader, one = files(path), job(user)
    managed = reader.managed(one)
    assert managed is not None and managed.run_dir == ""
    return reader.beat(one, managed)


def test_a_published_status_is_read(tmp_path: Path) -> None:
    """Written in one step, readable by others, and read again when it changes."""
    publish(tmp_path, 7, RECORD)
    found = beat(tmp_path)
    assert found is not None and getattr(found, "beat", None) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["job-7.json"]


@pytest.mark.parametrize("content", [
    b"", b"[]", b"{", b'{"time": "x"}', b" " * 5000, json.dumps({**RECORD, "host": "$(reboot)"}).encode(),
    json.dumps({**RECORD, "beat": 1e400}).encode(), b"\xff\xfe",
])
def test_nonsense_is_not_believed(tmp_path: Path, content: bytes) -> None:
    """Whatever a user writes there, nothing follows from it."""
    (tmp_path / "job-7.json").write_bytes(content)
    assert beat(tmp_path) is None


def test_links_pipes_and_files_of_others_are_not_believed(tmp_path: Path) -> None:
    """A link could lead to another's file; a pipe could keep us waiting; another user could speak for this job."""
    real = tmp_path / "elsewhere.json"
    real.write_text(json.dumps(RECORD))
    (tmp_path / "job-7.json").symlink_to(real)
    assert beat(tmp_path) is None
    (tmp_path / "job-7.json").unlink()
    os.mkfifo(tmp_path / "job-7.json")
    assert beat(tmp_path) is None
    (tmp_path / "job-7.json").unlink()
    publish(tmp_path, 7, RECORD)
    assert beat(tmp_path, user="nobody") is None
    assert beat(tmp_path, user="no-such-user-here") is None


@pytest.mark.parametrize("comment", ["", "mine", "hpctrain:", "hpctrain:../x", "hpctrain:a b"])
def test_other_jobs_are_nobodys_business(tmp_path: Path, comment: str) -> None:
    """Only a comment that names a run makes a job one of ours."""
    assert files(tmp_path).managed(job(comment=comment)) is None


def test_old_files_are_swept_and_nothing_else(tmp_path: Path) -> None:
    """A status or a draft that has not changed for a day; a stranger's file stays."""
    for name in ("job-1.json", ".job-1.77.new", "job-2.json", "notes.txt"):
        (tmp_path / name).write_text("x")
        if name != "job-2.json":
            os.utime(tmp_path / name, (1000.0, 1000.0))
    reader = files(tmp_path)
    os.utime(tmp_path / "job-2.json", (FakeClock().time() - KEEP_S + 60,) * 2)
    reader.refresh()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job-2.json", "notes.txt"]


def test_no_address_is_published(tmp_path: Path) -> None:
    """Others may read the file: where the coordinator listens is not in it."""
    publish(tmp_path, 7, {**RECORD, "addr": "10.0.0.1", "port": 4711, "pid": 12})
    assert set(json.loads((tmp_path / "job-7.json").read_text())) == {*RECORD}
