"""``hpctrain submit`` and ``run`` (entry point)."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpctrain.cli.output import link_to_user, output_option, print_json, say

if TYPE_CHECKING:
    from hpctrain.api import Context
    from hpctrain.settings import Settings
    from hpctrain.submit.plan_model import Plan
    from hpctrain.submit.run import Prepared, Site, Submitted

_SET = click.option(
    "--set", "sets", metavar="KEY=VALUE", multiple=True, help="Change a value: training.steps=100. Repeatable."
)


@click.command(epilog="\b\nExamples:\n  hpctrain submit quickstart --follow\n"
                      "  hpctrain submit recipe.yaml --set training.steps=500 --set resources.nodes=4\n"
                      "  hpctrain submit recipe.yaml --dry-run | less")
@click.argument("recipe")
@_SET
@click.option("--dry-run", is_flag=True, help="Print the batch script and what was decided; submit and write nothing.")
@click.option(
    "--follow", "-f", is_flag=True,
    help="Show what rank 0 prints until the end; exit code 10 if the job fails. Ctrl-C leaves the job alone.",
)
@click.option("--wait", "-w", "wait_", is_flag=True, help="Wait for the end; exit code 10 if the job fails.")
@output_option
def submit(  # noqa: PLR0917 - click passes every option by name
    recipe: str, sets: tuple[str, ...], dry_run: bool, follow: bool, wait_: bool, output: str
) -> int:
    """Turn a recipe into a Slurm job.

    RECIPE is a file, or the name of a shipped recipe ('hpctrain recipes list'). Prints the run's name on standard output;
    'hpctrain describe', 'logs' and all others take that name, the job's id, or 'latest'.
    """
    from hpctrain.settings_file import load_settings
    from hpctrain.submit import beside
    from hpctrain.submit import run as service

    settings = load_settings()
    site = site_of(settings, dry_run=dry_run)
    link = link_to_user()
    if link is not None and "run" in link.at:
        # Submitted over a connection that broke since, and told about.
        return _watch(Path(link.at["key"]), settings, site, follow=follow, wait_=wait_)
    prepared = service.prepare(recipe, sets, settings, site)
    if dry_run:
        return print_dry_run(beside.would_submit(prepared, settings, site), output)
    submitted = beside.submit(prepared, settings, site, argument=recipe, sets=sets)
    print_submitted(submitted, output, following=follow)
    if link is not None:
        link.mark({"run": submitted.run_name, "job": submitted.job_id, "key": str(submitted.run_dir.path)})
    return _watch(submitted.run_dir.path, settings, site, follow=follow, wait_=wait_)


@click.command(epilog="\b\nExamples:\n  hpctrain run quickstart\n  hpctrain run recipe.yaml --set training.steps=20")
@click.argument("recipe")
@_SET
@output_option
def run(recipe: str, sets: tuple[str, ...], output: str) -> int:
    """Submit and follow, on a private cluster if there is no Slurm.

    Such a cluster is made for this run and removed afterwards, also after Ctrl-C, SIGTERM or SIGHUP, which then end the
    job. On a cluster that was there before, Ctrl-C only stops following. Exit code 10 if the job fails.
    """
    from hpctrain.errors import SlurmMissingError
    from hpctrain.settings_file import load_settings
    from hpctrain.slurm.connect import choose

    settings = load_settings()
    try:
        choose(settings, lasting=True)
    except SlurmMissingError:
        return _run_until_told_to_end(recipe, sets, settings, output)
    return _run_here(recipe, sets, settings, output, own_cluster=False)


def _run_here(recipe: str, sets: tuple[str, ...], settings: Settings, output: str, *, own_cluster: bool) -> int:
    from hpctrain.submit import beside
    from hpctrain.submit import run as service

    site = site_of(settings, dry_run=False)
    prepared = service.prepare(recipe, sets, settings, site)
    submitted = beside.submit(prepared, settings, site, argument=recipe, sets=sets)
    print_submitted(submitted, output, following=True)
    try:
        return _watch(submitted.run_dir.path, settings, site, follow=True, wait_=True, say_goodbye=not own_cluster)
    finally:
        if own_cluster:
            _end_job(submitted, site)


def _end_job(submitted: Submitted, site: Site) -> None:
    """Cancel a job whose cluster goes away, if it still runs, and give it a moment to write its last words."""
    from hpctrain.jobs.cancel import cancel
    from hpctrain.jobs.find import read_run
    from hpctrain.jobs.wait import wait
    from hpctrain.submit.run import undisturbed

    found = read_run(submitted.run_dir.path)
    if found is None or site.slurm is None:
        return
    with undisturbed():
        ended = cancel(found, site.slurm, site.clock, host=site.host, user=site.user)
        if ended.changed:
            say(f"{ended.message}; its cluster goes away")
            wait(found, site.slurm, site.clock, timeout_s=10.0, poll_s=0.2)


def _run_until_told_to_end(recipe: str, sets: tuple[str, ...], settings: Settings, output: str) -> int:
    """A batch system's or a closed terminal's signal takes the private cluster down too."""
    from hpctrain.cli.told_to_end import ToldToEnd, told_to_end

    try:
        with told_to_end():
            return _run_on_own_cluster(recipe, sets, settings, output)
    except ToldToEnd as told:
        say(f"ended by {told.name}")
        return told.exit_code


def _run_on_own_cluster(recipe: str, sets: tuple[str, ...], settings: Settings, output: str) -> int:
    """Bring a cluster up that is as large as the recipe, run there, take it down whatever happened."""
    from hpctrain.devcluster.cluster import Clusters
    from hpctrain.devcluster.state import name_for_one_run
    from hpctrain.recipe.resolve import resolve
    from hpctrain.submit.beside import nodes_beside
    from hpctrain.submit.run import undisturbed

    resolved = resolve(recipe, sets, settings).recipe  # before minutes are spent on a misspelt recipe
    resources = resolved.resources
    clusters = Clusters(say=say)
    name = name_for_one_run(os.getpid())
    say(f"there is no Slurm here: making private cluster '{name}' for this run")
    try:
        clusters.up(name, nodes=resources.nodes + resources.spares + nodes_beside(resolved),
                    gpus_per_node=max(resources.gpus_per_node, resolved.generation.server_gpus or 0, 1))
        os.environ["HPCTRAIN_CLUSTER"] = name
        from hpctrain.settings_file import load_settings

        return _run_here(recipe, sets, load_settings(), output, own_cluster=True)
    finally:
        os.environ.pop("HPCTRAIN_CLUSTER", None)
        with undisturbed():
            clusters.down(name)
        say(f"removed private cluster '{name}'")


def site_of(settings: Settings, *, dry_run: bool) -> Site:
    """This process's surroundings; a dry run also works where no Slurm is."""
    from hpctrain.api import current_user
    from hpctrain.clock import SystemClock
    from hpctrain.errors import SlurmMissingError
    from hpctrain.submit.run import Site, connect_site

    clock, user, host = SystemClock(), current_user(), os.uname().nodename
    command_line = ("hpctrain", *sys.argv[1:])
    try:
        return connect_site(
            settings, clock, python=sys.executable, user=user, host=host, command_line=command_line, announce=say
        )
    except SlurmMissingError as error:
        if not dry_run:
            raise
        say(f"note: {error}; the cluster was not asked, and GPUs are taken to be real")
        return Site(None, clock, sys.executable, user, host, command_line=command_line)


def print_dry_run(prepared: Prepared, output: str) -> int:
    """What would be submitted, on standard output."""
    plan = prepared.plan
    if output == "json":
        print_json("plan", {**plan.to_json(), "notes": list(prepared.notes), "script": prepared.script})
        return 0
    spares = f" + {plan.spares} spare" if plan.spares else ""
    say(f"would submit {plan.run_name}: {_places(plan, spares)}")
    say(f"run directory {plan.run_dir}")
    for note in prepared.notes:
        say(f"note: {note}")
    click.echo(prepared.script, nl=False)
    return 0


def _places(plan: Plan, spares: str = "") -> str:
    """``2 nodes x 8 ranks on GPUs``."""
    from hpctrain.jobs.text import plural

    device = "GPUs" if plan.device == "cuda" else "CPUs"
    return f"{plural(plan.nodes, 'node')}{spares} x {plural(plan.ranks_per_node, 'rank')} on {device}"


def print_submitted(submitted: Submitted, output: str, *, following: bool) -> None:
    """The run that was submitted: its name on standard output, where its files are on standard error."""
    follow = f"hpctrain logs -f {submitted.run_name}"
    if output == "json":
        print_json("submission", _document(submitted, follow))
        return
    for note in submitted.prepared.notes:
        say(f"note: {note}")
    plan = submitted.prepared.plan
    on_cluster = f" to cluster {submitted.cluster}" if submitted.cluster else ""
    say(f"submitted job {submitted.job_id}{on_cluster}: {_places(plan)}")
    say(f"  run directory  {submitted.run_dir.path}")
    say(f"  log            {submitted.run_dir.job_log}")
    if not following:
        say(f"  follow it      {follow}")
    click.echo(submitted.run_name)


def _document(submitted: Submitted, follow: str) -> dict[str, Any]:
    return {
        "job_id": submitted.job_id, "run_name": submitted.run_name, "run_dir": str(submitted.run_dir.path),
        "log": str(submitted.run_dir.job_log), "script": str(submitted.run_dir.script), "cluster": submitted.cluster,
        "submitted_time": submitted.submitted_time, "follow": follow, "notes": list(submitted.prepared.notes),
    }


def _watch(
    run_dir: Path, settings: Settings, site: Site, *, follow: bool, wait_: bool, say_goodbye: bool = True
) -> int:
    """Follow and wait as asked; 130 when the user stopped following (the job goes on, and that is said)."""
    if not (follow or wait_):
        return 0
    from hpctrain.cli.logs import follow_run
    from hpctrain.jobs.find import read_run
    from hpctrain.jobs.follow import LogRequest

    found = read_run(run_dir)
    if found is None:
        return 0
    context: Context = _context(settings, site)
    if follow:
        return follow_run(found, context, LogRequest(), say_goodbye=say_goodbye, must_succeed=True)
    from hpctrain.jobs.wait import require_success, wait

    try:
        require_success(wait(found, site.slurm, site.clock, say=say))
    except KeyboardInterrupt:
        say(f"stopped waiting; job {found.job_id} goes on")
        return 130
    return 0


def _context(settings: Settings, site: Site) -> Context:
    from hpctrain.api import Context

    return Context(settings, site.slurm, site.clock)
