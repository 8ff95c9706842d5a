"""Look at Slurm and at the way to it, for ``hpctrain doctor`` (service)."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from hpctrain.clock import Clock
from hpctrain.doctor.finding import Check, Status
from hpctrain.doctor.host_checks import skew_check
from hpctrain.doctor.read import controller_time, counting_since, read_config, user_requests
from hpctrain.errors import HpctrainError, SlurmError
from hpctrain.slurm.adapter import AdapterChoice, pyslurm_is_installed
from hpctrain.slurm.commands import Commands
from hpctrain.slurm.pyslurm_helper import Helper, HelperError

_MANY_PER_S = 2.0
"""Slurm's own rate limit, where a site has one, lets a user's bucket fill up at two requests a second."""


def problem(name: str, error: HpctrainError) -> Check:
    """An error as a finding."""
    return Check(name, "problem", str(error), error.advice)


def version_checks(commands: Commands) -> list[Check]:
    """The client commands: there, and of which version."""
    try:
        answer = commands.run("scontrol", "-V")
    except SlurmError as error:
        return [problem("slurm", error)]
    if not answer.ok:
        said = answer.stderr.strip()
        return [Check("slurm", "problem", f"scontrol -V fails: {said}", "reinstall Slurm's client commands")]
    return [Check("slurm", "ok", f"{answer.stdout.strip()} ({Path(answer.argv[0]).parent})")]


def controller_checks(commands: Commands, clock: Clock) -> list[Check]:
    """The controller answers; its version, clock and accounting."""
    asked = clock.monotonic()
    try:
        text = commands.read("cannot read Slurm's configuration", "scontrol", "show", "config")
    except SlurmError as error:
        return [problem("controller", error)]
    took_ms, now = (clock.monotonic() - asked) * 1000, clock.time()
    config = read_config(text)
    version, cluster = config.get("SLURM_VERSION", "unknown version"), config.get("ClusterName", "")
    checks = [Check("controller", "ok", f"cluster '{cluster}', Slurm {version}, answered in {took_ms:.0f} ms")]
    told = controller_time(text)
    if told is not None:
        checks.append(skew_check("controller clock", "the controller", told - now))
    return [*checks, _accounting(commands, config), _requests(commands, clock)]


def _accounting(commands: Commands, config: Mapping[str, str]) -> Check:
    kind = config.get("AccountingStorageType", "")
    if not kind.endswith("slurmdbd"):
        return Check("accounting", "note", "there is no slurmdbd: what Slurm has forgotten is known only from the runs'"
                     " own records", "an administrator can set up slurmdbd; hpctrain works without")
    answer = commands.run("sacct", "--noheader", "--parsable2", "--allocations", "--starttime=now", "--format=JobID")
    if answer.ok:
        return Check("accounting", "ok", f"slurmdbd on {config.get('AccountingStorageHost', 'its host')} answers")
    return Check("accounting", "note", f"slurmdbd does not answer: {answer.stderr.strip() or 'no reason given'}",
                 "'sacctmgr ping' says more; jobs run on, their records wait in slurmctld")


def _requests(commands: Commands, clock: Clock) -> Check:
    answer = commands.run("sdiag")
    found, since = user_requests(answer.stdout, os.getuid()), counting_since(answer.stdout)
    if not answer.ok or found is None or since is None:
        return Check("requests", "note", "sdiag does not say how many requests are yours (a site may forbid it)")
    count, each_s = found
    lasted_s = max(clock.time() - since, 1.0)
    text = f"{count} of yours in {lasted_s / 3600:.1f} h, {each_s * 1000:.1f} ms each"
    if count / lasted_s > _MANY_PER_S and count > 1000:
        return Check("requests", "note", text, "more than two a second: see what asks so often, Slurm may throttle you")
    return Check("requests", "ok", text)


def adapter_checks(now: AdapterChoice, staying: AdapterChoice, helper: Helper) -> list[Check]:
    """The way to Slurm that commands take, the one that a watchdog takes, and the state of pyslurm.

    Args:
        now: for commands that end soon.
        staying: for processes that stay.
        helper: not started yet; is ended here.
    """
    checks = [Check("adapter", "ok", f"{_words(now)}: {now.why}"),
              Check("adapter of watchdog and 'nodes tend'", "ok", f"{_words(staying)}: {staying.why}")]
    status: Status = "problem" if staying.required else "note"
    if not pyslurm_is_installed():
        advice = "pip install 'hpctrain[pyslurm]' where Slurm is 25.11; docs/pyslurm.md for others"
        return [*checks, Check("pyslurm", status, "not installed: Slurm's commands do everything", advice)]
    started = time.monotonic()
    try:
        hello = helper.hello()
    except HelperError as error:
        advice = "build pyslurm for this Slurm (docs/pyslurm.md), or set slurm_adapter = \"cli\""
        return [*checks, Check("pyslurm", status, f"cannot be used: {error}", advice)]
    finally:
        helper.close()
    took_ms = (time.monotonic() - started) * 1000
    text = f"{hello['pyslurm']}, built for Slurm {hello['built_for']}, ready in {took_ms:.0f} ms"
    return [*checks, Check("pyslurm", "ok", text)]


def _words(choice: AdapterChoice) -> str:
    return "Slurm's commands" if choice.name == "cli" else "pyslurm"
