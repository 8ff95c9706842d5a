"""What all ``hpctrain fleet`` commands share: which hosts, how to go there, and how outcomes are told (entry point)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from hpctrain.cli.output import say
from hpctrain.errors import HostsFailedError, HpctrainError

if TYPE_CHECKING:
    from hpctrain.api import Context
    from hpctrain.fleet.fleet import Fleet, HostResult

F = TypeVar("F", bound=Callable[..., Any])
_NAMES = ("nodes", "hostfile", "everything", "silent", "user", "parallel", "timeout_s", "connect_timeout_s", "sudo")


@dataclass(frozen=True, slots=True)
class Chosen:
    """The shared options as they were given."""

    nodes: tuple[str, ...]
    hostfile: Path | None
    everything: bool
    silent: bool
    user: str
    parallel: int
    timeout_s: float
    connect_timeout_s: float
    sudo: bool

    def or_silent(self) -> Chosen:
        """The same; with the nodes that Slurm does not hear from where no host was chosen."""
        return self if self.nodes or self.hostfile or self.everything else replace(self, silent=True)

    def fleet(self) -> Fleet:
        """The hosts, ready to be gone to."""
        from hpctrain.fleet.fleet import Fleet
        from hpctrain.fleet.hosts import Choice, choose_hosts

        slurm_nodes = None
        if self.everything or self.silent:
            from hpctrain.api import require_slurm

            slurm_nodes = require_slurm(_context()).nodes()
        choice = Choice(self.nodes, self.hostfile, self.everything, self.silent, self.user)
        targets = choose_hosts(choice, slurm_nodes)
        return Fleet(targets, self.parallel, self.connect_timeout_s, self.sudo)


def _context() -> Context:
    from hpctrain.api import make_context

    return make_context(announce=say)


def fleet_options(function: F) -> F:
    """Add the shared options; the function gets them as one argument ``chosen``."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        chosen = Chosen(**{name: named.pop(name) for name in _NAMES})
        return function(*arguments, chosen=chosen, **named)

    options = (
        click.option("-w", "--nodes", multiple=True, metavar="LIST", help="These hosts: n[1-4],login or user@host:port."),
        click.option("-a", "--all", "everything", is_flag=True, help="All nodes that Slurm has."),
        click.option("--down", "silent", is_flag=True, help="The nodes that Slurm finds down, or that do not answer it."),
        click.option(
            "--hostfile", type=click.Path(path_type=Path), metavar="FILE", help="The hosts in this file, a list a line.",
        ),
        click.option("-l", "--user", default="", metavar="NAME", help="Log in as this user.  [default: as SSH does]"),
        click.option(
            "--parallel", type=click.IntRange(1, 512), default=32, show_default=True, help="Go to so many hosts at once."
        ),
        click.option(
            "--timeout", "timeout_s", type=click.FloatRange(min=1), default=120.0, show_default=True,
            help="Seconds that each host has.",
        ),
        click.option(
            "--connect-timeout", "connect_timeout_s", type=click.FloatRange(min=1), default=20.0, show_default=True,
            help="Seconds that connecting to each host may take.",
        ),
        click.option("--sudo", is_flag=True, help="Be root there through 'sudo -n', which asks for no password."),
    )
    decorated: Any = wrapped
    for option in reversed(options):
        decorated = option(decorated)
    return cast("F", decorated)


def dry_run_option(function: F) -> F:
    """Add ``--dry-run``."""
    return click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")(function)


def error_record(error: HpctrainError | None) -> dict[str, Any] | None:
    """An error as JSON."""
    if error is None:
        return None
    return {"kind": type(error).__name__, "exit_code": error.exit_code, "message": str(error), "hint": error.advice}


def host_record(result: HostResult[Any], **more: Any) -> dict[str, Any]:
    """A host's outcome as JSON."""
    return {"host": result.host, "seconds": round(result.seconds, 3), "error": error_record(result.error), **more}


def say_errors(results: Iterable[HostResult[Any]]) -> None:
    """Name the hosts that failed and why, those that failed alike together."""
    from hpctrain.fleet.fold import fold_hosts, group

    failed = [(one.host, _anywhere(str(one.error), one.host, one.error.advice)) for one in results if one.error is not None]
    for hosts, (message, advice) in group(failed):
        name = fold_hosts(hosts)
        say(f"{name}: {message.replace(_HOST, name)}")
        if advice:
            say(f"  hint: {advice.replace(_HOST, 'HOST' if len(hosts) > 1 else name)}")


_HOST = "\0"


def _anywhere(message: str, host: str, advice: str) -> tuple[str, str]:
    """The same words for all hosts, so that they can be told once."""
    import re

    word = re.compile(rf"(?<![\w.-]){re.escape(host)}(?![\w.-])")
    return word.sub(_HOST, message), word.sub(_HOST, advice)


def demand_all(results: Sequence[HostResult[Any]], failed: Iterable[str] = (), *, what: str = "failed") -> None:
    """Raise if any host failed.

    Args:
        failed: further hosts that count as failed.

    Raises:
        HostsFailedError: names them.
    """
    from hpctrain.fleet.fold import fold_hosts

    names = {*(result.host for result in results if result.error is not None), *failed}
    if names:
        raise HostsFailedError(f"{len(names)} of {len(results)} hosts {what}: {fold_hosts(names)}")
