"""The heartbeat file."""

from __future__ import annotations

import json
from pathlib import Path

from hpctrain.testing.fake_clock import FakeClock
from hpctrain.train.heartbeat import LINE_BYTES, Heartbeat, render


def test_one_line_of_fixed_length_is_overwritten(tmp_path: Path) -> None:
    """However often it beats, the file is one JSON line of the same size, with the newest values."""
    clock, path = FakeClock(100.0), tmp_path / "beat"
    heartbeat = Heartbeat(str(path), rank=3, incarnation=2, clock=clock)
    heartbeat.beat("step", step=1, total_steps=9, loss=2.5)
    clock.advance(1)
    heartbeat.beat("save")

    assert LINE_BYTES == path.stat().st_size
    record = json.loads(path.read_bytes())
    expected = {"time": 101.0, "rank": 3, "incarnation": 2, "phase": "save", "step": 1, "total_steps": 9, "loss": 2.5}
    assert expected == record


def test_detail_lasts_for_one_beat(tmp_path: Path) -> None:
    """What a phase said about itself is not said by the next one."""
    path = tmp_path / "beat"
    heartbeat = Heartbeat(str(path), rank=0, incarnation=0)
    heartbeat.beat("data", detail="1000 documents")
    heartbeat.beat("step")

    assert "detail" not in json.loads(path.read_bytes())


def test_line_is_always_whole_json() -> None:
    """An over-long text and a loss that is no number still give valid JSON of the right length."""
    line = render({"time": 1.0, "loss": float("nan"), "detail": "x" * 1000})

    assert LINE_BYTES == len(line)
    assert {"time": 1.0, "loss": None, "detail": ""} == json.loads(line)


def test_unwritable_place_does_not_stop_training(tmp_path: Path) -> None:
    """A heartbeat that cannot be opened is silent."""
    (tmp_path / "file").write_text("")

    Heartbeat(str(tmp_path / "file" / "beat"), 0, 0).beat("step", step=1)


def test_no_path_writes_nothing(tmp_path: Path) -> None:
    """Without a file name nothing is written."""
    Heartbeat("", 0, 0).beat("step", step=1)

    assert [] == list(tmp_path.iterdir())
