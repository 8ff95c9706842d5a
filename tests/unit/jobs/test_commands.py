"""The commands as a person types them."""

from __future__ import annotations

import json
import math

import pytest

from hpctrain import api
from hpctrain.cli.main import invoke
from hpctrain.jobs.find import list_runs
from hpctrain.jobs.snapshot import look
from hpctrain.jobs.table import render
from hpctrain.jobs.text import cells
from hpctrain.settings import Settings
from hpctrain.submit import run as submission
from hpctrain.submit.run import Site
from hpctrain.testing.run_builder import RunBuilder
from tests.unit.jobs.world import World


@pytest.fixture
def world(tmp_path, monkeypatch):
    made = World(tmp_path)
    context = api.Context(Settings(str(tmp_path)), made.slurm, made.clock)
    monkeypatch.setattr(api, "make_context", lambda **_: context)
    monkeypatch.setattr(api, "default_context", lambda: context)
    return made


@pytest.fixture
def trained(world):
    """A run that restarted once and goes on."""
    world.event("job.submitted")
    world.event("job.started")
    world.builder.steps(1, 40, start=world.now)
    world.event("checkpoint.saved", step=30)
    world.clock.advance(50)
    world.event("job.requeued", "rank 1 died")
    world.event("job.started")
    world.builder.steps(31, 60, start=world.now, incarnation=1)
    world.clock.advance(31)
    world.builder.progress(60, time=world.now, total=100, loss=2.5)
    return world


def run(capsys, *argv: str) -> tuple[int, str, str]:
    code = invoke(list(argv))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_list_shows_a_row_per_run(trained, capsys):
    """The list has name, job, state, steps, loss, speed, time left."""
    code, out, _ = run(capsys, "list")
    head, row = out.splitlines()
    assert code == 0 and head.split()[:4] == ["RUN", "JOB", "STATE", "STEP"]
    assert all(word in row for word in ("tiny-1", "running", "60/100", "4.10k", "39s left"))


def test_empty_list_says_what_to_do(world, capsys, tmp_path):
    """Without runs standard output stays empty and the message names the first command."""
    world.run.dir.record.unlink()
    code, out, err = run(capsys, "list")
    assert (code, out) == (0, "") and "hpctrain submit quickstart" in err


def test_describe_in_words(trained, capsys):
    """The description has state, progress, restarts, places and next commands."""
    code, out, _ = run(capsys, "describe", "tiny")
    assert code == 0
    parts = ("It is training", "60%", "step 60/100", "Restarts     1", "n[1-2]", "hpctrain logs -f tiny-1")
    assert all(part in out for part in parts)


@pytest.mark.parametrize("command", ["list", "describe", "events", "report"])
def test_json_is_one_strict_document(trained, capsys, command):
    """-o json prints one document with a schema version, without NaN, nothing else on standard output."""
    trained.builder.steps(61, 62, start=trained.now, incarnation=1, loss=lambda _: math.nan)
    code, out, _ = run(capsys, command, *([] if command == "list" else ["latest"]), "-o", "json")
    document = json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert code == 0 and document["schema_version"] == 1 and document[document["kind"]]


def test_json_status_has_the_nan_as_a_word(trained, capsys):
    """A loss that is no number is visible to programs too."""
    trained.builder.steps(61, 62, start=trained.now, incarnation=1, loss=lambda _: math.nan)
    _, out, _ = run(capsys, "describe", "latest", "-o", "json")
    assert json.loads(out)["run"]["loss"] == "NaN"


def test_report_has_curve_numbers_and_timeline(trained, capsys):
    """The report draws the curve without colour codes in a pipe and says what restarts cost."""
    code, out, _ = run(capsys, "report", "latest")
    assert code == 0 and "\x1b" not in out and "marks a restart" in out
    assert "60 of 100" in out and "10 steps done again" in out and "rank 1 died" in out
    assert max(cells(line) for line in out.splitlines()) <= 80


def test_report_without_steps(world, capsys):
    """A run that has not trained yet has a report that says so."""
    code, out, _ = run(capsys, "report", "latest")
    assert code == 0 and "No steps are recorded yet." in out


@pytest.mark.parametrize("loss", [lambda _: math.nan, lambda _: 2.0, lambda step: 1e30 if step == 5 else 1e-30])
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_report_of_odd_losses(world, capsys, loss, steps):
    """Losses that are NaN, constant or wildly different, and runs of very few steps, are drawn or named."""
    world.builder.steps(1, steps, start=world.now, loss=loss)
    code, out, _ = run(capsys, "report", "latest")
    assert code == 0 and ("┤" in out or "No step has a finite loss" in out)


def test_logs_and_wrong_places(trained, capsys):
    """Lines are printed; a rank or node that does not exist is named with those that do."""
    trained.say("hello")
    trained.say("other", rank=1, node="n2")
    assert run(capsys, "logs", "latest")[:2] == (0, "[rank 0 n1] hello\n")
    code, _, err = run(capsys, "logs", "latest", "--rank", "7")
    assert code == 4 and "its ranks are 0 to 1" in err
    code, _, err = run(capsys, "logs", "latest", "--node", "n9")
    assert code == 4 and "n1, n2" in err


def test_rank_that_printed_nothing_is_not_called_missing(trained, capsys):
    """A rank without output exists all the same: the plan says how many there are."""
    trained.say("hello")
    trained.builder.dir.plan.write_text('{"nodes": 2, "ranks_per_node": 2}')
    code, _, err = run(capsys, "logs", "latest", "--rank", "3")
    assert code == 0 and "Rank 3 has printed nothing" in err
    assert run(capsys, "logs", "latest", "--rank", "4")[0] == 4


@pytest.mark.parametrize("wrong", [["--all", "--rank", "1"], ["--since", "yesterday"], ["--tail", "x"], ["--rank", "-1"]])
def test_wrong_log_options_are_usage_errors(trained, capsys, wrong):
    """Impossible options are refused with exit code 2 and without a traceback."""
    code, _, err = run(capsys, "logs", "latest", *wrong)
    assert code == 2 and "Error" in err and "Traceback" not in err


@pytest.mark.parametrize("argv", [["logs", "-f"], ["events", "-f"]])
def test_ctrl_c_while_following(trained, capsys, argv):
    """Ctrl-C while following exits with 130 and says that the job goes on."""
    def interrupt() -> None:
        raise KeyboardInterrupt

    trained.clock.after(5, interrupt)
    code, _, err = run(capsys, *argv, "latest")
    assert code == 130 and "job 1 goes on" in err and "error" not in err


def test_events_by_kind(trained, capsys):
    """--kind keeps only what is asked for."""
    _, out, _ = run(capsys, "events", "latest", "--kind", "checkpoint")
    assert "checkpoint saved at step 30" in out and "job" not in out


def test_cancel_looks_everything_up_first(trained, capsys):
    """A misspelt name among several cancels nothing; the right names cancel, twice is safe."""
    code, _, err = run(capsys, "cancel", "latest", "tyni-1")
    assert code == 4 and "did you mean tiny-1" in err and "cancel" not in trained.slurm.calls
    code, out, _ = run(capsys, "cancel", "latest", "tiny-1")
    assert code == 0 and out.count("cancelled tiny-1") == 1
    code, out, _ = run(capsys, "cancel", "1")
    assert code == 0 and "has already ended" in out


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_table_fits_the_terminal(tmp_path, world, width):
    """The table never is wider than the terminal, with huge numbers, long and wide names; wider ones show more."""
    RunBuilder(tmp_path, "llama-" + "x" * 60, job_id=12345678).steps(10**7, 10**7 + 2, start=0).progress(
        10**7, time=world.now, total=10**8)
    RunBuilder(tmp_path, "日本語-モデル", job_id=3)
    statuses = look(list_runs(tmp_path), world.slurm, world.clock)
    lines = render(statuses, world.now, width=width, colour=False).splitlines()
    assert max(cells(line) for line in lines) <= width
    starts = {cells(line[: line.index(word)]) for line in lines for word in ("STATE", "unknown") if word in line}
    assert len(starts) == 1
    assert ("RESTARTS" in lines[0]) is (width >= 200)


@pytest.mark.parametrize("options", [["--follow"], ["--wait"], ["--follow", "--wait"]])
@pytest.mark.parametrize(("status", "expected"), [(0, 0), (3, 10)])
def test_submit_exits_with_what_became_of_the_job(world, tmp_path, monkeypatch, capsys, options, status, expected):
    """With --follow as with --wait, a job that fails makes submit exit with 10, and one that succeeds with 0."""
    site = Site(world.slurm, world.clock, "/venv/bin/python", "alice", "login1", one_host=True)
    monkeypatch.setattr(submission, "connect_site", lambda *_, **__: site)
    monkeypatch.setenv("HPCTRAIN_RUNS_DIR", str(tmp_path / "runs"))
    (tmp_path / "recipe.yaml").write_text("version: 1\nname: mine\ncommand: [sh, -c, 'true']\nresources: {nodes: 1}\n")
    world.clock.after(5, lambda: world.slurm.finish(world.slurm.jobs()[-1].job_id, status))
    code, out, err = run(capsys, "submit", str(tmp_path / "recipe.yaml"), *options)
    assert code == expected, err
    assert out.startswith("mine-")


def test_following_the_logs_of_a_failed_job_is_no_failure(world, capsys):
    """'logs -f' only shows: it exits with 0 whatever became of the job."""
    world.clock.after(5, lambda: world.slurm.finish(world.job_id, 3))
    assert run(capsys, "logs", "-f", "latest")[0] == 0


def test_report_writes_a_page(trained, capsys, tmp_path):
    """--html writes one private file and says where; '-' prints it; JSON and '-' exclude each other."""
    page = tmp_path / "report.html"
    code, out, err = run(capsys, "report", "latest", "--html", str(page))
    assert (code, out) == (0, "") and str(page) in err
    assert page.read_text().startswith("<!DOCTYPE html>") and page.stat().st_mode & 0o077 == 0
    assert json.loads(run(capsys, "report", "latest", "--html", str(page), "-o", "json")[1])["page"]["path"] == str(page)
    assert "<svg" in run(capsys, "report", "latest", "--html", "-")[1]
    assert run(capsys, "report", "latest", "--html", "-", "-o", "json")[0] == 2


def test_report_of_a_file_that_cannot_be_written(trained, capsys, tmp_path):
    """A page in a folder that does not exist is one clear error."""
    code, _, err = run(capsys, "report", "latest", "--html", str(tmp_path / "no" / "such" / "r.html"))
    assert code == 9 and "Traceback" not in err


def test_report_says_what_failures_cost(trained, capsys):
    """Goodput, where the time went, and each failure with its phases stand in the report."""
    code, out, _ = run(capsys, "report", "latest")
    assert code == 0 and "Goodput" in out and "Spent" in out and "Failures" in out
    assert max(cells(line) for line in out.splitlines()) <= 80
