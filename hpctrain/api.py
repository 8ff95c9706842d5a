"""hpctrain from Python: submit, watch, wait, read (entry point).

::

    import hpctrain

    job = hpctrain.submit("recipe.yaml", overrides={"training.steps": 200})
    status = job.wait()                      # a JobStatus; JobFailedError is left to you: see Job.wait
    for line in job.logs(tail=20):
        print(line.prefix, line.text)
    print(status.state.value, status.loss, [event.kind for event in job.events()])

Importing this module is light: Slurm, pydantic and the rest are imported by the call that needs them. All errors are
:class:`hpctrain.errors.HpctrainError`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpctrain.clock import Clock
    from hpctrain.errors import HpctrainError
    from hpctrain.jobs.event import Event
    from hpctrain.jobs.find import Run
    from hpctrain.jobs.logs import LogLine
    from hpctrain.jobs.records import Point
    from hpctrain.jobs.status import JobStatus
    from hpctrain.settings import Settings
    from hpctrain.slurm.port import Slurm


@dataclass(frozen=True)
class Context:
    """Settings, Slurm and clock that jobs use.

    Attributes:
        slurm: None where there is no Slurm; then only files are read, and ``why_no_slurm`` says why.
        no_slurm_error: that reason as an error, for what cannot do without Slurm.
    """

    settings: Settings
    slurm: Slurm | None
    clock: Clock
    why_no_slurm: str = ""
    no_slurm_error: HpctrainError | None = None


class Job:
    """One run and its Slurm job. Cheap to make; every method reads the present state.

    Attributes:
        id: Slurm's job id.
        name: the run's name, which ``hpctrain describe`` and the others take too.
        run_dir: its directory.
    """

    def __init__(self, run: Run, context: Context | None = None) -> None:
        self._run = run
        self._context = context
        self.id: int = run.job_id
        self.name: str = run.name
        self.run_dir: Path = run.dir.path

    def __repr__(self) -> str:
        return f"Job(id={self.id}, name={self.name!r})"

    def status(self) -> JobStatus:
        """How it is doing now; works also when Slurm does not answer or has forgotten the job."""
        from hpctrain.jobs.snapshot import look_at

        context = self._needs()
        return look_at(self._run, context.slurm, context.clock)

    def wait(self, timeout_s: float | None = None, *, poll_s: float = 2.0) -> JobStatus:
        """Wait for the end and return the final status, whatever it is: look at ``.succeeded``.

        After ``timeout_s`` seconds the newest status is returned, with ``.final`` False.

        Args:
            poll_s: seconds between looks at the run's files; Slurm is asked more rarely.
        """
        from hpctrain.jobs.wait import wait

        context = self._needs()
        return wait(self._run, context.slurm, context.clock, timeout_s=timeout_s, poll_s=poll_s)

    def logs(
        self, *, rank: int | None = None, node: str | None = None, all_ranks: bool = False, tail: int | None = None,
        since: float | None = None,
    ) -> Iterator[LogLine]:
        """Lines written so far, in order of time: of rank 0 and the batch step, unless told otherwise.

        Args:
            rank: only this rank's.
            node: only those of the ranks on this node.
            all_ranks: all ranks' and the batch step's.
            tail: only the newest so many lines.
            since: only lines from this moment on (seconds since the epoch).
        """
        from hpctrain.jobs.follow import LogRequest, existing_lines
        from hpctrain.jobs.logs import Selection

        request = LogRequest(Selection(rank=rank, node=node, all=all_ranks), tail=tail, since=since)
        return iter(existing_lines(self._run, request))

    def events(self) -> list[Event]:
        """What happened so far, in order of time."""
        from hpctrain.jobs.reader import read_events

        return read_events(self._run.dir)

    def metrics(self) -> list[Point]:
        """One point per completed step; of steps done twice only the later."""
        from hpctrain.jobs.metrics import read_metrics

        return list(read_metrics(self._run.dir.metrics).points)

    def cancel(self) -> bool:
        """End the job for good; False if it had already ended.

        Raises:
            SlurmError: Slurm does not answer or does not permit it.
        """
        from hpctrain.jobs.cancel import cancel

        context = self._needs()
        slurm = require_slurm(context)
        return cancel(self._run, slurm, context.clock, host=os.uname().nodename, user=current_user()).changed

    def _needs(self) -> Context:
        if self._context is None:
            self._context = default_context()
        return self._context


def jobs() -> list[Job]:
    """All runs in the runs directory, newest first."""
    from hpctrain.jobs.find import list_runs

    context = default_context()
    return [Job(run, context) for run in list_runs(context.settings.runs_dir)]


def job(key: str | int) -> Job:
    """The run that a job id, a run name or its unique start, a directory, or ``latest`` means.

    Raises:
        NotFoundError: there is no such run, or there are several.
    """
    from hpctrain.jobs.strays import find_or_ask

    context = default_context()
    return Job(find_or_ask(str(key), context.settings.runs_dir, context.slurm), context)


def submit(recipe: str | Path, overrides: Mapping[str, Any] | None = None) -> Job:
    """Submit a recipe and return its job; returns once Slurm has accepted it.

    Args:
        recipe: a recipe file, or the name of a shipped recipe.
        overrides: values by dotted key, as with ``--set``: ``{"training.steps": 100}``.

    Raises:
        RecipeError: the recipe or an override is wrong.
        SlurmError: Slurm refused, or does not answer; nothing was submitted.
    """
    import json
    import sys

    from hpctrain.jobs.find import find_run
    from hpctrain.submit import beside
    from hpctrain.submit import run as service

    # JSON is YAML, so that a value arrives as what it is: "1" stays text, None becomes null.
    sets = [f"{key}={json.dumps(value)}" for key, value in (overrides or {}).items()]
    argument, context = str(recipe), default_context()
    site = service.connect_site(
        context.settings, context.clock, python=sys.executable, user=current_user(), host=os.uname().nodename,
        command_line=("hpctrain.submit", argument, *sets),
    )
    prepared = service.prepare(argument, sets, context.settings, site)
    submitted = beside.submit(prepared, context.settings, site, argument=argument, sets=sets)
    run = find_run(str(submitted.run_dir.path), context.settings.runs_dir)
    return Job(run, Context(context.settings, site.slurm, context.clock))


def default_context() -> Context:
    """Settings from files and environment, and the Slurm they lead to. Cheap: no command of Slurm is run."""
    return make_context()


def make_context(
    *, slurm_timeout_s: float | None = None, slurm_retries: int | None = None,
    announce: Callable[[str], None] | None = None, long_lived: bool = False,
) -> Context:
    """Like :func:`default_context`, made anew, with less patience than the settings have where that is asked for.

    Args:
        slurm_timeout_s, slurm_retries: at most these.
        announce: told in one sentence when a command of Slurm is being retried.
        long_lived: this process will ask Slurm again and again, for hours.
    """
    from dataclasses import replace

    from hpctrain.clock import SystemClock
    from hpctrain.errors import ClusterError, NotFoundError, SlurmMissingError
    from hpctrain.settings_file import load_settings
    from hpctrain.slurm.connect import SeveralClustersError, connect

    settings, clock = load_settings(), SystemClock()
    if slurm_timeout_s is not None:
        settings = replace(settings, slurm_timeout_s=min(slurm_timeout_s, settings.slurm_timeout_s))
    if slurm_retries is not None:
        settings = replace(settings, slurm_retries=min(slurm_retries, settings.slurm_retries))
    try:
        slurm = connect(settings, clock=clock, announce=announce, long_lived=long_lived)
        return Context(settings, slurm, clock)
    except (SlurmMissingError, ClusterError, NotFoundError, SeveralClustersError) as error:
        # A private cluster that was named and is stopped or gone leaves its runs' files, which are still to be read. So do
        # the clusters of several 'hpctrain run' at once.
        return Context(settings, None, clock, error.message, error)


def require_slurm(context: Context) -> Slurm:
    """The context's Slurm.

    Raises:
        SlurmMissingError: there is none.
        ClusterError, NotFoundError: the private cluster that was named is not up, or gone.
    """
    from hpctrain.errors import SlurmMissingError

    if context.slurm is None:
        if context.no_slurm_error is not None:
            raise context.no_slurm_error
        raise SlurmMissingError(context.why_no_slurm or "there is no Slurm here")
    return context.slurm


def current_user() -> str:
    """Name of the user, or the number where there is no name."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A user id without a name, as in some containers.
        return str(os.getuid())
