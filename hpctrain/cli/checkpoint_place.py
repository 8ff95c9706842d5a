"""Which checkpoints and what sizes a person means on the command line (entry point)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hpctrain.cli.jobs import complete_runs

if TYPE_CHECKING:
    from hpctrain.checkpoint.catalogue import Listed
    from hpctrain.checkpoint.tier_shared import SharedTier
    from hpctrain.jobs.find import Run

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Place:
    """The checkpoints that a person means.

    Attributes:
        run: None where only a directory was named.
    """

    tier: SharedTier
    run: Run | None

    @property
    def where(self) -> str:
        """For messages."""
        return str(self.tier.root)

    def look(self) -> list[Listed]:
        """Everything there, newest first."""
        from hpctrain.checkpoint.catalogue import look

        return look(self.tier)

    def choose(self, step: str) -> Listed:
        """The one that a person means."""
        from hpctrain.checkpoint.catalogue import choose

        return choose(self.look(), step, where=self.where)

    def choose_complete(self, step: str) -> Listed:
        """The same, but it must be complete.

        Raises:
            CheckpointError: it is not.
        """
        from hpctrain.errors import CheckpointError

        item = self.choose(step)
        if item.state != "complete":
            raise CheckpointError(f"{item.name} is {item.state}: {item.problem}", where=self.where)
        return item


def run_argument(function: F) -> F:
    """Add the argument ``RUN``."""
    return click.argument("run", metavar="RUN", shell_complete=complete_runs)(function)


def dry_run_option(what: str) -> Callable[[F], F]:
    """Add ``--dry-run``."""
    return click.option("--dry-run", is_flag=True, help=f"Only say what would be {what}.")


def find_place(key: str) -> Place:
    """A run's checkpoints, or a directory of checkpoints.

    Raises:
        NotFoundError: there is neither.
        MissingDependencyError: xxhash is not installed.
    """
    from hpctrain.errors import MissingDependencyError, NotFoundError
    from hpctrain.jobs.find import find_run, read_run
    from hpctrain.settings_file import load_settings

    try:
        from hpctrain.checkpoint.tier_shared import SharedTier
    except ImportError as error:
        raise MissingDependencyError(
            f"checkpoints need the package {error.name}", hint="pip install 'hpctrain[train]'",
        ) from None
    path = Path(key).expanduser().absolute()
    if "/" not in key or read_run(path) is not None:
        run = find_run(key, load_settings().runs_dir)
        return Place(SharedTier(run.dir.checkpoints), run)
    if not path.is_dir():
        raise NotFoundError(f"{key} is neither a run nor a directory of checkpoints")
    # A run directory without its record (a copy, or made without submit) is taken for what it holds.
    inner = path / "checkpoints"
    return Place(SharedTier(inner if inner.is_dir() else path), read_run(path.parent))
