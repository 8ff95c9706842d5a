"""``hpctrain nodes``: who took a node out of service, why, and what happens next (entry point)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hpctrain.cli.output import output_option, print_json

if TYPE_CHECKING:
    from hpctrain.nodes.service import Nodes, NodeView

F = TypeVar("F", bound=Callable[..., Any])


def _dry_run(function: F) -> F:
    return click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")(function)


@click.group()
def nodes() -> None:
    """See why nodes are out of service, and bring them back.

    A drain whose reason does not begin with 'hpctrain:' belongs to a person, and is never changed here.
    """


@nodes.command("list")
@click.option("--all", "everything", is_flag=True, help="Show nodes in service, too.")
@output_option
def list_(everything: bool, output: str) -> None:
    """List nodes that are out of service or have a finding, and what happens next."""
    views = _service().look()
    shown = [view for view in views if everything or view.by or view.evidence or not view.node.available]
    if output == "json":
        print_json("nodes", [_record(view) for view in shown])
        return
    for view in shown:
        click.echo(f"{view.node.name:<12} {_state(view):<20} {view.decision.step.value:<9} {view.node.reason}")
    if not shown:
        click.echo(f"all {len(views)} nodes are in service, and nothing is known against them")


@nodes.command("show")
@click.argument("node")
@output_option
def show(node: str, output: str) -> None:
    """Show a node: state, since when, by whom, evidence, and what happens next."""
    (view,) = _service().look([node])
    if output == "json":
        print_json("node", _record(view))
        return
    click.echo(f"{'state':<10}{_state(view)}")
    if view.node.reason:
        click.echo(f"{'reason':<10}{view.node.reason}")
        click.echo(f"{'since':<10}{_when(view.node.reason_time)} by {view.node.reason_user or 'unknown'}")
    for one in view.evidence:
        click.echo(f"{'evidence':<10}{one.get('level')}: {one.get('check')}: {one.get('message')}")
    due = f", at {_when(view.decision.due)}" if view.decision.due else ""
    click.echo(f"{'next':<10}{view.decision.step.value}: {view.decision.reason} (rule '{view.decision.rule}'{due})")


@nodes.command("drain")
@click.argument("node")
@click.option("--reason", required=True, help="Why; it is a person's, so no check of ours brings the node back.")
@_dry_run
@output_option
def drain(node: str, reason: str, dry_run: bool, output: str) -> None:
    """Take a node out of service after its present jobs."""
    _tell(node, _service().drain(node, reason, dry_run=dry_run), output, dry_run=dry_run)


@nodes.command("undrain")
@click.argument("node")
@_dry_run
@output_option
def undrain(node: str, dry_run: bool, output: str) -> None:
    """Bring back a node that hpctrain drained: its fault is mended.

    What the kernel log said so far is settled, and the node's slot of the breaker is given back.
    """
    _tell(node, _service().undrain(node, dry_run=dry_run), output, dry_run=dry_run)


@nodes.command("validate")
@click.argument("node")
@_dry_run
@output_option
def validate(node: str, dry_run: bool, output: str) -> int:
    """Bring a node back if its health checks have found it healthy for long enough; exit 1 if not."""
    done, text = _service().validate(node, dry_run=dry_run)
    _tell(node, text, output, dry_run=dry_run, done=done)
    return 0 if done else 1


def _service() -> Nodes:
    from hpctrain.api import default_context
    from hpctrain.errors import SlurmMissingError
    from hpctrain.health.supervise import load_config
    from hpctrain.nodes.service import Nodes

    context = default_context()
    if context.slurm is None:
        raise context.no_slurm_error or SlurmMissingError(context.why_no_slurm)
    return Nodes(context.slurm, load_config(os.environ)[0], context.clock)


def _tell(node: str, text: str, output: str, *, dry_run: bool, done: bool = True) -> None:
    if output == "json":
        print_json("change", {"node": node, "done": done and not dry_run, "dry_run": dry_run, "message": text})
    else:
        click.echo(text)


def _state(view: NodeView) -> str:
    return "+".join([view.node.state.lower(), *sorted(flag.lower() for flag in view.node.flags)])


def _when(seconds: float | None) -> str:
    return "unknown" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _record(view: NodeView) -> dict[str, Any]:
    node, decision = view.node, view.decision
    return {
        "node": node.name,
        "state": node.state,
        "flags": sorted(node.flags),
        "by": view.by,
        "reason": node.reason,
        "reason_user": node.reason_user,
        "since": node.reason_time,
        "evidence": list(view.evidence),
        "next": {"step": decision.step.value, "reason": decision.reason, "rule": decision.rule, "due": decision.due},
    }
