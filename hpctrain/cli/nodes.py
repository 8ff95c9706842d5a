"""``hpctrain nodes``: who took a node out of service, why, and what happens next (entry point)."""

from __future__ import annotations

import dataclasses
import getpass
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hpctrain.cli.output import output_option, print_json, say

if TYPE_CHECKING:
    from hpctrain.nodes.record import Entry
    from hpctrain.nodes.service import Nodes, NodeView
    from hpctrain.nodes.site import Site
    from hpctrain.nodes.tend import Line

F = TypeVar("F", bound=Callable[..., Any])
_SHOWN_ACTS = 12
_KINDS = {"intent": "begun", "dropped": "left"}


def _dry_run(function: F) -> F:
    return click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")(function)


@click.group()
def nodes() -> None:
    """See why nodes are out of service, mend them, and bring them back.

    A drain whose reason does not begin with 'hpctrain:' belongs to a person, and is never changed here.
    """


@nodes.command("list")
@click.option("--all", "everything", is_flag=True, help="Show nodes in service, too.")
@output_option
def list_(everything: bool, output: str) -> None:
    """List nodes that are out of service or have a finding, and what happens next."""
    views = nodes_service().look()
    shown = [view for view in views if everything or view.by or view.evidence or not view.node.available]
    if output == "json":
        print_json("nodes", [_record(view) for view in shown])
        return
    for view in shown:
        due = f" at {_when(view.decision.due)}" if view.decision.due else ""
        since = f"since {_when(view.node.reason_time)} by {view.by}: " if view.by else ""
        click.echo(f"{view.node.name:<12} {_state(view):<20} {since}{view.node.reason}")
        click.echo(f"{'':<12} next: {view.decision.step.value}{due}: {view.decision.reason} (rule '{view.decision.rule}')")
    if not shown:
        click.echo(f"all {len(views)} nodes are in service, and nothing is known against them")


@nodes.command("show")
@click.argument("node")
@output_option
def show(node: str, output: str) -> None:
    """Show a node: state, since when, by whom, evidence, and what happens next."""
    (view,) = nodes_service().look([node])
    if output == "json":
        print_json("node", _record(view))
        return
    click.echo(f"{'state':<10}{_state(view)}")
    if view.node.reason:
        click.echo(f"{'reason':<10}{view.node.reason}")
        click.echo(f"{'since':<10}{_when(view.node.reason_time)} by {view.node.reason_user or 'unknown'}")
    for one in view.evidence:
        click.echo(f"{'evidence':<10}{one.get('level')}: {one.get('check')}: {one.get('message')}")
    for entry in _told_acts(view.history)[-_SHOWN_ACTS:]:
        click.echo(f"{_KINDS.get(entry.kind, entry.kind):<10}{_when(entry.time)} {_act(entry)}")
    due = f", at {_when(view.decision.due)}" if view.decision.due else ""
    click.echo(f"{'next':<10}{view.decision.step.value}: {view.decision.reason} (rule '{view.decision.rule}'{due})")


@nodes.command("drain")
@click.argument("node")
@click.option("--reason", required=True, help="Why; it is a person's, so no check of ours brings the node back.")
@_dry_run
@output_option
def drain(node: str, reason: str, dry_run: bool, output: str) -> None:
    """Take a node out of service after its present jobs."""
    _tell(node, nodes_service().drain(node, reason, dry_run=dry_run), output, dry_run=dry_run)


@nodes.command("undrain")
@click.argument("node")
@_dry_run
@output_option
def undrain(node: str, dry_run: bool, output: str) -> None:
    """Bring back a node that hpctrain drained: its fault is mended.

    What the kernel log said so far is settled, and the node's slot of the breaker is given back.
    """
    _tell(node, nodes_service().undrain(node, dry_run=dry_run), output, dry_run=dry_run)


@nodes.command("validate")
@click.argument("node")
@_dry_run
@output_option
def validate(node: str, dry_run: bool, output: str) -> int:
    """Bring a node back if its health checks have found it healthy for long enough; exit 1 if not."""
    done, text = nodes_service().validate(node, dry_run=dry_run)
    _tell(node, text, output, dry_run=dry_run, done=done)
    return 0 if done else 1


@nodes.command("reboot")
@click.argument("node")
@click.option("--reason", default="asked for by command", show_default=True, help="Why.")
@_dry_run
@output_option
def reboot(node: str, reason: str, dry_run: bool, output: str) -> None:
    """Reboot a node once its jobs are over.

    It stays out of service until its health checks of after the boot are clean; 'hpctrain nodes tend' sees to that.
    """
    _tell(node, nodes_service().reboot(node, reason, dry_run=dry_run), output, dry_run=dry_run)


@nodes.command("replace")
@click.argument("node")
@click.option("--reason", default="asked for by command", show_default=True, help="Why.")
@_dry_run
@output_option
def replace(node: str, reason: str, dry_run: bool, output: str) -> None:
    """Give a node's place to a hot spare, and run the site's command that asks for another node.

    The node stays drained until a person brings it back with 'undrain'.
    """
    _tell(node, nodes_service().replace(node, reason, dry_run=dry_run), output, dry_run=dry_run)


@nodes.command("tend")
@click.option("--once", is_flag=True, help="Look once, instead of for ever.")
@click.option("--interval", "interval_s", type=click.FloatRange(min=1), default=30.0, show_default=True, help="Seconds.")
@_dry_run
@output_option
def tend(once: bool, interval_s: float, dry_run: bool, output: str) -> None:
    """Do what the policy says: drain, reset, reboot, check, return, replace.

    Every act is written down before and after it, so that one that was interrupted is finished, and none is done twice.
    Run it as root where the journal is and where the records of the nodes' checks can be read.
    """
    from hpctrain.errors import ControllerDownError
    from hpctrain.nodes.tend import Tender

    site = nodes_site(long_lived=not once and not dry_run)
    tender = Tender(site)
    if not once and not dry_run:
        say(f"looking after the nodes every {interval_s:g} s; what is done is kept in {site.settings.journal}")
    while True:
        lines: list[Line] = []
        try:
            lines = tender.look(dry_run=dry_run)
        except ControllerDownError as error:
            if once or dry_run:
                raise
            say(f"{error.message}; looking again in {interval_s:g} s")
        _print_lines(lines, output, once=once or dry_run)
        if once or dry_run:
            return
        site.clock.sleep(interval_s)


@nodes.group("spares")
def spares() -> None:
    """Nodes set aside to take the place of those that are replaced: a Slurm reservation."""


@spares.command("list")
@output_option
def spares_list(output: str) -> None:
    """List the hot spares, and whether each is ready."""
    from hpctrain.nodes.spares import listed

    pool, found = listed(nodes_site())
    if output == "json":
        shown = [{"node": node.name, "state": node.state, "ready": ready} for node, ready in found]
        print_json("spares", {"reservation": pool.name if pool else None, "nodes": shown})
        return
    for node, ready in found:
        click.echo(f"{node.name:<12} {node.state.lower():<12} {'ready' if ready else 'not ready'}")
    if pool is None:
        click.echo("there are no spares; 'hpctrain nodes spares add NODE' sets one aside")


@spares.command("add")
@click.argument("names", metavar="NODE...", nargs=-1, required=True)
@_dry_run
@output_option
def spares_add(names: tuple[str, ...], dry_run: bool, output: str) -> None:
    """Set nodes aside; jobs that run there go on."""
    from hpctrain.nodes.spares import add

    _tell(",".join(names), add(nodes_site(), names, dry_run=dry_run), output, dry_run=dry_run)


@spares.command("remove")
@click.argument("names", metavar="NODE...", nargs=-1, required=True)
@_dry_run
@output_option
def spares_remove(names: tuple[str, ...], dry_run: bool, output: str) -> None:
    """Give spares to everybody."""
    from hpctrain.nodes.spares import remove

    _tell(",".join(names), remove(nodes_site(), names, dry_run=dry_run), output, dry_run=dry_run)


def nodes_site(*, long_lived: bool = False) -> Site:
    """The cluster that this process is to use, with its site's settings and the journal of the acts on its nodes."""
    from hpctrain.api import default_context, make_context
    from hpctrain.devcluster.state import find_cluster
    from hpctrain.errors import SlurmMissingError
    from hpctrain.health.remedy_settings import parse_remedies
    from hpctrain.health.supervise import load_config
    from hpctrain.nodes.journal import Journal
    from hpctrain.nodes.service import site_of
    from hpctrain.slurm.connect import choose

    context = make_context(announce=say, long_lived=True) if long_lived else default_context()
    if context.slurm is None:
        raise context.no_slurm_error or SlurmMissingError(context.why_no_slurm)
    environment = dict(os.environ)
    if "HPCTRAIN_HEALTH_CONFIG" not in environment and (name := choose(context.settings).cluster):
        environment |= find_cluster(name).env
    config, problems = load_config(environment)
    for problem in [*problems, *parse_remedies(config.remedies, settle_s=config.settle_s)[1]]:
        say(f"configuration of the health checks: {problem}")
    site = site_of(context.slurm, config, context.clock)
    return dataclasses.replace(site, journal=Journal(Path(site.settings.journal)))


def nodes_service() -> Nodes:
    """The nodes of the cluster that this process is to use, acting in this user's name."""
    from hpctrain.nodes.service import Nodes

    site = nodes_site()
    by = f"{getpass.getuser()}@{os.uname().nodename}"
    return Nodes(site.slurm, site.config, site.clock, journal=site.journal, by=by)


def _print_lines(lines: Sequence[Line], output: str, *, once: bool) -> None:
    """One document for one look; one line for each act while it goes on for ever."""
    if output == "json":
        records = [dataclasses.asdict(line) for line in lines]
        if once:
            print_json("acts", records)
        else:
            for record in records:
                click.echo(json.dumps(record))
        return
    for line in lines:
        click.echo(f"{'ALERT ' if line.alert else ''}{line.node}: {line.step}: {line.text}")
    if once and not lines:
        click.echo("nothing to do")


def _told_acts(history: Sequence[Entry]) -> list[Entry]:
    """The acts, each once: its end where it has one."""
    ended = {entry.id for entry in history if entry.kind in ("done", "failed", "dropped")}
    return [one for one in history if one.kind != "next" and not (one.kind == "intent" and one.id in ended)]


def _act(entry: Entry) -> str:
    rule = f", rule '{entry.rule}'" if entry.rule else ""
    return f"{entry.step}: {entry.reason} (by {entry.by or 'unknown'}{rule})"


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
    from hpctrain.nodes.record import to_json as record_of

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
        "history": [record_of(entry) for entry in view.history],
    }
