"""``hpctrain doctor``: check this installation (entry point)."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

import click

from hpctrain.cli.output import on_terminal, output_option, print_json

if TYPE_CHECKING:
    from hpctrain.doctor.examine import Report

_COLOURS = {"ok": "green", "note": "yellow", "problem": "red"}


@click.command()
@output_option
def doctor(output: str) -> int:
    """Check this installation: Slurm, the way to it, clocks, the runs directory, optional libraries.

    Each problem comes with what to do about it. Exit code 1 if something essential is broken; notes are not. Changes
    nothing.
    """
    from hpctrain.clock import SystemClock
    from hpctrain.doctor.examine import examine
    from hpctrain.doctor.finding import healthy
    from hpctrain.settings_file import load_settings

    report = examine(load_settings(), os.environ, SystemClock())
    fine = healthy(report.checks)
    if output == "json":
        checks = [dataclasses.asdict(check) for check in report.checks]
        print_json("doctor", {"healthy": fine, "adapters": dict(report.adapters), "delegated": dict(report.delegated),
                              "checks": checks})
    else:
        _print(report, fine=fine)
    return 0 if fine else 1


def _print(report: Report, *, fine: bool) -> None:
    width = max(len(check.name) for check in report.checks)
    for check in report.checks:
        status = f"{check.status:<7}"
        shown = click.style(status, fg=_COLOURS[check.status]) if on_terminal() else status
        click.echo(f"{shown}  {check.name:<{width}}  {check.text}")
        if check.advice:
            click.echo(f"{'':7}  {'':{width}}  -> {check.advice}")
    if report.delegated:
        click.echo("\nWhere pyslurm is used, these go through Slurm's commands all the same:")
        for call, why in report.delegated.items():
            click.echo(f"  {call}: {why}")
    problems = sum(check.status == "problem" for check in report.checks)
    click.echo("\neverything essential works" if fine else f"\n{problems} problem{'s' if problems > 1 else ''}")
