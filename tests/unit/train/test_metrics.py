"""metrics.jsonl."""

from __future__ import annotations

import json
from pathlib import Path

from hpctrain.train.metrics import MetricsLog


def test_every_step_is_on_disk_at_once(tmp_path: Path) -> None:
    """A line is in the file when write returns: a SIGKILL afterwards does not lose it."""
    log = MetricsLog(tmp_path / "m.jsonl")
    log.write({"step": 1, "loss": 2.0})

    assert '{"step":1,"loss":2.0}\n' == (tmp_path / "m.jsonl").read_text()


def test_loss_that_is_no_number_stays_json(tmp_path: Path) -> None:
    """NaN is written as null, since JSON has no NaN."""
    MetricsLog(tmp_path / "m.jsonl").write({"step": 1, "loss": float("nan"), "grad_norm": float("inf")})

    assert {"step": 1, "loss": None, "grad_norm": None} == json.loads((tmp_path / "m.jsonl").read_text())


def test_torn_line_of_a_killed_writer_is_closed(tmp_path: Path) -> None:
    """Half a line at the end of the file does not swallow the next one."""
    path = tmp_path / "m.jsonl"
    path.write_text('{"step":1}\n{"st')
    MetricsLog(path).write({"step": 2})

    assert ['{"step":1}', '{"st', '{"step":2}'] == path.read_text().splitlines()
