"""``hpctrain lineage`` (entry point)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpctrain.cli.jobs import complete_runs, echo, examples, find, watching
from hpctrain.cli.output import on_terminal, output_option, print_json, say

if TYPE_CHECKING:
    from hpctrain.jobs.lineage_find import Lineage


@click.command(epilog=examples(
    "hpctrain lineage latest", "hpctrain lineage models/my-model --verify",
    "hpctrain lineage latest -o json | jq '.lineage.record.inputs[] | {role, name, sha256}'",
))
@click.argument("what", metavar="RUN|MODEL", shell_complete=complete_runs)
@click.option("--verify", is_flag=True, help="Read the weights, and compare them with those that were saved.")
@click.option("--mlflow", is_flag=True, help="Write the run to MLflow first: all that its server has missed.")
@click.option("--dry-run", is_flag=True, help="With --mlflow: only say where it would be written.")
@output_option
def lineage(what: str, verify: bool, mlflow: bool, dry_run: bool, output: str) -> int:
    """Show what a run or a model was made from: base models, data, code, and so on back to the first run.

    RUN is a job id, a run's name or the unique start of one, a run directory, or 'latest'. MODEL is a model directory, also
    one that was copied elsewhere, or a hub id that is in your cache. Runs of the tree may be deleted: each record holds the
    brief ones of those before it. With --verify the exit code is 13 when weights are not those that were saved.
    """
    from hpctrain.jobs.lineage_find import find_lineage

    context = watching()
    found = find_lineage(what, context.settings.runs_dir, lambda key: find(context, key).dir.path, verify=verify)
    if mlflow:
        _write_to_mlflow(found, dry_run=dry_run)
    elif dry_run:
        raise click.UsageError("--dry-run goes with --mlflow: without it nothing is changed")
    if output == "json":
        print_json("lineage", found.to_json())
    else:
        _show(found)
    return _judged(found) if verify else 0


def _show(found: Lineage) -> None:
    from hpctrain.jobs.lineage_tree import details, model_branch, render, run_branch

    if found.model is not None:
        branch = model_branch(found.model)
        if found.record is not None and found.model.get("record") is None:
            branch = run_branch(found.record)
    elif found.record is not None:
        branch = run_branch(found.record)
    else:
        return
    echo(render(branch, colour=on_terminal()))
    if found.used_by:
        click.echo("\nUsed by")
        for later in found.used_by:
            click.echo(f"  {later['run']}  {later['method'] or 'command'}, as its {later['role']}")
    if found.record is None:
        say("\nNobody has recorded where this model comes from.")
        return
    click.echo("")
    for label, text in details(found.record):
        click.echo(f"{label:<13}{text}")
    if not found.record.get("recorded", True):
        say("\nThis run has recorded no lineage (an older version made it); this is what its directory shows.")


def _write_to_mlflow(found: Lineage, *, dry_run: bool) -> None:
    from hpctrain.files import read_json_object
    from hpctrain.jobs.layout import RunDir
    from hpctrain.jobs.lineage import without_user
    from hpctrain.train.mlflow_log import tracking_uri, write_all

    run = (found.record or {}).get("run") or {}
    if found.model is not None or not run.get("directory"):
        raise click.UsageError("--mlflow writes runs: name a run, not a model")
    run_dir = RunDir(Path(str(run["directory"])))
    uri = without_user(tracking_uri(read_json_object(run_dir.resolved_json), run_dir))
    if dry_run:
        say(f"would write {run_dir.name} to MLflow at {uri}")
        return
    told = write_all(run_dir)
    say(f"{run_dir.name} is run {told.get('run_id')} of MLflow at {uri}")


def _judged(found: Lineage) -> int:
    from hpctrain.errors import CheckpointError

    model = found.model or ((found.record or {}).get("outputs") or {}).get("model") or {}
    state = model.get("state")
    where = str(model.get("path") or Path())
    if state == "changed":
        raise CheckpointError("the weights are not those that the run saved", where=where,
                              hint="they were changed or replaced since; the tree shows the run that saved the original")
    if state != "as saved":
        say("\nThere is nothing recorded to compare the weights with.")
    return 0
