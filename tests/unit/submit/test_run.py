"""A run exists once Slurm has returned an id, and whatever goes wrong before leaves nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hpctrain.errors import ControllerDownError, EndpointError, RecipeError, SlurmError, StorageError
from hpctrain.ids import JobId
from hpctrain.jobs.find import list_runs, read_run
from hpctrain.jobs.reader import read_events
from hpctrain.recipe.schema import Recipe
from hpctrain.settings import Settings
from hpctrain.slurm.model import JobState, Submission
from hpctrain.submit import run as service
from hpctrain.submit.plan_model import Plan
from hpctrain.submit.run import Prepared, Site, Submitted
from hpctrain.testing.fake_clock import FakeClock
from hpctrain.testing.fake_slurm import FakeSlurm
from hpctrain.testing.openai_scripted import SCRIPTS
from hpctrain.testing.openai_server import OpenAiServer
from tests.unit.submit.builders import write_recipe


class World:
    """A recipe, a fake Slurm, and a place for runs."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.slurm = FakeSlurm(clock=self.clock)
        self.runs = folder / "runs"
        self.settings = Settings(runs_dir=str(self.runs))
        self.recipe = str(write_recipe(folder / "recipe dir" / "demo.yaml"))
        self.site = Site(
            self.slurm, self.clock, "/venv/bin/python", "alice", "login1", one_host=True,
            command_line=("hpctrain", "submit"),
        )

    def prepare(self) -> Prepared:
        return service.prepare(self.recipe, [], self.settings, self.site)

    def submit(self) -> Submitted:
        return service.submit(self.prepare(), self.settings, self.site, argument=self.recipe)

    def left(self) -> list[str]:
        """Whatever lies in the runs directory, hidden files too."""
        return [path.name for path in self.runs.iterdir()] if self.runs.exists() else []

    def jobs(self) -> list[JobState]:
        return [job.state for job in self.slurm.jobs()]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_run_directory_holds_everything_that_is_needed(world: World) -> None:
    """Recipe, resolved recipe in two forms, plan, script and record are there, all private, and agree with each other."""
    made = world.submit()
    run_dir = made.run_dir
    assert run_dir.name == "demo-20270115-080000"
    assert run_dir.recipe.read_text() == Path(world.recipe).read_text()
    resolved = json.loads((run_dir.path / "recipe.resolved.json").read_text())
    assert Recipe.model_validate(resolved).workdir == str(Path(world.recipe).parent)
    plan = Plan.from_json(json.loads(run_dir.plan.read_text()))
    assert (plan.run_dir, plan.run_name, plan.world_size) == (str(run_dir.path), run_dir.name, 4)
    assert world.slurm.submission(made.job_id) == Submission(run_dir.script.read_text(), str(run_dir.path))
    record = json.loads(run_dir.record.read_text())
    expected = {"job_id": made.job_id, "run_name": run_dir.name, "recipe": world.recipe, "cluster": "fake", "user": "alice"}
    assert expected.items() <= record.items()
    assert [event.kind for event in read_events(run_dir)] == ["job.submitted"]
    assert run_dir.path.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o077 for path in run_dir.path.rglob("*")} == {0}


def test_others_find_the_run(world: World) -> None:
    """The record is what the other commands look for."""
    made = world.submit()
    found = read_run(made.run_dir.path)
    assert found is not None
    assert (found.job_id, found.cluster, found.submitted_time) == (made.job_id, "fake", world.clock.now)


def test_two_runs_in_one_second_get_two_names(world: World) -> None:
    """A collision of names is counted up, and script, plan and job name all carry the name that was claimed."""
    prepared = world.prepare()
    first = service.submit(prepared, world.settings, world.site, argument=world.recipe)
    second = service.submit(prepared, world.settings, world.site, argument=world.recipe)
    assert (first.run_name, second.run_name) == ("demo-20270115-080000", "demo-20270115-080000-2")
    assert second.run_name in second.run_dir.script.read_text()
    assert [job.name for job in world.slurm.jobs()] == [first.run_name, second.run_name]


def test_preparing_changes_nothing(world: World) -> None:
    """A dry run writes no file and queues no job."""
    assert "hpctrain.agent coordinate" in world.prepare().script
    assert world.left() == []
    assert world.jobs() == []


def test_preparing_works_without_slurm(world: World) -> None:
    """Where there is no Slurm the script can still be looked at."""
    world.site = replace(world.site, slurm=None)
    assert world.prepare().facts is None


def test_wrong_partition_is_refused_before_anything_is_made(world: World) -> None:
    """What the cluster does not have is an error of the recipe, with the place in the file."""
    with pytest.raises(RecipeError, match="nope"):
        service.prepare(world.recipe, ["resources.partition=nope"], world.settings, world.site)
    assert world.left() == []


class Broken(FakeSlurm):
    """A Slurm whose submission goes wrong, before or after the job was queued."""

    def __init__(self, clock: FakeClock, error: Callable[[], BaseException], *, queued: bool) -> None:
        super().__init__(clock=clock)
        self.error, self.queued = error, queued

    def submit(self, submission: Submission) -> JobId:
        if self.queued:
            super().submit(submission)
        raise self.error()


@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize("error", [
    lambda: SlurmError("refused"), lambda: ControllerDownError("no answer"), KeyboardInterrupt, MemoryError,
])
def test_failed_submission_leaves_neither_directory_nor_job(
    world: World, error: Callable[[], BaseException], queued: bool
) -> None:
    """Refused, unanswered or interrupted: no directory stays, and a job that was queued all the same is cancelled."""
    world.slurm = Broken(world.clock, error, queued=queued)
    world.site = replace(world.site, slurm=world.slurm)
    with pytest.raises(type(error())):
        world.submit()
    assert world.left() == []
    if queued and type(error()) is not SlurmError:
        assert world.jobs() == [JobState.CANCELLED]


def test_other_jobs_are_not_cancelled_with_it(world: World) -> None:
    """Cleaning up after a lost answer touches only the job of this run."""
    kept = world.submit()
    world.slurm.__class__ = Broken
    world.slurm.error, world.slurm.queued = KeyboardInterrupt, True  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        world.submit()
    states = {job.job_id: job.state for job in world.slurm.jobs()}
    assert states.pop(kept.job_id) is JobState.RUNNING
    assert list(states.values()) == [JobState.CANCELLED]
    assert world.left() == [kept.run_name]


def test_silent_controller_after_an_interrupt_is_said(world: World) -> None:
    """When it cannot be found out whether the job was queued, the error says how to look."""
    class Silent(Broken):
        def jobs(self, *_: object, **__: object) -> list[object]:  # type: ignore[override]
            raise ControllerDownError("no answer")

    world.slurm = Silent(world.clock, lambda: ControllerDownError("no answer"), queued=True)
    world.site = replace(world.site, slurm=world.slurm)
    with pytest.raises(ControllerDownError) as caught:
        world.submit()
    assert "squeue --me" in caught.value.advice
    assert world.left() == []


@pytest.mark.parametrize("point", ["recipe.resolved.json", "plan.json", "run.draft.json", "submit-login1.jsonl", "run.json"])
def test_full_disk_at_any_file_leaves_nothing(world: World, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever file no longer fits: one StorageError, no directory, and no job that goes on."""
    real_write, real_append = service.write_atomic, service.EventWriter.write
    hit = []

    def fails(path: Path) -> None:
        if path.name == point:
            hit.append(point)
            raise StorageError("cannot write: No space left on device", where=str(path))

    def write(path: Path, data: str, **options: bool) -> None:
        fails(path)
        real_write(path, data, **options)  # type: ignore[arg-type]

    def append(self: service.EventWriter, *arguments: object, **options: object) -> object:
        fails(self.path)
        return real_append(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(service, "write_atomic", write)
    as_json = lambda path, value, **options: write(path, json.dumps(value), **options)  # noqa: E731 - shorter than a def
    monkeypatch.setattr(service, "write_json_atomic", as_json)
    monkeypatch.setattr(service.EventWriter, "write", append)
    with pytest.raises(StorageError, match="No space left"):
        world.submit()
    assert hit == [point]
    assert world.left() == []
    assert set(world.jobs()) <= {JobState.CANCELLED}
    assert list_runs(world.runs) == []


def test_unwritable_runs_directory_is_one_error(world: World) -> None:
    """A runs directory that cannot be made is a storage error that names it."""
    world.runs.write_text("a file")
    with pytest.raises(StorageError, match="runs"):
        service.submit(world.prepare(), world.settings, world.site, argument=world.recipe)
    assert world.jobs() == []


def test_a_judge_that_does_not_answer_is_known_before_anything_is_queued(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a job nor a directory is left; where the judge answers the job is queued, and a note says so."""
    monkeypatch.setenv("JUDGE_KEY", "secret")
    recipe = Path(world.recipe)
    base = recipe.read_text()

    def judged(url: str) -> None:
        recipe.write_text(f"{base}judge: {{url: '{url}', model: local, api_key_env: JUDGE_KEY, retries: 0}}\n"
                          "evaluate: {suites: [{kind: judge}]}\n")

    judged("http://127.0.0.1:9/v1")
    with pytest.raises(EndpointError, match="nothing listens"):
        world.submit()
    assert ([], []) == (world.left(), world.jobs())

    with OpenAiServer(lambda question: SCRIPTS["judge"](question.messages), key="secret") as server:
        judged(server.url)
        made = world.submit()
    assert any("the judge local at" in note for note in made.prepared.notes)
    assert 1 == len(world.jobs())
