"""``list --all --since``, ``report`` and ``usage`` with a database, without one, and while it is down."""

from __future__ import annotations

import json
import shutil

import pytest

from hpctrain import api
from hpctrain.cli.main import invoke
from hpctrain.settings import Settings
from hpctrain.slurm.model import JobState, Submission
from hpctrain.testing.run_builder import RunBuilder
from tests.unit.jobs.world import World


@pytest.fixture
def world(tmp_path, monkeypatch):
    made = World(tmp_path)
    context = api.Context(Settings(str(tmp_path)), made.slurm, made.clock)
    monkeypatch.setattr(api, "make_context", lambda **_: context)
    monkeypatch.setattr(api, "current_user", lambda: "alice")
    return made


@pytest.fixture
def requeued(world):
    """A run that trained for 600 s, was requeued, trained for 600 s more and ended; the controller has forgotten it."""
    world.event("job.started")
    world.builder.steps(1, 500, start=world.now + 100)
    world.clock.advance(600)
    world.slurm.requeue(world.job_id)
    world.event("job.requeued", "preempted")
    world.clock.advance(122)
    world.slurm.jobs()
    world.event("job.started")
    world.builder.steps(501, 1000, start=world.now + 100, incarnation=1)
    world.clock.advance(600)
    return world


def end(world, code: int = 0, *, event: str = "job.finished") -> None:
    world.slurm.finish(world.job_id, code)
    if event:
        world.event(event)
    world.clock.advance(3600)
    assert world.slurm.jobs() == []


def run(capsys, *argv: str) -> tuple[int, str, str]:
    code = invoke(list(argv))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def usage(capsys, *argv: str) -> tuple[dict, str]:
    code, out, err = run(capsys, "usage", *argv, "-o", "json")
    assert code == 0
    return json.loads(out)["usage"], err


def test_requeued_run_is_one_job_with_its_goodput(requeued, capsys):
    """Both attempts' hours are there once, and the run directory says what became of them."""
    end(requeued)
    found, err = usage(capsys)
    (row,) = found["rows"]
    assert (row["key"], row["jobs"], row["attempts"], row["requeues"]) == ("tiny-1", 1, 2, 1)
    assert row["node_hours"] == pytest.approx(2 * 1200 / 3600, rel=0.01)
    assert row["gpu_hours"] == pytest.approx(16 * 1200 / 3600, rel=0.01)
    assert 0.7 < row["goodput"] < 0.9
    assert (found["source"], found["notes"], err) == ("accounting", [], "")
    assert row["outcomes"] == {"COMPLETED": 1, "REQUEUED": 1}


def test_usage_without_accounting_is_made_of_run_directories(requeued, capsys):
    """The same run, its attempts and node-hours; one sentence says what is missing, and why."""
    end(requeued)
    requeued.slurm.keeps_accounts = False
    found, err = usage(capsys)
    (row,) = found["rows"]
    assert (row["jobs"], row["attempts"], row["requeues"], found["source"]) == (1, 2, 1, "records")
    assert row["node_hours"] == pytest.approx(2 * 1200 / 3600, rel=0.01)
    assert row["goodput"] is not None
    assert err.startswith("this cluster keeps no accounting (it has no slurmdbd)\n")
    assert "CPU-hours are not known" in err


def test_run_of_another_cluster_with_the_same_number_is_a_run_of_its_own(requeued, capsys, tmp_path):
    """Numbers start again on a new cluster: sizes, names and hours are not mixed up."""
    end(requeued)
    other = RunBuilder(tmp_path, "other-1", job_id=requeued.job_id, submitted=requeued.now - 1800, cluster="else", nodes=7)
    other.event(requeued.now - 1800, "coordinator", "job.started").event(requeued.now, "coordinator", "job.finished")
    requeued.slurm.keeps_accounts = False
    rows = {row["key"]: row for row in usage(capsys)[0]["rows"]}
    assert rows["other-1"]["node_hours"] == pytest.approx(7 * 0.5)
    assert rows["tiny-1"]["node_hours"] == pytest.approx(2 * 1200 / 3600, rel=0.01)
    requeued.slurm.keeps_accounts = True
    assert [row["key"] for row in usage(capsys)[0]["rows"]] == ["tiny-1"]


def test_usage_while_the_database_is_down_and_when_it_is_back(requeued, capsys):
    """The controller still knows the job; afterwards everything is on record."""
    requeued.slurm.database_up = False
    found, err = usage(capsys)
    assert (found["source"], found["rows"][0]["jobs"], found["rows"][0]["attempts"]) == ("records", 1, 2)
    assert "accounting database does not answer" in err
    end(requeued)
    requeued.slurm.database_up = True
    found, err = usage(capsys)
    assert (found["source"], found["rows"][0]["outcomes"]) == ("accounting", {"COMPLETED": 1, "REQUEUED": 1})
    assert err == ""


def test_usage_of_everybody_has_what_was_nobodys(world, capsys, tmp_path):
    """With all users and no filter the nodes' capacity is known; rows are users."""
    world.slurm.user = "bob"
    world.slurm.submit(Submission("#!/bin/bash\n#SBATCH --job-name=his\n#SBATCH --account=research", str(tmp_path)))
    world.slurm.user = "alice"
    world.clock.advance(3600)
    found, _ = usage(capsys, "--all-users", "--since", "2h")
    assert {row["key"] for row in found["rows"]} == {"alice", "bob"}
    assert found["capacity"]["gpu_hours"] == 4 * 8 * 2
    mine, _ = usage(capsys, "--since", "2h")
    assert (mine["total"]["jobs"], mine["capacity"]) == (1, None)
    assert usage(capsys, "--account", "research")[0]["rows"][0]["key"] == "bob"
    code, out, _ = run(capsys, "usage", "--all-users", "--by", "state")
    assert code == 0
    assert out.splitlines()[1].split()[0] == "RUNNING"
    assert "were nobody's" in out


@pytest.mark.parametrize(
    "argv", [("--since", "yesterday-ish"), ("--since", "1h", "--until", "2h"), ("--since", "2999-01-01"), ("--by", "colour")]
)
def test_usage_refuses_nonsense(world, capsys, argv):
    """A wrong time or key is a mistake of the command line."""
    code, out, _ = run(capsys, "usage", *argv)
    assert (code, out) == (2, "")


def test_nothing_in_the_window_is_said(world, capsys):
    """Standard output stays empty."""
    world.clock.advance(40 * 86400)
    world.slurm.finish(world.job_id)
    world.clock.advance(40 * 86400)
    assert run(capsys, "usage", "--since", "1h")[:2] == (0, "")


@pytest.mark.parametrize(("code", "state"), [(0, "finished"), (3, "failed")])
def test_list_all_knows_how_forgotten_jobs_ended(requeued, capsys, code, state):
    """The controller has forgotten the job and the run has recorded no end: the accounts know it."""
    end(requeued, code, event="")
    plain = json.loads(run(capsys, "list", "-o", "json")[1])["runs"]
    assert plain[0]["state"] == "unknown"
    known = json.loads(run(capsys, "list", "--all", "-o", "json")[1])["runs"]
    assert (known[0]["state"], known[0]["restarts"], known[0]["final"]) == (state, 1, True)


def test_list_since_leaves_older_runs_out(world, capsys, tmp_path):
    """Runs that ended before are not shown; those that still run are."""
    old = RunBuilder(tmp_path, "old-1", job_id=99, submitted=world.now - 90 * 86400)
    old.event(world.now - 89 * 86400, "coordinator", "job.finished")
    names = [run_["name"] for run_ in json.loads(run(capsys, "list", "--since", "7d", "-o", "json")[1])["runs"]]
    assert names == ["tiny-1"]


def test_list_says_that_there_is_no_accounting(world, capsys):
    """Once, on standard error, and shows what there is."""
    world.slurm.keeps_accounts = False
    code, out, err = run(capsys, "list", "--all", "--since", "1d")
    assert code == 0
    assert "tiny-1" in out
    assert err.count("keeps no accounting") == 1
    assert "accounting" not in run(capsys, "list")[2]


def test_list_has_runs_whose_directory_is_gone(world, capsys, tmp_path):
    """Their jobs' comments are on record."""
    script = "#!/bin/bash\n#SBATCH --job-name=lost\n#SBATCH --comment=hpctrain:lost-1\n"
    (tmp_path / "lost-1").mkdir()
    job = world.slurm.submit(Submission(script, str(tmp_path / "lost-1")))
    world.slurm.finish(job, state=JobState.TIMEOUT)
    shutil.rmtree(tmp_path / "lost-1")
    world.clock.advance(3600)
    found = {one["name"]: one for one in json.loads(run(capsys, "list", "--all", "-o", "json")[1])["runs"]}
    lost = found["lost-1"]
    assert (lost["state"], lost["slurm_state"], lost["run_dir"]) == ("failed", "TIMEOUT", "")


def test_report_lists_the_attempts(requeued, capsys):
    """Each start with what became of it, and the hours."""
    end(requeued, event="")
    code, out, err = run(capsys, "report", "tiny-1")
    assert (code, err) == (0, "")
    assert "Accounts  2 attempts, 5.33 GPU-hours" in out
    assert "1. REQUEUED after 10m on 2 nodes" in out
    assert "2. COMPLETED after 10m on 2 nodes" in out
    told = json.loads(run(capsys, "report", "tiny-1", "-o", "json")[1])["report"]
    assert [one["outcome"] for one in told["accounting"]["attempts"]] == ["REQUEUED", "COMPLETED"]
    assert told["status"]["state"] == "finished"


def test_report_without_accounting_says_so(requeued, capsys):
    """One sentence; the report is made of the run's records."""
    requeued.slurm.database_up = False
    code, out, err = run(capsys, "report", "tiny-1", "-o", "json")
    assert code == 0
    assert json.loads(out)["report"]["accounting"] is None
    assert "accounting database does not answer" in err


def test_attempt_whose_successor_lies_after_the_window_was_no_end(requeued, capsys):
    """What followed is asked for, too, and not counted."""
    end(requeued)
    found, _ = usage(capsys, "--since", "3h", "--until", str_of(requeued.now - 3600 - 730))
    (row,) = found["rows"]
    assert (row["attempts"], row["requeues"]) == (1, 1)
    assert row["outcomes"] == {"REQUEUED": 1}


def str_of(moment: float) -> str:
    """An ISO time with its zone."""
    from datetime import datetime, timezone

    return datetime.fromtimestamp(moment, timezone.utc).isoformat()
