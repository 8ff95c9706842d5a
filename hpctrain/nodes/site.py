"""What acting on the nodes of one cluster takes (service)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hpctrain.clock import Clock
from hpctrain.health.config import Config
from hpctrain.health.remedy_settings import RemedySettings
from hpctrain.nodes.hooks import Hooks
from hpctrain.nodes.journal import Journal
from hpctrain.slurm.port import Slurm


@dataclass(frozen=True, slots=True)
class Site:
    """One cluster and what its site has set.

    Attributes:
        journal: None keeps no record: only for what a person does without the rights to the journal.
        hooks: who runs the site's commands; None for receipts beside the journal.
    """

    slurm: Slurm
    config: Config
    settings: RemedySettings
    clock: Clock
    journal: Journal | None = None
    hooks: Hooks | None = None

    @property
    def commands(self) -> Hooks:
        """Who runs the site's commands."""
        directory = self.journal.directory if self.journal else Path(self.settings.journal)
        return self.hooks or Hooks(directory / "hooks")
