"""``hpctrain fleet install-health``: the health checks on all nodes (entry point)."""

from __future__ import annotations

import difflib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpctrain.cli.fleet_options import Chosen, demand_all, dry_run_option, fleet_options, host_record, say_errors
from hpctrain.cli.output import output_option, print_json, say
from hpctrain.errors import UsageError

if TYPE_CHECKING:
    from hpctrain.fleet.fleet import Fleet, HostResult
    from hpctrain.fleet.health_package import Package
    from hpctrain.fleet.install import Place, Report


@click.command("install-health")
@fleet_options
@click.option(
    "--config", type=click.Path(path_type=Path), metavar="FILE",
    help="The site's settings, TOML or compiled JSON.  [default: health.toml or health.json in /etc/hpctrain]",
)
@click.option("--status", "only_status", is_flag=True, help="Say what each host has and how it differs; change nothing.")
@click.option("--diff", is_flag=True, help="Like --status, with the differences of the configuration.")
@click.option("--rollback", is_flag=True, help="Have the hosts use the version before the one in use.")
@click.option("--root", default="/opt/hpctrain-health", show_default=True, help="Keep the versions there.")
@click.option("--directory", default="/etc/hpctrain", show_default=True, help="slurm.conf names programs there.")
@click.option("--python", default="/usr/bin/python3", show_default=True, help="The Python there, 3.10 or newer.")
@dry_run_option
@output_option
def install_health(
    *, chosen: Chosen, config: Path | None, only_status: bool, diff: bool, rollback: bool, root: str, directory: str,
    python: str, dry_run: bool, output: str,
) -> None:
    """Install or upgrade the health checks and their settings on many hosts.

    Each version is a directory of its own; a link leads to the one in use, and replacing it is the only step that changes
    what Slurm runs. Interrupted anywhere, a host has the old version or the new one. A host that is as it should be is left
    alone. slurm.conf is not touched: 'hpctrain health install' on the controller does that.

    Examples: hpctrain fleet install-health --all --sudo; hpctrain fleet install-health --all --sudo --status
    """
    from hpctrain.fleet.health_package import build_package, site_config
    from hpctrain.fleet.install import Place, compare, install, roll_back

    if rollback and (only_status or diff or config):
        raise UsageError("--rollback takes what the hosts have, and no other option of what to install")
    place = Place(root, directory, python)
    fleet = chosen.fleet()
    if rollback and not dry_run:
        _tell(roll_back(fleet, place, timeout_s=chosen.timeout_s), None, output)
        return
    package = build_package(site_config(config), root)
    if '"site_checks"' in package.config_text:
        say("note: checks of the site (site_checks) are not in the package: the Python of each host has to have them")
    if only_status or diff or dry_run:
        results = compare(fleet, package, place, timeout_s=chosen.timeout_s)
        differences = _differences(fleet, results, package, place, chosen.timeout_s) if diff else {}
        _tell_drift(results, package, output, differences, rollback=rollback, dry_run=dry_run)
        return
    stamp = time.strftime("%Y%m%d-%H%M%S")
    _tell(install(fleet, package, place, stamp=stamp, timeout_s=chosen.timeout_s), package, output)


def _record(result: HostResult[Report], diff: str | None = None) -> dict[str, Any]:
    report = result.value
    if report is None:
        return host_record(result, version=None)
    status = report.status
    more: dict[str, Any] = {
        "version": status.current or None, "previous": status.previous or None, "config": status.config or None,
        "python": status.python or None, "drift": list(report.drift), "changed": report.changed,
    }
    return host_record(result, **more, **({} if diff is None else {"diff": diff}))


def _tell(results: list[HostResult[Report]], package: Package | None, output: str) -> None:
    from hpctrain.fleet.fold import fold_hosts, group

    if output == "json":
        version = package.id if package else None
        print_json("install", {"version": version, "hosts": [_record(result) for result in results]})
    else:
        done = [(one.host, (one.value.status.current, one.value.changed)) for one in results if one.value is not None]
        for hosts, (version, changed) in group(done):
            click.echo(f"{fold_hosts(hosts)}: {version} {'in use now' if changed else 'is there already'}")
        say_errors(results)
    demand_all(results)


def _tell_drift(
    results: list[HostResult[Report]], package: Package, output: str, differences: dict[str, str], *, rollback: bool,
    dry_run: bool,
) -> None:
    from hpctrain.fleet.fold import fold_hosts, group
    from hpctrain.fleet.status import short

    drifted = [one.host for one in results if one.value is not None and one.value.drift]
    if output == "json":
        records = [_record(one, differences.get(one.host, "") if differences else None) for one in results]
        print_json("drift", {"version": package.id, "config": package.config or None, "dry_run": dry_run, "hosts": records})
    else:
        click.echo(f"{'here':<24} {package.id:<24} config {short(package.config)}")
        rows = [
            (one.host, (one.value.status.current, one.value.status.previous, one.value.status.config, one.value.drift,
                        differences.get(one.host, "")))
            for one in results if one.value is not None
        ]
        for hosts, (current, previous, config, drift, difference) in group(rows):
            what = "; ".join(drift) or "as it should be"
            if dry_run:
                what = f"would go back to {previous or 'nothing: there is no version before'}" if rollback else (
                    f"would install {package.id} ({what})" if drift else what)
            click.echo(f"{fold_hosts(hosts):<24} {current or '-':<24} config {short(config)}: {what}")
            if difference:
                click.echo(difference)
        say_errors(results)
    # A look before an installation finds differences; a report of drift that finds some is to be noticed.
    demand_all(results, () if dry_run else drifted, what="failed, or are not as they should be")


def _differences(
    fleet: Fleet, results: list[HostResult[Report]], package: Package, place: Place, timeout_s: float
) -> dict[str, str]:
    """How the configuration of each host differs, as unified diffs."""
    from dataclasses import replace

    wanted = {one.host for one in results if one.value is not None and one.value.status.config != package.config}
    targets = {host: target for host, target in fleet.targets.items() if host in wanted}
    if not targets:
        return {}
    path = f"{place.directory}/health.json"
    texts = replace(fleet, targets=targets).each(lambda host: host.run(["cat", "--", path], timeout_s=timeout_s).text())
    found = {}
    for result in texts:
        if result.error is not None:
            say(f"{result.host}: {path}: {result.error}")
        before, after = (result.value or "").splitlines(), package.config_text.splitlines()
        lines = difflib.unified_diff(before, after, f"{result.host}:{path}", "here", n=1, lineterm="")
        found[result.host] = "\n".join(lines)
    return found
