"""EventWriter."""

import json
import stat

import pytest

from hpctrain.errors import StorageError
from hpctrain.jobs.writer import EventWriter
from hpctrain.testing.fake_clock import FakeClock


def test_event_is_one_json_line_in_the_writers_own_file(tmp_path):
    """An event becomes one line with time, source, job and facts, in events/<source>-<host>.jsonl."""
    clock = FakeClock(1000.5)
    writer = EventWriter(tmp_path, "agent", "n1", clock, job=7)
    writer.write("ranks.started", "4 ranks", node="n1", step=3, evidence={"ranks": 4})
    lines = (tmp_path / "events" / "agent-n1.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"time": 1000.5, "source": "agent", "kind": "ranks.started", "job": 7, "node": "n1", "step": 3,
         "reason": "4 ranks", "evidence": {"ranks": 4}},
    ]


def test_files_are_private(tmp_path):
    """Event files can be read by their owner only."""
    EventWriter(tmp_path, "cli", "login").write("job.cancelled")
    assert stat.S_IMODE((tmp_path / "events" / "cli-login.jsonl").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "events").stat().st_mode) == 0o700


def test_hostile_host_name_stays_in_the_directory(tmp_path):
    """A host name with slashes cannot make the writer leave the events directory."""
    writer = EventWriter(tmp_path, "cli", "../../evil")
    writer.write("job.cancelled")
    assert [p.name for p in (tmp_path / "events").iterdir()] == [writer.path.name]


def test_write_does_not_bring_a_removed_run_back(tmp_path):
    """Writing into a run directory that is gone is a StorageError, and makes no directory."""
    gone = tmp_path / "gone"
    with pytest.raises(StorageError):
        EventWriter(gone, "cli", "login").write("job.cancelled")
    assert not gone.exists()


def test_note_never_raises(tmp_path, capfd):
    """note() reports a lost event on stderr and goes on."""
    assert EventWriter(tmp_path / "gone", "trainer", "n1").note("step.first") is False
    assert "step.first was not recorded" in capfd.readouterr().err
