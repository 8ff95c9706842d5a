"""Submit a recipe: resolve, plan, write the run directory, hand the script to Slurm (service).

A run exists from the moment Slurm has returned a job id and not before. Whatever goes wrong earlier, also Ctrl-C, takes
the directory away again, and cancels a job that Slurm had accepted without our seeing its answer.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Any

import hpctrain
from hpctrain import resources
from hpctrain.agent.memory import complete_record, draft_path
from hpctrain.clock import Clock
from hpctrain.data.check import check_before_submission
from hpctrain.errors import ControllerDownError, HpctrainError, SlurmError
from hpctrain.files import make_private_dir, storage_errors, write_atomic, write_json_atomic
from hpctrain.ids import JobId
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.lineage_write import submission_record
from hpctrain.jobs.writer import EventWriter
from hpctrain.recipe.check_endpoint import endpoints_of
from hpctrain.recipe.facts import ClusterFacts
from hpctrain.recipe.resolve import Resolved, dump_resolved, resolve
from hpctrain.settings import Settings
from hpctrain.slurm.model import Submission
from hpctrain.slurm.port import Slurm
from hpctrain.submit.facts import cluster_facts
from hpctrain.submit.hub_probe import ask_hub, hub_names
from hpctrain.submit.plan import Place, job_comment, make_plan
from hpctrain.submit.plan_model import Plan
from hpctrain.submit.render import TEMPLATE, output_pattern, render

PACKAGE_DIR = str(Path(hpctrain.__file__).parent)


@dataclass(frozen=True, slots=True)
class Site:
    """Where a submission goes and who makes it; all that is read from the process's surroundings.

    Attributes:
        slurm: None where there is no Slurm: enough for a dry run.
        one_host: all nodes of the cluster are this machine.
        slurm_conf: ``SLURM_CONF`` of that cluster, "" for the site's default.
        python: absolute path of the interpreter for coordinator, agents and ranks.
        command_line: what the user typed, for the record.
        status_dir: the site's spool for a watchdog of the whole cluster, "" for none.
    """

    slurm: Slurm | None
    clock: Clock
    python: str
    user: str
    host: str
    one_host: bool = False
    slurm_conf: str = ""
    command_line: tuple[str, ...] = ()
    status_dir: str = ""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A recipe that passed every check, and what would be submitted.

    Attributes:
        facts: None where the cluster was not asked.
        plan: with the name that the run would get now; the real one is claimed by :func:`submit`.
        script: the batch script.
    """

    resolved: Resolved
    facts: ClusterFacts | None
    plan: Plan
    script: str

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about choices the user did not make."""
        return tuple(dict.fromkeys((*self.resolved.notes, *self.plan.notes)))


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job that Slurm has accepted."""

    job_id: JobId
    run_name: str
    run_dir: RunDir
    prepared: Prepared
    submitted_time: float
    cluster: str


def prepare(argument: str, sets: Sequence[str], settings: Settings, site: Site) -> Prepared:
    """Everything up to the script; writes nothing.

    Args:
        argument: a recipe file or the name of a shipped recipe.
        sets: ``--set`` arguments.

    Raises:
        RecipeError, NotFoundError: the recipe, or a row of its data, is wrong or missing.
        ControllerDownError: the cluster cannot be asked what it has.
    """
    facts = cluster_facts(site.slurm) if site.slurm is not None else None
    resolved = resolve(argument, sets, settings, facts=facts)
    resolved = replace(resolved, notes=(*resolved.notes, *check_before_submission(resolved.recipe)))
    stem = f"{resolved.recipe.name}-{compact_stamp(site.clock.time())}"
    runs_dir = Path(settings.runs_dir)
    name = next(name for name in run_names(stem) if not (runs_dir / name).exists())
    return _planned(resolved, facts, runs_dir / name, site)


def submit(
    prepared: Prepared, settings: Settings, site: Site, *, argument: str, sets: Sequence[str] = (),
    files: Mapping[str, str] = MappingProxyType({}), after: JobId | None = None,
) -> Submitted:
    """Make the run directory and submit its script.

    Args:
        argument, sets: what the user typed, for the record.
        files: name to text of more files for the run directory.
        after: a job that has to begin before this one may.

    Raises:
        SlurmError: Slurm refused or does not answer; nothing that looks like a run is left.
        EndpointError: a judge or teacher does not answer; likewise.
        NotFoundError: the hub has no such model or data set, or cannot be reached by the job; likewise.
        StorageError: the run directory cannot be written; likewise.
        KeyboardInterrupt: passed on after everything was undone.
    """
    slurm = _require(site)
    prepared = _with_others_asked(prepared, site)
    run_dir = _claim(Path(settings.runs_dir), prepared.plan.run_name)
    job_id: JobId | None = None
    asked = False
    try:
        final = prepared
        if run_dir.name != prepared.plan.run_name or after is not None:
            final = _planned(prepared.resolved, prepared.facts, run_dir.path, site, after=after)
        draft = _draft(final, site, argument, sets)
        _write_files(run_dir, final, draft, site.clock.time())
        for name, text in files.items():
            write_atomic(run_dir.path / name, text, durable=False)
        asked = True
        job_id = slurm.submit(Submission(script=final.script, work_dir=str(run_dir.path)))
        now = site.clock.time()
        events = EventWriter(run_dir, "submit", site.host, site.clock, job_id)
        events.write("job.submitted", f"job {job_id} on cluster {draft['cluster']}", evidence={"run_name": run_dir.name})
        write_json_atomic(run_dir.record, complete_record(draft, job_id, now))
    except BaseException as error:
        with undisturbed():
            refused = isinstance(error, SlurmError) and not isinstance(error, ControllerDownError)
            advice = undo(run_dir, site, job_id, asked=asked and not refused)
        add_advice(error, advice)
        raise
    return Submitted(job_id, run_dir.name, run_dir, final, now, str(draft["cluster"]))


def add_advice(error: BaseException, advice: str) -> None:
    """What the user must still do, behind what the error says already."""
    if advice and isinstance(error, HpctrainError):
        error.advice = f"{error.advice}; {advice}" if error.advice else advice


def with_notes(prepared: Prepared, *notes: str) -> Prepared:
    """The same with more sentences for the user."""
    resolved = prepared.resolved
    return replace(prepared, resolved=replace(resolved, notes=(*resolved.notes, *notes)))


def _with_others_asked(prepared: Prepared, site: Site) -> Prepared:
    """Ask the judge or teacher of a recipe one question, and the hub for what it must load, before anything is queued.

    What they said becomes notes.
    """
    resolved = prepared.resolved
    told: list[str] = []
    if any(True for _ in hub_names(resolved.recipe)):
        told += ask_hub(resolved.recipe, resolved.origins, one_host=site.one_host)
    if endpoints_of(resolved.recipe):
        from hpctrain.endpoint.probe import probe_at_submission  # HTTP and TLS, which other recipes do without

        told += probe_at_submission(resolved.recipe, one_host=site.one_host)
    return with_notes(prepared, *told)


def run_names(stem: str) -> Iterator[str]:
    """Names to try: the stem, then with -2, -3, ..."""
    yield stem
    number = 2
    while True:
        yield f"{stem}-{number}"
        number += 1


def compact_stamp(time_s: float) -> str:
    """The time in a run's name: ``20260131-235959``, UTC."""
    return datetime.fromtimestamp(time_s, timezone.utc).strftime("%Y%m%d-%H%M%S")


def _planned(
    resolved: Resolved, facts: ClusterFacts | None, run_dir: Path, site: Site, *, after: JobId | None = None,
) -> Prepared:
    output_pattern(str(run_dir))
    place = Place(run_dir.name, str(run_dir), site.python, site.one_host, site.status_dir)
    plan = make_plan(resolved.recipe, facts, place)
    if after is not None:
        plan = replace(plan, slurm=replace(plan.slurm, after=int(after)))
    return Prepared(resolved, facts, plan, render(plan, batch_template(), package_dir=PACKAGE_DIR))


def batch_template() -> str:
    """Text of the shipped template of batch scripts."""
    return resources.shipped_file(resources.SLURM_SCRIPTS, TEMPLATE).read_text(encoding="utf-8")


def _require(site: Site) -> Slurm:
    if site.slurm is None:
        raise SlurmError("there is no Slurm to submit to")
    return site.slurm


def _claim(runs_dir: Path, wanted: str) -> RunDir:
    """Make a directory that nobody else has, starting with the wanted name."""
    with storage_errors(runs_dir):
        runs_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in run_names(wanted):
        with contextlib.suppress(FileExistsError):
            return RunDir(make_private_dir(runs_dir / name, exist_ok=False))
    raise AssertionError("unreachable")


def _draft(prepared: Prepared, site: Site, argument: str, sets: Sequence[str]) -> dict[str, Any]:
    """``run.json`` without the job's id."""
    return {
        "run_name": prepared.plan.run_name, "job_name": prepared.plan.slurm.job_name, "recipe": argument,
        "recipe_file": str(prepared.resolved.source), "sets": list(sets), "user": site.user, "host": site.host,
        "cluster": prepared.facts.name if prepared.facts else "", "slurm_conf": site.slurm_conf, "python": site.python,
        "hpctrain_version": hpctrain.__version__, "command_line": list(site.command_line),
    }


def _write_files(run_dir: RunDir, prepared: Prepared, draft: dict[str, Any], time_s: float) -> None:
    """All files but run.json. Not forced to disk one by one: without run.json they mean nothing."""
    recipe_json = prepared.resolved.recipe.model_dump(mode="json")
    for directory in (run_dir.logs, run_dir.events, run_dir.control):
        make_private_dir(directory)
    for path, text in (
        (run_dir.recipe, prepared.resolved.text), (run_dir.resolved, dump_resolved(prepared.resolved)),
        (run_dir.path / "recipe.resolved.json", json.dumps(recipe_json, indent=2) + "\n"),
        (run_dir.script, prepared.script),
    ):
        write_atomic(path, text, durable=False)
    plan = prepared.plan.to_json()
    write_json_atomic(run_dir.plan, plan, durable=False)
    lineage = submission_record(
        run_dir, values=recipe_json, plan=plan, cluster=str(draft["cluster"]), source=str(prepared.resolved.source),
        sets=list(draft["sets"]), time_s=time_s,
    )
    write_json_atomic(run_dir.lineage, lineage, durable=False)
    write_json_atomic(draft_path(run_dir), draft, durable=False)


def undo(run_dir: RunDir, site: Site, job_id: JobId | None, *, asked: bool = True) -> str:
    """Cancel the job if there may be one, then remove the directory; returns what the user must still do, or "".

    Args:
        asked: Slurm was asked for the job, and has not refused it.
    """
    advice = _cancel(run_dir, site, job_id) if asked else ""
    shutil.rmtree(run_dir.path, ignore_errors=True)
    if run_dir.path.exists():
        advice = f"{advice}; {run_dir.path} could not be removed".removeprefix("; ")
    return advice


def _cancel(run_dir: RunDir, site: Site, job_id: JobId | None) -> str:
    """Cancel the job; one whose id we never saw is found by its comment and working directory, which are its own."""
    slurm = _require(site)
    try:
        if job_id is not None:
            slurm.cancel(job_id)
            return ""
        for _ in range(2):
            mine = [job for job in slurm.jobs() if _is_ours(job.comment, job.work_dir, run_dir) and not job.state.finished]
            for job in mine:
                slurm.cancel(job.job_id)
            if mine:
                return ""
            site.clock.sleep(0.5)  # what sbatch had already sent may still be on its way
    except SlurmError:
        which = f"job {job_id}" if job_id is not None else f"a job named {run_dir.name}"
        return f"Slurm did not answer: see with 'squeue --me' whether {which} is there, and cancel it with scancel"
    return ""


def _is_ours(comment: str, work_dir: str, run_dir: RunDir) -> bool:
    return comment == job_comment(run_dir.name) and work_dir == str(run_dir.path)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Further Ctrl-C do not interrupt the undoing (signals can be set in the main thread only)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def connect_site(
    settings: Settings, clock: Clock, *, python: str, user: str, host: str, command_line: Sequence[str] = (),
    announce: Callable[[str], None] | None = None,
) -> Site:
    """The site that this process's settings and environment lead to.

    Raises:
        SlurmMissingError: there is no Slurm.
    """
    from hpctrain.slurm.connect import choose, connect
    from hpctrain.watchdog.config import parse

    choice = choose(settings, lasting=True)
    slurm = connect(settings, clock=clock, announce=announce)
    site = Site(None, clock, python, user, host, command_line=tuple(command_line))
    status_dir = parse(settings.watchdog, where="config.toml").spool_dir
    return replace(
        site, slurm=slurm, one_host=choice.kind == "private", slurm_conf=choice.slurm_conf, status_dir=status_dir,
    )
