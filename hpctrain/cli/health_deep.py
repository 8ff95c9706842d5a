"""``hpctrain health deep``: put nodes under load in exclusive jobs, and compare them with the fleet (entry point)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpctrain.cli.output import on_terminal, output_option, print_json, say
from hpctrain.ids import JobId

if TYPE_CHECKING:
    from hpctrain.api import Context
    from hpctrain.health.deep.files import DeepFiles
    from hpctrain.health.deep.judge import NodeVerdict, Verdict
    from hpctrain.health.deep.plan import DeepPlan
    from hpctrain.health.deep.report import Report
    from hpctrain.health.deep.service import Request
    from hpctrain.slurm.port import Slurm

_PROFILES = ("smoke", "standard", "long")


@dataclass(frozen=True)
class _Options:
    """What was typed, apart from how it is shown."""

    nodes: str
    pairwise: bool
    only: tuple[str, ...]
    profile: str
    band: float
    partition: str
    account: str
    reservation: str
    time_limit: int | None
    start_within: int
    local_dir: str
    baseline: Path | None


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--nodes", default="", metavar="LIST", help="Nodes, folded as Slurm writes them: n[1-4]."),
    click.option("--pairwise", is_flag=True, help="Measure pairs of nodes, too; then all nodes start together."),
    click.option("--only", multiple=True, metavar="CHECK", help="Run this check alone; may be repeated; 'none' for none."),
    click.option("--profile", type=click.Choice(_PROFILES), default="standard", show_default=True, help="How much work."),
    click.option("--band", type=click.FloatRange(0.1, 99), default=5.0, show_default=True, metavar="PERCENT",
                 help="How far below the baseline a value may lie."),
    click.option("--partition", default="", help="Slurm partition."),
    click.option("--account", default="", help="Slurm account."),
    click.option("--reservation", default="", help="Run in this (maintenance) reservation."),
    click.option("--time-limit", type=click.IntRange(min=1), metavar="MINUTES", help="Limit of a job.  [default: computed]"),
    click.option("--start-within", type=click.IntRange(min=1), default=60, show_default=True, metavar="MINUTES",
                 help="Skip nodes whose job has not started by then."),
    click.option("--local-dir", default="/tmp", show_default=True, help="Directory on each node's own disk."),  # noqa: S108
    click.option("--baseline", type=click.Path(path_type=Path), help="File of baselines.  [default: in the runs directory]"),
)  # fmt: skip


def _with_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@click.command("deep")
@_with_options
@click.option("--save-baseline", is_flag=True, help="Store what this run measured as what is normal.")
@click.option("--drain", is_flag=True, help="Drain the nodes that are to blame; otherwise they are only reported.")
@click.option(
    "--collect", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="DIRECTORY",
    help="Submit nothing: report what is on record of an earlier run, once its jobs are over.",
)
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write the report to this file, too.")
@click.option("--dry-run", is_flag=True, help="Show the jobs that would be submitted, and change nothing.")
@output_option
def deep(
    *, save_baseline: bool, drain: bool, collect: Path | None, html: Path | None, dry_run: bool, output: str, **typed: Any
) -> int:
    """Put nodes under load and find what is slow, wrong or broken.

    Exclusive jobs multiply matrices and verify the results, fill and copy memory, write and read disks, and talk between
    nodes. Nodes are compared with the stored baseline of their hardware, or with each other. Exit 0 nothing wrong, 1 slow,
    2 failed or corrupt. See docs/deep-checks.md.

    Example: hpctrain health deep --nodes n[1-4] --pairwise --profile smoke
    """
    from hpctrain.api import default_context, require_slurm
    from hpctrain.health.deep import files as storage
    from hpctrain.health.deep import service

    options, context = _Options(**typed), default_context()
    slurm = require_slurm(context)
    runs_dir = Path(context.settings.runs_dir)
    baseline_file = options.baseline or storage.default_baseline(runs_dir)
    required = options.baseline is not None and not save_baseline
    document = storage.read_baselines(baseline_file, required=required)
    if collect is not None:
        files, start_within_s = storage.DeepFiles(collect.absolute()), 60.0 * options.start_within
        numbers, skipped = files.jobs()
        ids = [JobId(number) for number in numbers]
    else:
        plan, request, skipped = _prepare(options, context, slurm, document)
        if dry_run:
            texts = service.scripts(plan, request, str(runs_dir / "deep-checks/NEW"), "NEW")
            _show_plan(plan, texts, skipped, output)
            return 0
        files, start_within_s = storage.new_run(runs_dir, _stamp(context.clock.time())), request.start_within_s
        ids = service.submit(slurm, plan, request, files, skipped)
        lost = f"if this command is lost: hpctrain health deep --collect {files.directory}"
        say(f"submitted {_count(len(ids), 'job')}; {lost}")
    ends = service.wait(slurm, ids, context.clock, start_within_s, say)
    report = service.collect(files, ends, skipped, context.clock)
    if save_baseline and not dry_run:
        _save_baseline(report, document, baseline_file)
    drained = _drain(report, dry_run=dry_run) if drain else {}
    _show(report, drained, files, html, output)
    return report.exit_code


def _stamp(seconds: float) -> str:
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime(seconds))


def _prepare(
    options: _Options, context: Context, slurm: Slurm, document: dict[str, Any]
) -> tuple[DeepPlan, Request, dict[str, str]]:
    from hpctrain.errors import UsageError
    from hpctrain.health.deep import service
    from hpctrain.health.deep.baseline import Band
    from hpctrain.health.deep.measurement import CHECKS
    from hpctrain.health.deep.plan import DeepPlan, Placement
    from hpctrain.slurm.connect import choose
    from hpctrain.slurm.nodelist import expand, fold

    try:
        names = expand(options.nodes)
    except ValueError as error:
        raise UsageError(str(error), hint="write nodes as Slurm does: n[1-4],m1") from None
    if not names:
        raise UsageError("--nodes names no node", hint="write nodes as Slurm does: --nodes n[1-4],m1")
    words = [word for text in options.only for word in text.split(",") if word]
    checks = () if words == ["none"] else service.check_names(words, list(CHECKS))
    if not checks and not options.pairwise:
        raise UsageError("there is nothing to do: no check, and no --pairwise")
    jobs, skipped = service.sort_out(slurm.nodes(names), pairwise=options.pairwise, reserved=bool(options.reservation))
    for option in ("partition", "account", "reservation"):
        service.require_plain(f"--{option}", getattr(options, option))
    private = choose(context.settings)
    band = Band(percent=options.band, widest_percent=max(50.0, options.band))
    plan = DeepPlan(
        checks, options.pairwise, options.profile, band, jobs, options.local_dir, document, private.kind == "private"
    )
    placement = Placement(options.partition, options.account, options.reservation, 60 * (options.time_limit or 0))
    env = _simulated(private.cluster) if private.kind == "private" else {}
    return plan, service.Request(placement, sys.executable, 60.0 * options.start_within, fold, env), skipped


def _simulated(cluster: str) -> dict[str, str]:
    """Where the simulated nodes of a private cluster keep their faults."""
    from hpctrain.devcluster.health_setup import has_health
    from hpctrain.devcluster.state import find_cluster, layout_of, load_spec
    from hpctrain.health.deep.simulated import VARIABLE

    spec = load_spec(find_cluster(cluster).state_dir) if cluster else None
    if spec is None or not has_health(layout_of(spec)):
        return {}
    return {VARIABLE: str(layout_of(spec).health_dir / "nodes")}


def _save_baseline(report: Report, document: dict[str, Any], path: Path) -> None:
    from hpctrain.files import make_private_dir, write_json_atomic
    from hpctrain.health.deep.baseline import merged

    if not report.new_baselines:
        say("no baseline was saved: there is no good value")
        return
    if not path.parent.exists():
        make_private_dir(path.parent)
    write_json_atomic(path, merged(document, report.new_baselines, time=report.time, run=report.run))
    counts = ", ".join(f"{len(metrics)} values of '{name}'" for name, metrics in report.new_baselines.items())
    say(f"saved {counts} to {path}")


def _drain(report: Report, *, dry_run: bool) -> dict[str, str]:
    """The worst first, since there may be more to blame than may be drained."""
    from hpctrain.cli.nodes import nodes_service
    from hpctrain.health.deep.judge import RANK

    worst_first = sorted(report.blamed, key=lambda node: -RANK[node.verdict])
    return nodes_service().drain_blamed({node.node: node.reason for node in worst_first}, dry_run=dry_run)


def _show_plan(plan: DeepPlan, texts: list[str], skipped: dict[str, str], output: str) -> None:
    if output == "json":
        jobs = [{"nodes": list(job.nodes), "script": text} for job, text in zip(plan.jobs, texts, strict=True)]
        what = {"checks": list(plan.checks), "pairwise": plan.pairwise, "profile": plan.profile}
        print_json("plan", {**what, "jobs": jobs, "skipped": skipped})
        return
    for job, text in zip(plan.jobs, texts, strict=True):
        click.echo(f"# would be submitted for {', '.join(job.nodes)}:\n{text}")
    for node, why in skipped.items():
        click.echo(f"# would be skipped: {node}: {why}")


def _show(report: Report, drained: dict[str, str], files: DeepFiles, html: Path | None, output: str) -> None:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(report.time))
    if html is not None:
        from hpctrain.files import write_atomic
        from hpctrain.health.deep.report_html import render

        write_atomic(html, render(report, when))
        say(f"wrote {html}")
    if output == "json":
        print_json("deep", {**report.to_json(), "drained": drained})
        return
    for node in report.nodes:
        _show_node(node)
    for one in report.rounds:
        value = "failed" if one.value is None else f"{one.value:.4g} GB/s"
        click.echo(f"pair      round {one.round}: {one.first} and {one.second}: {value} {one.detail}".rstrip())
    for name, told in drained.items():
        click.echo(f"drain     {name}: {told}")
    blamed = f"to blame: {', '.join(node.node for node in report.blamed)}" if report.blamed else "no node is to blame"
    click.echo(f"{report.worst.value:<9} {_count(len(report.nodes), 'node')}; {blamed}")
    say(f"records: {files.directory}")


def _show_node(node: NodeVerdict) -> None:
    click.secho(f"{node.verdict.value:<9}", fg=_colour(node.verdict), nl=False)
    click.echo(f" {node.node}{f' ({node.kind})' if node.kind else ''}{f': {node.reason}' if node.reason else ''}")
    for one in node.results:
        what = one.measurement
        value = "" if what.value is None else f"{what.value:.4g} {what.unit}"
        ratio = "" if one.ratio is None else f"{100 * one.ratio:.0f} %"
        line = f"    {what.metric or what.check:<20} {what.entity:<7} {value:>18} {ratio:>6}  "
        click.echo(line, nl=False)
        click.secho(f"{one.verdict.value:<9}", fg=_colour(one.verdict), nl=False)
        click.echo(f" {one.reason}" if one.verdict.bad or one.verdict.value == "skipped" else "")


def _colour(verdict: Verdict) -> str | None:
    colours = {"pass": "green", "slow": "yellow", "failed": "red", "corrupt": "red"}
    return colours.get(verdict.value) if on_terminal() else None


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
