"""Which checkpoints and what sizes a person means on the command line (entry point)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hpctrain.cli.jobs import complete_runs

if TYPE_CHECKING:
    from hpctrain.checkpoint.catalogue import Listed
    from hpctrain.checkpoint.store import Store
    from hpctrain.checkpoint.tier_object import ObjectTier
    from hpctrain.checkpoint.tier_shared import SharedTier
    from hpctrain.jobs.find import Run

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Place:
    """The checkpoints that a person means.

    Attributes:
        run: None where only a directory or a URL was named.
    """

    tier: Store
    run: Run | None

    @property
    def where(self) -> str:
        """For messages."""
        return self.tier.where

    def look(self) -> list[Listed]:
        """Everything there, newest first.

        Raises:
            StorageError: it cannot be read.
        """
        from hpctrain.checkpoint.catalogue import look
        from hpctrain.errors import StorageError

        try:
            return look(self.tier)
        except OSError as error:
            raise StorageError(f"cannot read: {error.strerror or error}", where=self.where) from error

    def object_url(self) -> str:
        """Of the run's object tier, as its recipe says; "" if it has none."""
        if self.run is None:
            return ""
        try:
            section = json.loads(self.run.dir.resolved_json.read_bytes())["checkpoint"]["object"]
            return f"{section['url'].rstrip('/')}/{self.run.dir.name}"
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return ""

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


def open_target(text: str) -> SharedTier | ObjectTier:
    """A directory or URL that checkpoints are written to.

    Raises:
        UsageError: the URL cannot be used.
        MissingDependencyError: the package for it is not installed.
    """
    from hpctrain.checkpoint.tier_shared import SharedTier

    return object_tier(text) if "://" in text else SharedTier(Path(text).expanduser().absolute())


def object_tier(url: str) -> ObjectTier:
    """An object store for somebody who waits for it: it is given up sooner than a writer would.

    Raises:
        UsageError: the URL cannot be used.
        MissingDependencyError: a package that is needed for it is not installed.
    """
    from hpctrain.checkpoint.object_patience import Limits
    from hpctrain.checkpoint.tier_object import ObjectTier

    return ObjectTier(url, limits=Limits(call_s=10.0, patience_s=20.0))


def find_place(key: str) -> Place:
    """A run's checkpoints on the shared file system, or those in a directory or at a URL.

    Raises:
        NotFoundError: there is neither.
        MissingDependencyError: a package that is needed for them is not installed.
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
    if "://" in key:
        return Place(object_tier(key), None)
    path = Path(key).expanduser().absolute()
    if "/" not in key or read_run(path) is not None:
        try:
            run = find_run(key, load_settings().runs_dir)
        except NotFoundError as error:
            if not path.is_dir():
                raise
            raise NotFoundError(error.message, hint=f"for the directory of that name here, write ./{key}") from None
        return Place(SharedTier(run.dir.checkpoints), run)
    if not path.is_dir():
        raise NotFoundError(f"{key} is neither a run nor a directory of checkpoints")
    # A run directory without its record (a copy, or made without submit) is taken for what it holds.
    inner = path / "checkpoints"
    return Place(SharedTier(inner if inner.is_dir() else path), read_run(path.parent))
