"""Look at nodes, take them out of service, mend them and bring them back by command (service).

A drain that is not ours is never changed here. Giving a node back also gives back its slot of the breaker, and settles what
the kernel log said: otherwise the next check would drain it again for what has been mended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from hpctrain.clock import Clock
from hpctrain.errors import SlurmError, StorageError, UsageError
from hpctrain.health.config import Config
from hpctrain.health.policy import Limits, Step
from hpctrain.health.remedy_settings import parse_remedies
from hpctrain.health.verdict import PREFIX
from hpctrain.ids import NodeName
from hpctrain.nodes.acts import Acts, Wish
from hpctrain.nodes.deep_drain import drain_blamed
from hpctrain.nodes.journal import Journal
from hpctrain.nodes.record import DROPPED, FAILED, Book, Entry
from hpctrain.nodes.site import Site
from hpctrain.nodes.tend import replacement_words
from hpctrain.nodes.view import NodeView, Viewer, is_out
from hpctrain.slurm.port import Slurm

__all__ = ["NodeView", "Nodes", "site_of"]


class Nodes:
    """The nodes of one cluster; ``config`` says where their health checks keep records.

    Args:
        limits: instead of those of the configuration.
        journal: where acts are written down; None keeps no record.
        by: who acts.
    """

    def __init__(
        self,
        slurm: Slurm,
        config: Config,
        clock: Clock,
        limits: Limits | None = None,
        *,
        journal: Journal | None = None,
        by: str = "",
    ) -> None:
        self._site, self._by = site_of(slurm, config, clock, limits, journal=journal), by
        settings = self._site.settings
        self._viewer = Viewer(config, clock, settings.limits, resets=bool(settings.reset))

    def look(self, names: Sequence[str] = ()) -> list[NodeView]:
        """Nodes in natural order; all of them without names. Raises NoSuchNodeError."""
        everything = self._site.slurm.nodes()
        chosen = self._site.slurm.nodes([NodeName(name) for name in names]) if names else everything
        book = Book(self._site.journal.entries() if self._site.journal else ())
        fleets = self._viewer.fleets(everything, book)
        return [self._viewer.view(node, fleets, book) for node in chosen]

    def drain(self, name: str, reason: str, *, dry_run: bool = False) -> str:
        """Take a node out of service in a person's name; what was or would be done, in one sentence.

        Raises:
            SlurmError: somebody else has drained it already.
            UsageError: the reason looks like one of ours.
        """
        if reason.strip().startswith(PREFIX):
            raise UsageError(f"a reason that begins with '{PREFIX}' is one of the health checks", hint="use other words")
        view = self._ours(name)
        if not dry_run:
            self._site.slurm.drain([view.node.name], reason)
        return f"{name}: {_would(dry_run)}drained: {reason}"

    def undrain(self, name: str, *, dry_run: bool = False) -> str:
        """Bring back a node that we drained: a person says that the fault is mended.

        Raises:
            SlurmError: the node is not drained, or not by us.
            StorageError: the records of its checks cannot be changed; the node stays drained.
        """
        return self._undrain(self._ours(name), "asked for", dry_run=dry_run)

    def validate(self, name: str, *, dry_run: bool = False) -> tuple[bool, str]:
        """Bring a node back if its checks say that it is healthy; whether it came back, and why or why not.

        Raises:
            SlurmError: the node is not drained, or not by us.
        """
        view = self._ours(name)
        if view.decision.step is not Step.RETURN:
            return False, f"{name}: {view.decision.step.value}: {view.decision.reason}"
        return True, f"{self._undrain(view, view.decision.rule, dry_run=dry_run)} ({view.decision.reason})"

    def reboot(self, name: str, reason: str, *, dry_run: bool = False) -> str:
        """Reboot a node once its jobs are over; it stays out until its checks of after the boot are clean.

        Raises:
            SlurmError: somebody else has drained it, or it is to be rebooted already.
            StorageError: the journal cannot be written.
        """
        view = self._ours(name)
        if view.facts.rebooting:
            raise SlurmError(f"node {name} is to be rebooted already", hint=f"'hpctrain nodes show {name}' tells more")
        if not dry_run:
            with self._acting() as acts:
                self._must(acts, Wish(Step.REBOOT, name, reason, "asked for", self._by, view.facts.fault, view.evidence))
        return f"{name}: {_would(dry_run)}rebooted when its jobs are over, and checked before it returns"

    def replace(self, name: str, reason: str, *, dry_run: bool = False) -> str:
        """Give its partition a hot spare, and run the site's command for another node; it stays drained.

        Raises:
            SlurmError: somebody else has drained it, or the command failed.
            StorageError: the journal cannot be written.
        """
        view = self._ours(name)
        if dry_run:
            return f"{name}: would {replacement_words(self._site, view)}"
        with self._acting() as acts:
            if not is_out(view.node):
                self._must(acts, Wish(Step.DRAIN, name, f"{PREFIX} to be replaced: {reason}", "asked for", self._by))
            end = self._must(acts, Wish(Step.REPLACE, name, reason, "asked for", self._by, view.facts.fault, view.evidence))
        if end is None:
            return f"{name}: the command runs; 'hpctrain nodes tend' tells how it ends"
        return f"{name}: {end.reason}"

    def drain_blamed(self, blamed: Mapping[str, str], *, dry_run: bool = False) -> dict[str, str]:
        """Take out of service what deep checks blame; what was or would be done about each node, in one sentence.

        Args:
            blamed: node -> why.

        Raises:
            ControllerDownError: Slurm does not answer.
            StorageError: the journal cannot be written.
        """
        with self._acting(optional=True) as acts:
            return drain_blamed(self._site, acts, self._viewer, blamed, self._by, dry_run=dry_run)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _ours(self, name: str) -> NodeView:
        (view,) = self.look([name])
        if view.by == "other":
            who = view.node.reason_user or "somebody"
            raise SlurmError(
                f"node {view.node.name} was drained by {who}: '{view.node.reason}'",
                hint="what is not ours is not changed; its owner can use 'scontrol update NodeName=... State=UNDRAIN'",
            )
        return view

    def _undrain(self, view: NodeView, rule: str, *, dry_run: bool) -> str:
        name = view.node.name
        if not is_out(view.node):
            raise SlurmError(f"node {name} is not drained")
        if not dry_run:
            with self._acting(optional=True) as acts:
                end = self._must(acts, Wish(Step.RETURN, name, f"drained for: {view.node.reason}", rule, self._by))
            if end is not None and not end.detail.get("settled", True):
                return f"{name}: back in service; its records are not here, so what its kernel log said still counts"
        return f"{name}: {_would(dry_run)}back in service; it was drained for: {view.node.reason}"

    def _must(self, acts: Acts, wish: Wish) -> Entry | None:
        intent, end = acts.begin(wish)
        if (refused := acts.refusals.get(intent.id)) is not None:
            raise refused
        if end is not None and end.kind in (FAILED, DROPPED):
            raise SlurmError(f"node {wish.node}: {wish.step.value}: {end.reason}")
        return end

    @contextmanager
    def _acting(self, *, optional: bool = False) -> Iterator[Acts]:
        """Acts under the journal's lock.

        Args:
            optional: whoever may not write the journal may do this all the same, and leaves no record.
        """
        journal = self._site.journal
        if journal is None or (optional and not _may_write(journal)):
            yield Acts(replace(self._site, journal=None), self._viewer)
            return
        with journal.locked():
            yield Acts(self._site, self._viewer)


def site_of(
    slurm: Slurm, config: Config, clock: Clock, limits: Limits | None = None, *, journal: Journal | None = None
) -> Site:
    """A cluster with the settings of its health configuration; limits and journal instead of theirs if they are given."""
    settings, _ = parse_remedies(config.remedies, settle_s=config.settle_s)
    return Site(slurm, config, replace(settings, limits=limits) if limits else settings, clock, journal)


def _may_write(journal: Journal) -> bool:
    try:
        with journal.locked():
            return True
    except StorageError:
        return False


def _would(dry_run: bool) -> str:
    return "would be " if dry_run else ""
