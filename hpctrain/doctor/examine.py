"""Everything that ``hpctrain doctor`` looks at (service)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hpctrain.clock import Clock
from hpctrain.doctor import host_checks, slurm_checks
from hpctrain.doctor.finding import Check
from hpctrain.errors import HpctrainError
from hpctrain.settings import Settings
from hpctrain.slurm.adapter import choose_adapter
from hpctrain.slurm.commands import Commands, clean_environment
from hpctrain.slurm.connect import choose
from hpctrain.slurm.pyslurm_helper import Helper
from hpctrain.slurm.via_cli import SlurmCli


@dataclass(frozen=True, slots=True)
class Report:
    """What was found.

    Attributes:
        adapters: name of the adapter, by who uses it: ``commands``, ``staying``.
        delegated: calls that go through Slurm's commands where pyslurm is in use, and why; empty where it is not.
    """

    checks: tuple[Check, ...]
    adapters: Mapping[str, str]
    delegated: Mapping[str, str]


def examine(settings: Settings, env: Mapping[str, str], clock: Clock) -> Report:
    """Look at this machine, at Slurm, and at the way to it. Changes nothing; asks the controller a few times."""
    checks = [host_checks.python_check(), host_checks.hpctrain_check()]
    now, staying = (choose_adapter(settings.slurm_adapter, long_lived=long) for long in (False, True))
    try:
        choice = choose(settings, env)
    except HpctrainError as error:
        checks.append(slurm_checks.problem("slurm", error))
    else:
        environment = clean_environment({**env, **choice.env})
        commands = Commands(environment, settings.slurm_timeout_s, 0, clock)
        where = choice.slurm_conf or "found by Slurm itself"
        checks += slurm_checks.version_checks(commands)
        checks.append(Check("cluster", "ok", f"{choice.cluster or choice.kind}, configuration {where}: {choice.why}"))
        checks += slurm_checks.adapter_checks(now, staying, Helper(environment, SlurmCli(environment).version))
        checks += slurm_checks.controller_checks(commands, clock)
    checks += host_checks.runs_check(settings.runs_dir, clock.time())
    checks += [host_checks.gpu_check(), host_checks.torch_check(), host_checks.paramiko_check()]
    adapters = {"commands": now.name, "staying": staying.name}
    return Report(tuple(checks), adapters, _delegated() if "pyslurm" in adapters.values() else {})


def _delegated() -> dict[str, str]:
    from hpctrain.slurm.via_pyslurm_client import DELEGATED

    return dict(DELEGATED)
