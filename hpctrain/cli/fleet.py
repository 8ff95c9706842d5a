"""``hpctrain fleet``: nodes over SSH, where Slurm cannot reach (entry point)."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpctrain.cli.fleet_collect import collect
from hpctrain.cli.fleet_install import install_health
from hpctrain.cli.fleet_options import (
    Chosen,
    demand_all,
    dry_run_option,
    error_record,
    fleet_options,
    host_record,
    say_errors,
)
from hpctrain.cli.output import output_option, print_json, say

if TYPE_CHECKING:
    from hpctrain.fleet.fleet import Fleet, HostResult
    from hpctrain.fleet.session import Completed

_LEVEL_COLOURS = {"ok": "green", "observe": "cyan", "unknown": "magenta", "warn": "yellow", "drain": "red"}


@click.group()
def fleet() -> None:
    """Manage nodes over SSH, where Slurm cannot reach.

    Host keys must be in known_hosts, and keys or an agent log in: no password is ever used. One host's failure leaves the
    others alone; it is named, and the exit code is 18. See docs/fleet.md.
    """


fleet.add_command(install_health)
fleet.add_command(collect)


def _show_plan(fleet: Fleet, what: str, output: str) -> None:
    """What --dry-run prints."""
    from hpctrain.fleet.fold import fold_hosts

    if output == "json":
        targets = fleet.targets.items()
        hosts = [{"host": name, "address": one.host, "user": one.user, "port": one.port} for name, one in targets]
        print_json("plan", {"what": what, "hosts": hosts})
        return
    click.echo(f"would {what} on {len(fleet.targets)} hosts: {fold_hosts(fleet.targets)}")


@fleet.command("run", context_settings={"allow_interspersed_args": False})
@fleet_options
@click.option("--fold/--no-fold", "folded", default=True, show_default=True, help="Show equal outputs once.")
@dry_run_option
@output_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(*, chosen: Chosen, folded: bool, dry_run: bool, output: str, command: tuple[str, ...]) -> None:
    """Run a command on many hosts, and show equal outputs once.

    The words of the command reach the program there as they are; for pipes and variables of the hosts' shell, run sh -c.

    Examples: hpctrain fleet run --all -- uptime; hpctrain fleet run -w c[1-4] -- sh -c 'dmesg | tail -n 5'
    """
    fleet = chosen.fleet()
    if dry_run:
        _show_plan(fleet, f"run '{shlex.join(command)}'", output)
        return
    results = fleet.each(lambda host: host.run(command, timeout_s=chosen.timeout_s))
    if output == "json":
        print_json("hosts", [_run_record(result) for result in results])
    else:
        _show_outputs(results, folded=folded)
        say_errors(results)
    failed = [result.host for result in results if result.value is not None and not result.value.ok]
    demand_all(results, failed)


def _run_record(result: HostResult[Completed]) -> dict[str, Any]:
    done = result.value
    more: dict[str, Any] = {"returncode": None, "stdout": "", "stderr": "", "left_out_bytes": 0}
    if done is not None:
        more = {
            "returncode": done.returncode, "stdout": done.text(), "stderr": done.stderr.decode("utf-8", errors="replace"),
            "left_out_bytes": done.dropped_bytes,
        }
    return host_record(result, **more)


def _show_outputs(results: list[HostResult[Completed]], *, folded: bool) -> None:
    from hpctrain.fleet.fold import fold_hosts, group

    said = [(one.host, (done.returncode, done.stdout, done.stderr)) for one in results if (done := one.value) is not None]
    groups = group(said) if folded else [([host], what) for host, what in said]
    for hosts, (code, stdout, stderr) in groups:
        title = f"{fold_hosts(hosts)}{f' ({len(hosts)})' if len(hosts) > 1 else ''}"
        if code:
            title += f": exit {code}" if code > 0 else ": ended by a signal"
        click.secho(f"--- {title}", bold=True)
        for data, err in ((stdout, False), (stderr, True)):
            if data:
                text = data.decode("utf-8", errors="replace")
                click.echo(text, err=err, nl=not text.endswith("\n"))


@fleet.command("push")
@fleet_options
@dry_run_option
@output_option
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.argument("destination")
def push(*, chosen: Chosen, dry_run: bool, output: str, files: tuple[str, ...], destination: str) -> None:
    """Copy files to many hosts, each whole or not at all.

    A destination that ends with / is a directory. A copy is written under another name, compared by its hash, forced to disk
    and moved to its name. The mode is kept; as root there, owner and group are, too.

    Example: hpctrain fleet push --all --sudo gres.conf /etc/slurm/
    """
    from hpctrain.fleet.push import plan_copies
    from hpctrain.fleet.push import push as push_files

    copies = plan_copies([Path(name) for name in files], destination)
    fleet = chosen.fleet()
    if dry_run:
        listed = ", ".join(f"{copy.path} to {copy.remote_path} ({copy.mode:o})" for copy in copies)
        _show_plan(fleet, f"copy {listed}", output)
        return
    results = push_files(fleet, copies, timeout_s=chosen.timeout_s)
    if output == "json":
        print_json("hosts", [host_record(result, copied=result.value or 0) for result in results])
    else:
        good = sum(result.error is None for result in results)
        say(f"copied {len(copies)} file{'s' if len(copies) > 1 else ''} to {good} of {len(results)} hosts")
        say_errors(results)
    demand_all(results)


@fleet.command("check")
@fleet_options
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Settings for hosts that have none.")
@click.option("--python", default="/usr/bin/python3", show_default=True, help="The Python there, 3.10 or newer.")
@click.option("--directory", default="/etc/hpctrain", show_default=True, help="Where a host's own settings are.")
@output_option
def check(*, chosen: Chosen, config: Path | None, python: str, directory: str, output: str) -> None:
    """Judge hosts by the health checks; without --nodes, those that Slurm finds down or does not hear from.

    The checks are sent along: a host needs Python and nothing else. It is only looked at, and nothing stays there. A host
    that the checks would drain counts as failed.

    Example: hpctrain fleet check --down --sudo
    """
    from hpctrain.fleet.health_package import build_package, site_config
    from hpctrain.fleet.install import Place
    from hpctrain.fleet.look import check as check_hosts

    package = build_package(site_config(config))
    results = check_hosts(
        chosen.or_silent().fleet(), package, Place(directory=directory, python=python), timeout_s=chosen.timeout_s
    )
    if output == "json":
        print_json("hosts", [host_record(result, health=result.value) for result in results])
    else:
        _show_verdicts(results)
        say_errors(results)
    bad = [result.host for result in results if result.value is not None and result.value.get("level") == "drain"]
    demand_all(results, bad, what="failed, or are to be drained")


def _show_verdicts(results: list[HostResult[dict[str, Any]]]) -> None:
    width = max([4, *(len(result.host) for result in results)])
    click.echo(f"{'HOST':<{width}}  {'VERDICT':<8}  {'SLURMD':<8}  FINDINGS")
    for result in results:
        if result.value is None:
            error = error_record(result.error) or {}
            click.echo(f"{result.host:<{width}}  ", nl=False)
            click.secho(f"{'-':<8}", fg="red", nl=False)
            click.echo(f"  {'-':<8}  {error.get('kind', '')}")
            continue
        health = result.value
        level = str(health.get("level", "unknown"))
        daemon = "running" if (health.get("daemons") or {}).get("slurmd") else "absent"
        told = [one for one in health.get("findings", ()) if one.get("level") in ("drain", "warn", "unknown")]
        lines = [f"{one.get('level')}: {one.get('check')}: {one.get('message')}" for one in told] or ["none"]
        click.echo(f"{result.host:<{width}}  ", nl=False)
        click.secho(f"{level:<8}", fg=_LEVEL_COLOURS.get(level), nl=False)
        click.echo(f"  {daemon:<8}  {lines[0]}")
        for line in lines[1:]:
            click.echo(f"{'':<{width + 22}}{line}")
