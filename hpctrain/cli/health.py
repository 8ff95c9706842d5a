"""``hpctrain health``: look at this node (entry point)."""

from __future__ import annotations

import os
import socket
from dataclasses import asdict

import click

from hpctrain.cli.output import output_option, print_json
from hpctrain.health.finding import Severity, worst
from hpctrain.health.probe_host import read_host
from hpctrain.health.run import choose, judge, load_checks

COLOURS = {Severity.OK: "green", Severity.WARNING: "yellow", Severity.CRITICAL: "red", Severity.UNKNOWN: "magenta"}


@click.group()
def health() -> None:
    """Look at this node.

    The checks of this version read memory and file systems; nothing is drained by them.
    """


@health.command("check")
@click.option("--only", "only", multiple=True, metavar="CHECK", help="Run this check alone; may be given again.")
@output_option
def check_(only: tuple[str, ...], output: str) -> int:
    """Run the checks here and now; exit 0 ok, 1 warning, 2 critical, 3 unknown.

    Example: hpctrain health check --only disk_space
    """
    checks = choose(load_checks(), only)
    node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    findings = judge(read_host(node), checks)
    verdict = worst(findings)
    if output == "json":
        rows = [{**asdict(finding), "severity": finding.severity.name} for finding in findings]
        print_json("health", {"node": node, "verdict": verdict.name, "checks": [c.name for c in checks], "findings": rows})
    else:
        for finding in findings:
            click.secho(f"{finding.severity.name:<8} ", fg=COLOURS[finding.severity], nl=False)
            click.echo(f"{finding.check}: {finding.message}")
        click.secho(f"{verdict.name:<8} ", fg=COLOURS[verdict], bold=True, nl=False)
        click.echo(f"{node}: {len(checks)} checks, {len(findings)} findings")
    return int(verdict)


@health.command("list")
@output_option
def list_(output: str) -> None:
    """List the checks with what they look at."""
    checks = load_checks()
    if output == "json":
        keys = ("name", "what", "why", "remedy", "false_alarms")
        print_json("checks", [{**{k: getattr(c, k) for k in keys}, "limits": dict(c.limits)} for c in checks])
        return
    for check in checks:
        click.echo(f"{check.name:<14} {check.what}")
