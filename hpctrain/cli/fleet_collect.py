"""``hpctrain fleet collect``: one archive with what a person needs to understand a node's trouble (entry point)."""

from __future__ import annotations

import getpass
import os
import time
from pathlib import Path
from typing import Any

import click

from hpctrain.cli.fleet_options import Chosen, demand_all, dry_run_option, fleet_options, say_errors
from hpctrain.cli.output import output_option, print_json, say
from hpctrain.errors import StorageError


@click.command("collect")
@fleet_options
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE|DIRECTORY",
    help="Write the archive there.  [default: hpctrain-bundle-TIME.tar.gz here]",
)
@click.option("--also", multiple=True, metavar="PATH", help="The end of this file on the hosts, too; may be given again.")
@click.option(
    "--limit", "limit_mib", type=click.IntRange(1, 1024), default=8, show_default=True, help="At most so many MiB of a host."
)
@click.option("--slurm/--no-slurm", "with_slurm", default=True, show_default=True, help="Ask Slurm's controller, too.")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Health settings for hosts that have none.")
@click.option("--python", default="/usr/bin/python3", show_default=True, help="The Python there, 3.10 or newer.")
@click.option("--directory", default="/etc/hpctrain", show_default=True, help="Where a host's own settings are.")
@dry_run_option
@output_option
def collect(
    *, chosen: Chosen, out: Path | None, also: tuple[str, ...], limit_mib: int, with_slurm: bool, config: Path | None,
    python: str, directory: str, dry_run: bool, output: str,
) -> None:
    """Collect logs, versions, GPU and Slurm state of hosts into one private archive, without secrets.

    Passwords, tokens, keys and values of variables whose names sound like one are taken out before anything is written;
    files that hold secrets alone, such as the munge key, are never read. manifest.json in the archive says what was taken
    out, what is missing, and which hosts failed. Look through it before you send it on.

    Example: hpctrain fleet collect -w c7 --sudo --also /var/log/nvidia-fabricmanager.log
    """
    from hpctrain.fleet.bundle import bundle_name, write_bundle
    from hpctrain.fleet.collect import Wish, make_bundle
    from hpctrain.fleet.collect import collect as collect_hosts
    from hpctrain.fleet.collect_items import SOURCES
    from hpctrain.fleet.fold import fold_hosts
    from hpctrain.fleet.health_package import build_package, site_config
    from hpctrain.fleet.install import Place

    now = time.time()
    path = out or Path()
    path = path / bundle_name(now) if path.is_dir() else path
    if path.exists():
        raise StorageError("this file is there already", where=str(path))
    fleet = chosen.fleet()
    if dry_run:
        names = ["health/recording.json", "health/events.jsonl", *(source.name for source in SOURCES), *also]
        if output == "json":
            print_json("plan", {"bundle": str(path), "hosts": list(fleet.targets), "files": names})
        else:
            click.echo(f"would collect from {fold_hosts(fleet.targets)} into {path}:\n  " + "\n  ".join(names))
        return
    package = build_package(site_config(config))
    wish = Wish(limit_mib * 2**20, chosen.timeout_s, also)
    results = collect_hosts(fleet, wish, package, Place(directory=directory, python=python))
    slurm, problems = _slurm(list(fleet.targets)) if with_slurm else ([], {})
    by = f"{getpass.getuser()}@{os.uname().nodename}"
    items, manifest = make_bundle(results, slurm, problems, now=now, by=by)
    size_bytes = write_bundle(path, items, now)
    if output == "json":
        print_json("bundle", {"path": str(path), "bytes": size_bytes, "manifest": manifest})
    else:
        redacted = sum(entry.get("redacted", 0) for entry in manifest["hosts"].values())
        click.echo(str(path))
        say(f"{len(items)} files, {size_bytes} bytes packed, {redacted} values taken out; only you may read it")
        say_errors(results)
        for name, entry in manifest["hosts"].items():
            if not entry["ok"] and "files" in entry:
                say(f"{name}: broke off: {entry['error']}")
    broken = [name for name, entry in manifest["hosts"].items() if not entry["ok"]]
    demand_all(results, broken)


def _slurm(labels: list[str]) -> tuple[list[Any], dict[str, str]]:
    """What Slurm's controller says, where there is one; of the hosts that it has as nodes."""
    from hpctrain.errors import HpctrainError
    from hpctrain.fleet.slurm_state import slurm_state
    from hpctrain.settings_file import load_settings
    from hpctrain.slurm.connect import choose

    try:
        choice = choose(load_settings())
    except HpctrainError as error:
        return [], {"slurm": str(error)}
    names = [label for label in labels if "@" not in label and ":" not in label]
    return slurm_state({**os.environ, **choice.env}, names, timeout_s=20.0)
