"""``hpctrain health``: look at this node (entry point)."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from hpctrain.cli.health_deep import deep
from hpctrain.cli.health_install import install
from hpctrain.cli.health_record import record, replay_recording
from hpctrain.cli.output import output_option, print_json
from hpctrain.errors import NotFoundError
from hpctrain.files import read_jsonl
from hpctrain.health.breaker import Permission
from hpctrain.health.config import CONTEXTS
from hpctrain.health.explain import explain
from hpctrain.health.finding import Check, Severity
from hpctrain.health.node_state import NodeFiles
from hpctrain.health.registry import find_site_checks, load_checks
from hpctrain.health.run import Look, Tools, check_node, verdict_record
from hpctrain.health.supervise import for_node, load_config, node_name
from hpctrain.health.verdict import Level, Verdict

COLOURS = {
    Level.OK: "green",
    Level.SKIP: "white",
    Level.OBSERVE: "cyan",
    Level.UNKNOWN: "magenta",
    Level.WARN: "yellow",
    Level.DRAIN: "red",
}

_SEVERITY = {Level.UNKNOWN: Severity.UNKNOWN, Level.WARN: Severity.WARNING, Level.DRAIN: Severity.CRITICAL}


@click.group()
def health() -> None:
    """Look at this node.

    Slurm runs the same checks by itself, see docs/health-checks.md; what is typed here only looks and drains nothing.
    """


health.add_command(install)
health.add_command(record)
health.add_command(deep)


@health.command("check")
@click.option(
    "--context",
    type=click.Choice([*CONTEXTS, "manual"]),
    default="manual",
    show_default=True,
    help="Run the checks that this context has.",
)
@click.option("--only", "only", multiple=True, metavar="CHECK", help="Run this check alone; may be given again.")
@click.option("--all", "everything", is_flag=True, help="Show skipped and healthy findings, too.")
@click.option(
    "--replay", type=click.Path(path_type=Path), metavar="FILE", help="Put the checks to a recording instead of this node."
)
@output_option
def check_(*, context: str, only: tuple[str, ...], everything: bool, replay: Path | None, output: str) -> int:
    """Run the checks here and now; exit 0 ok, 1 warning, 2 critical, 3 unknown.

    2 is what would drain the node; what a check in mode 'observe' finds is shown and does not count. Nothing is drained.

    Example: hpctrain health check --only disk_space
    """
    config, problems = load_config(os.environ)
    config = dataclasses.replace(config, site_checks=config.site_checks or find_site_checks())
    if replay:
        outcome = replay_recording(replay, config, problems, context, only)
    else:
        node = node_name(os.environ)
        looking = Tools(ask_breaker=lambda _node, _reason: Permission(granted=False, reason="only looking"))
        outcome = check_node(for_node(config, node), problems, Look(node, context, only=only, remember=False), looking)
    verdict = outcome.verdict
    severity = _SEVERITY.get(verdict.level, Severity.OK)
    if output == "json":
        print_json("health", {**verdict_record(verdict), "verdict": severity.name, "notes": list(outcome.notes)})
        return int(severity)
    for level, finding in verdict.findings:
        if level > Level.SKIP or everything:
            click.secho(f"{level.name:<8}", fg=COLOURS[level], nl=False)
            click.echo(f" {finding.check}: {finding.message}")
    for note in outcome.notes:
        if not note.startswith("ALERT"):
            click.echo(f"note: {note}", err=True)
    _print_summary(verdict)
    return int(severity)


def _print_summary(verdict: Verdict) -> None:
    shown = sum(level > Level.SKIP for level, _ in verdict.findings)
    skipped = len({finding.check for level, finding in verdict.findings if level is Level.SKIP})
    click.secho(f"{verdict.level.name:<8}", fg=COLOURS[verdict.level], bold=True, nl=False)
    click.echo(f" {verdict.node}: {verdict.checks} checks, {shown} findings, {skipped} checks do not apply here")


@health.command("list")
@output_option
def list_(output: str) -> None:
    """List the checks with how far each may go and what it looks at."""
    config, _ = load_config(os.environ)
    checks = load_checks(config.site_checks or find_site_checks())
    if output == "json":
        print_json("checks", [_documented(check, config.rules.mode(check).name.lower()) for check in checks])
        return
    for check in checks:
        click.echo(f"{check.name:<20} {config.rules.mode(check).name.lower():<8} {check.what}")


def _documented(check: Check, mode: str) -> dict[str, Any]:
    keys = ("name", "what", "why", "remedy", "false_alarms")
    return {
        **{key: getattr(check, key) for key in keys},
        "limits": dict(check.limits),
        "mode": mode,
        "default_mode": check.mode.name.lower(),
        "action": check.action.value,
        "contexts": list(check.contexts),
        "needs": list(check.needs),
    }


@health.command("explain")
@click.argument("words", nargs=-1, required=True)
@output_option
def explain_(words: tuple[str, ...], output: str) -> None:
    """Say what an Xid, an SXid, a check or a line of the kernel log means.

    Examples: hpctrain health explain xid 79; hpctrain health explain gpu_row_remap
    """
    answer = explain(words, load_checks())
    if output == "json":
        print_json("explanation", {"asked": " ".join(words), "answer": answer})
        return
    click.echo(answer)


@health.command("history")
@click.argument("node", required=False)
@click.option(
    "-n", "--last", "count", type=click.IntRange(min=1), default=20, show_default=True, help="Show so many entries."
)
@output_option
def history(node: str | None, count: int, output: str) -> None:
    """Show what the health checks of a node found, the newest last."""
    name = node or node_name(os.environ)
    config = for_node(load_config(os.environ)[0], name)
    files = NodeFiles(Path(config.state_dir), name)
    events = [*read_jsonl(files.events.with_suffix(".jsonl.1")), *read_jsonl(files.events)]
    if not events:
        raise NotFoundError(
            f"no health check of node {name} is on record",
            where=str(files.events),
            hint="the records lie on the node itself, and are readable by root",
        )
    if output == "json":
        print_json("history", events[-count:])
        return
    for line in _told(events[-count:]):
        click.echo(line)


def _told(events: Iterable[dict[str, Any]]) -> Iterable[str]:
    for event in events:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(event.get("time", 0))))
        job = f" job {event['job']}" if event.get("job") else ""
        if event.get("kind") == "health":
            found = event.get("evidence") or []
            yield f"{when} {event.get('context', ''):<8} {event.get('level', ''):<8}{job} {len(found)} findings"
            yield from (f"    {one.get('level', ''):<8} {one.get('check', '')}: {one.get('message', '')}" for one in found)
        else:
            text = event.get("reason") or "; ".join(event.get("notes", ()))
            yield f"{when} {event.get('context', ''):<8} {event.get('kind', '')}{job}: {text}"
