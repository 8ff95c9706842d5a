"""``hpctrain health install``: let Slurm run the checks (entry point)."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from pathlib import Path

import click

from hpctrain.cli.output import output_option, print_json
from hpctrain.health.install import DEFAULT_DIR, InstallPlan, apply_plan, make_plan
from hpctrain.health.registry import find_site_checks, load_checks


@click.command("install")
@click.option("--print/--apply", "only_print", default=True, show_default=True, help="Say what would change, or change it.")
@click.option("--slurm-conf", type=click.Path(path_type=Path), help="Change this file.  [default: SLURM_CONF]")
@click.option(
    "--directory", type=click.Path(path_type=Path), default=DEFAULT_DIR, show_default=True, help="Put the programs here."
)
@click.option(
    "--config", "site", type=click.Path(path_type=Path), help="The site's settings.  [default: health.toml in the directory]"
)
@click.option("--replace", is_flag=True, help="Replace a prolog, epilog or health program that is not ours.")
@output_option
def install(
    *, only_print: bool, slurm_conf: Path | None, directory: Path, site: Path | None, replace: bool, output: str
) -> None:
    """Let Slurm run the checks: programs, compiled settings, slurm.conf.

    Shows all changes first; what is replaced is kept beside it. Done twice, it changes nothing.

    Example: hpctrain health install --print
    """
    conf = slurm_conf or Path(os.environ.get("SLURM_CONF") or "/etc/slurm/slurm.conf")
    if site is None and (directory / "health.toml").is_file():
        site = directory / "health.toml"
    offered = find_site_checks()
    names = [check.name for check in load_checks(offered)]
    plan = make_plan(directory, conf, site, names, replace=replace, site_checks=offered)
    if output == "text":
        _show(plan)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    kept = [str(copy) for copy in ([] if only_print else apply_plan(plan, stamp))]
    if output == "json":
        files = [{"path": str(file.path), "diff": file.diff()} for file in plan.files]
        settings = [asdict(change) for change in plan.settings]
        changes = {"applied": not only_print, "settings": settings, "files": files, "notes": list(plan.notes), "kept": kept}
        print_json("install", changes)
        return
    for name in kept:
        click.echo(f"kept what was there: {name}")
    if plan.files and not only_print:
        click.echo("done; have the same files on all nodes, then run 'scontrol reconfigure'")


def _show(plan: InstallPlan) -> None:
    for setting in plan.settings:
        click.echo(f"{setting.name}={setting.after}  ({setting.why}; now {setting.before or 'not set'})")
    for file in plan.files:
        click.echo(f"{'new' if file.before is None else 'change'}: {file.path}")
        if file.before is not None:
            click.echo(file.diff())
    for note in plan.notes:
        click.secho(f"note: {note}", fg="yellow", err=True)
    if not plan.files:
        click.echo("nothing to change")
