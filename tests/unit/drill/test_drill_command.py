"""``hpctrain drill`` as a person types it, without a cluster."""

from __future__ import annotations

import json

import pytest

from hpctrain import api
from hpctrain.cli.main import invoke
from hpctrain.drill.catalogue import KINDS
from hpctrain.settings import Settings
from hpctrain.slurm.model import JobUpdate
from tests.unit.jobs.world import World


@pytest.fixture
def world(tmp_path, monkeypatch):
    made = World(tmp_path)
    context = api.Context(Settings(str(tmp_path)), made.slurm, made.clock)
    monkeypatch.setattr(api, "make_context", lambda **_: context)
    monkeypatch.setattr(api, "default_context", lambda: context)
    monkeypatch.setattr(api, "current_user", lambda: made.slurm.jobs()[0].user)
    monkeypatch.setenv("HPCTRAIN_STATE_DIR", str(tmp_path / "state"))
    return made


def run(capsys, *argv: str) -> tuple[int, str, str]:
    code = invoke(["drill", *argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_list_names_every_kind(world, capsys) -> None:
    """Without a job the general promises, with one those that hold for it; JSON says what is possible there."""
    code, out, _ = run(capsys, "--list")
    assert code == 0 and all(kind in out for kind in KINDS)
    world.event("job.started")
    code, out, _ = run(capsys, "--list", "latest", "-o", "json")
    kinds = {kind["name"]: kind for kind in json.loads(out)["kinds"]}
    assert code == 0 and kinds["kill-rank"]["possible"] and not kinds["kill-node"]["possible"]


@pytest.mark.parametrize("words", [
    [], ["kill-rank"], ["kill-rank", "latest", "more"], ["--random"], ["--random", "kill-rank", "latest"],
    ["kill-rank", "latest", "--count", "0"],
])
def test_wrong_words_are_usage_errors(world, capsys, words) -> None:
    """What to break and which job, or exit code 2."""
    code, _, err = run(capsys, *words)
    assert code == 2 and "Traceback" not in err


def test_a_kind_that_does_not_exist(world, capsys) -> None:
    """Exit code 4, with the kinds that exist."""
    code, _, err = run(capsys, "kill-moon", "latest", "--yes")
    assert code == 4 and "kill-rank" in err


def test_nobody_elses_job_is_broken(world, capsys, monkeypatch) -> None:
    """Exit code 8 for a job of another user, and nothing is done."""
    monkeypatch.setattr(api, "current_user", lambda: "mallory")
    code, _, err = run(capsys, "cancel", "latest", "--yes")
    assert code == 8 and "belongs to" in err
    assert world.slurm.jobs()[0].state.value == "RUNNING"


def test_a_job_that_does_not_run_is_not_broken(world, capsys) -> None:
    """Exit code 5 with the state it is in."""
    world.slurm.cancel(world.job_id)
    code, _, err = run(capsys, "kill-rank", "latest", "--yes")
    assert code == 5 and "does not run" in err and "CANCELLED" in err


def test_a_job_that_is_about_to_start_is_waited_for(world, capsys) -> None:
    """A job in the queue is broken once it trains; a rehearsal needs it running."""
    world.slurm.requeue(world.job_id)
    assert run(capsys, "cancel", "latest", "--dry-run")[0] == 5
    world.event("job.started")
    started = {"source": "agent", "node": "n1", "incarnation": 0, "ranks": [0], "pids": [1]}
    world.clock.after(20, lambda: world.event("ranks.started", **started))
    world.clock.after(20, lambda: world.slurm.update_job(world.job_id, JobUpdate(start_now=True)))
    code, out, _ = run(capsys, "cancel", "latest", "--yes")
    assert code == 0 and "verdict   kept" in out


def test_a_site_cluster_keeps_its_nodes(world, capsys) -> None:
    """Kinds that break nodes or Slurm are refused outside a private cluster."""
    code, _, err = run(capsys, "kill-node", "latest", "--yes")
    assert code == 2 and "private cluster" in err


def test_nothing_is_broken_without_a_yes(world, capsys) -> None:
    """Where nobody can be asked, --yes is needed."""
    world.event("job.started")
    code, _, err = run(capsys, "cancel", "latest")
    assert code == 2 and "--yes" in err
    assert world.slurm.jobs()[0].state.value == "RUNNING"


def test_a_rehearsal_breaks_nothing(world, capsys) -> None:
    """--dry-run says what would be done and what is promised."""
    world.event("job.started")
    code, out, err = run(capsys, "cancel", "latest", "--dry-run")
    assert code == 0 and "promised" in out and "would cancel" in err
    code, out, _ = run(capsys, "cancel", "latest", "--dry-run", "-o", "json")
    assert json.loads(out)["plan"][0]["kind"] == "cancel"
    assert world.slurm.jobs()[0].state.value == "RUNNING"


def test_a_cancelled_job_keeps_its_promise(world, capsys) -> None:
    """The whole way on a fake cluster: cause, watch, judge, record."""
    world.event("job.started")
    world.event("ranks.started", source="agent", node="n1", incarnation=0, ranks=[0], pids=[1])
    world.clock.advance(10)
    code, out, _ = run(capsys, "cancel", "latest", "--yes", "-o", "json")
    (drill,) = json.loads(out)["drills"]
    assert code == 0 and drill["kept"] and drill["kind"] == "cancel"
    from hpctrain.jobs.reader import read_events

    assert "drill.caused" in {event.kind for event in read_events(world.run.dir)}


def test_a_broken_promise_is_exit_code_1(world, capsys, monkeypatch) -> None:
    """A Slurm that does not cancel what it is told to cancel breaks the promise."""
    world.event("job.started")
    world.event("ranks.started", source="agent", node="n1", incarnation=0, ranks=[0], pids=[1])
    world.clock.advance(10)
    world.clock.after(5, lambda: world.event("job.failed", "the cat is on the keyboard"))
    monkeypatch.setattr(world.slurm, "cancel", lambda _: None)
    code, out, _ = run(capsys, "cancel", "latest", "--yes", "--patience", "30")
    assert code == 1 and "verdict   broken" in out and "the job is failed" in out


def test_a_random_series_draws_from_the_kinds_that_are_named(world, capsys) -> None:
    """--only names them; one that cannot be caused here, and one without --random, are refused."""
    world.event("job.started")
    code, out, _ = run(capsys, "--random", "--only", "cancel", "--count", "3", "latest", "--dry-run", "-o", "json")
    assert code == 0 and [one["kind"] for one in json.loads(out)["plan"]] == ["cancel"] * 3
    code, _, err = run(capsys, "--random", "--only", "kill-node", "latest", "--dry-run")
    assert code == 2 and "needs a private cluster" in err
    code, _, err = run(capsys, "cancel", "latest", "--only", "cancel")
    assert code == 2 and "--only goes with --random" in err
