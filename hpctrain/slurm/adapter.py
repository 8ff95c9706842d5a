"""Which way to Slurm: its own commands, or pyslurm (service).

The setting ``slurm_adapter`` decides: ``cli`` and ``pyslurm`` are what they say; ``auto`` means pyslurm where it pays. That
is in a process that asks again and again, such as a watchdog, where pyslurm is installed and was built for this Slurm. A
command that asks once or twice and ends is done before the helper process with pyslurm in it would have started
(docs/pyslurm.md has the numbers), and so it uses Slurm's commands.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from hpctrain.clock import Clock, SystemClock
from hpctrain.settings import Settings
from hpctrain.slurm.port import Slurm


@dataclass(frozen=True, slots=True)
class AdapterChoice:
    """The adapter that was chosen, and why.

    Attributes:
        required: the user named it, so that failing to use it is an error.
        why: the reason in words.
    """

    name: Literal["cli", "pyslurm"]
    why: str
    required: bool = False


def choose_adapter(wish: str, *, long_lived: bool, installed: Callable[[], bool] | None = None) -> AdapterChoice:
    """Decide; starts nothing. Whether pyslurm works, and fits this Slurm, shows when it is first used.

    Args:
        wish: value of the setting ``slurm_adapter``.
        long_lived: this process will ask again and again.
        installed: tells whether there is a pyslurm to import; looks for itself by default.
    """
    if wish == "cli":
        return AdapterChoice("cli", "slurm_adapter = cli")
    if wish == "pyslurm":
        return AdapterChoice("pyslurm", "slurm_adapter = pyslurm", required=True)
    if not long_lived:  # asked first: looking for a package takes a moment where Python lies on a busy file system
        return AdapterChoice("cli", "a command is done before pyslurm would have started")
    if not (installed or pyslurm_is_installed)():
        return AdapterChoice("cli", "pyslurm is not installed")
    return AdapterChoice("pyslurm", "pyslurm is installed, and this process asks again and again")


def pyslurm_is_installed() -> bool:
    """There is a pyslurm to import; it is not imported, because that may end the process."""
    return importlib.util.find_spec("pyslurm") is not None


def open_adapter(
    settings: Settings,
    env: Mapping[str, str],
    choice: AdapterChoice,
    *,
    clock: Clock | None = None,
    announce: Callable[[str], None] | None = None,
) -> Slurm:
    """The chosen adapter; it runs no command and starts no process before it is asked.

    Args:
        env: environment that leads to the cluster.
        announce: told in one sentence when something is being retried, and when pyslurm is given up.
    """
    from hpctrain.slurm.via_cli import SlurmCli

    clock, timeout_s, retries = clock or SystemClock(), settings.slurm_timeout_s, settings.slurm_retries
    commands = SlurmCli(env, timeout_s=timeout_s, retries=retries, clock=clock, announce=announce)
    if choice.name == "cli":
        return commands

    from hpctrain.slurm.commands import clean_environment
    from hpctrain.slurm.pyslurm_helper import Helper
    from hpctrain.slurm.via_pyslurm_client import SlurmPyslurm

    helper = Helper(clean_environment(env), commands.version)
    return SlurmPyslurm(
        commands, helper, required=choice.required, timeout_s=timeout_s, retries=retries, clock=clock, announce=announce,
    )
