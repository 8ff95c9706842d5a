"""``hpctrain watchdog``: bring back jobs that cannot do so themselves (entry point)."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hpctrain.cli.output import SCHEMA_VERSION, output_option, print_json, say

if TYPE_CHECKING:
    from hpctrain.watchdog.assemble import Setting
    from hpctrain.watchdog.daemon import Daemon

F = TypeVar("F", bound=Callable[..., Any])
ONCE_PATIENCE_S = 60.0
STANDBY_S = 5.0


def _whole_cluster(function: F) -> F:
    return click.option(
        "--cluster", "whole_cluster", is_flag=True,
        help="Watch everybody's jobs, by what Slurm says and the status files in the site's spool.",
    )(function)


def _dry_run(function: F) -> F:
    return click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")(function)


@click.group()
def watchdog() -> None:
    """Bring back jobs whose coordinator is gone, and those that Slurm holds back.

    Run one per user, without an administrator's rights, or one per cluster, which also drains nodes that fail jobs again
    and again. A job that somebody cancelled or holds is left alone. Killed at any moment it repeats nothing and forgets
    nothing.
    """


@watchdog.command("run")
@_whole_cluster
@_dry_run
@output_option
def run(*, whole_cluster: bool, dry_run: bool, output: str) -> int:
    """Watch until told to stop; of several over the same state, one acts and the others stand by.

    With -o json each message is one JSON object on a line of its own.

    Example: hpctrain watchdog run --dry-run
    """
    from hpctrain.watchdog.assemble import lease_of
    from hpctrain.watchdog.assemble import watchdog as assembled
    from hpctrain.watchdog.journal import FencedError

    log = _log_json if output == "json" else _log
    setting, pause = _setting(whole_cluster=whole_cluster, log=log), _pause()
    if dry_run:
        with assembled(setting, None, say=log) as daemon:
            while not daemon.wait(daemon.turn(), pause):
                pass
        return 0
    lease, stopped, standing_by = lease_of(setting), False, False
    while not stopped:
        if not lease.acquire():
            if not standing_by:
                log("another watchdog is at work; standing by")
            standing_by, stopped = True, pause(STANDBY_S)
            continue
        try:
            with assembled(setting, lease, say=log) as daemon:
                log(f"watching (token {lease.token}, state in {setting.directory})")
                while not daemon.wait(daemon.turn(), pause):
                    pass
            stopped = True
        except FencedError as error:
            log(str(error))
            standing_by = False
        finally:
            lease.release()
    return 0


@watchdog.command("once")
@_whole_cluster
@_dry_run
@output_option
def once(*, whole_cluster: bool, dry_run: bool, output: str) -> int:
    """Look, do what is due, and end; for cron. Looks again for up to a minute while something is on its way.

    Example: hpctrain watchdog once --dry-run
    """
    from hpctrain.errors import ControllerDownError
    from hpctrain.watchdog.assemble import lease_of
    from hpctrain.watchdog.assemble import watchdog as assembled

    setting, pause = _setting(whole_cluster=whole_cluster), _pause()
    done: list[str] = []

    def keep(line: str) -> None:
        done.append(line)
        if output == "text":
            click.echo(line)

    lease = None if dry_run else lease_of(setting)
    if lease is not None and not lease.acquire():
        if output == "json":
            print_json("watchdog", {"acted": False, "dry_run": False, "deeds": [], "message": "another watchdog is at work"})
        else:
            click.echo("another watchdog is at work")
        return 0
    try:
        with assembled(setting, lease, say=keep) as daemon:
            silent = _some_turns(daemon, pause)
    finally:
        if lease is not None:
            lease.release()
    if output == "json":
        print_json("watchdog", {"acted": lease is not None, "dry_run": dry_run, "deeds": done, "message": ""})
    elif not done:
        click.echo("nothing to do")
    if silent:
        raise ControllerDownError("Slurm's controller does not answer", hint="nothing is concluded from that; try again")
    return 0


@watchdog.command("status")
@_whole_cluster
@output_option
def status(*, whole_cluster: bool, output: str) -> int:
    """Say who watches, what it has noticed and what it has done. Asks no controller."""
    from hpctrain.watchdog.status import read_status, status_lines

    found = read_status(_setting(whole_cluster=whole_cluster))
    if output == "json":
        print_json("watchdog", found)
    else:
        for line in status_lines(found, time.time()):
            click.echo(line)
    return 0 if found["running"] else 1


@watchdog.command("install")
@_whole_cluster
@click.option("--print/--apply", "only_print", default=True, show_default=True, help="Print the unit, or write it.")
@output_option
def install(*, whole_cluster: bool, only_print: bool, output: str) -> None:
    """Print or write a systemd unit that runs the watchdog with this installation.

    Example: hpctrain watchdog install --print
    """
    from hpctrain.files import storage_errors, write_atomic
    from hpctrain.resources import SLURM_SCRIPTS, shipped_file
    from hpctrain.watchdog.unit import NAME, UNITS, render_unit

    text = render_unit(
        shipped_file(SLURM_SCRIPTS, UNITS[whole_cluster]).read_text(encoding="utf-8"), python=sys.executable, env=os.environ,
    )
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    path = Path("/etc/systemd/system") / NAME if whole_cluster else home / "systemd" / "user" / NAME
    if not only_print:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text, mode=0o644)
    if output == "json":
        print_json("unit", {"path": str(path), "text": text, "written": not only_print})
    elif only_print:
        click.echo(text, nl=False)
        say(f"not written; '--apply' writes it to {path}")
    else:
        user = "" if whole_cluster else " --user"
        click.echo(f"wrote {path}; now: systemctl{user} daemon-reload && systemctl{user} enable --now {NAME}")


def _some_turns(daemon: Daemon, pause: Callable[[float], bool]) -> bool:
    """Turns until nothing is on its way any more; True if the controller never answered."""
    deadline = time.monotonic() + ONCE_PATIENCE_S
    while True:
        wait_s = daemon.turn()
        if not daemon.polls:
            return True
        if not daemon.unsettled or time.monotonic() + wait_s > deadline or pause(wait_s):
            return False


def _setting(*, whole_cluster: bool, log: Callable[[str], None] | None = None) -> Setting:
    """With ``log`` for one that stays, which is told what becomes of the connection to Slurm."""
    from hpctrain.api import make_context, require_slurm
    from hpctrain.cli.nodes import nodes_site
    from hpctrain.slurm.connect import choose
    from hpctrain.watchdog.assemble import Setting, state_directory, this_place
    from hpctrain.watchdog.config import parse

    context = make_context(slurm_retries=0, announce=log, long_lived=log is not None)
    slurm, choice = require_slurm(context), choose(context.settings)
    config = parse(context.settings.watchdog, where="config.toml")
    which = choice.cluster or choice.slurm_conf
    directory = state_directory(config, os.environ, which=which, whole_cluster=whole_cluster)
    return Setting(
        slurm, config, context.clock, directory, os.uname().nodename, this_place(), whole_cluster=whole_cluster,
        settle_s=context.settings.slurm_timeout_s + 5.0,
        site=replace(nodes_site(), slurm=slurm) if whole_cluster else None,
    )


def _pause() -> Callable[[float], bool]:
    """Waits, and says whether to stop: SIGTERM and Ctrl-C end the wait and, with it, the watchdog."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop.wait


def _log(text: str) -> None:
    say(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {text}")


def _log_json(text: str) -> None:
    click.echo(json.dumps({"schema_version": SCHEMA_VERSION, "time": time.time(), "message": text}))
