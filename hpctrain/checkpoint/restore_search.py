"""Finds the newest checkpoint that all ranks can restore, in any mix of tiers, and loads it (service).

::

    search = Search(ranks, stores=[shared], tiers=[ram, peer], clock=clock, tell=tell, progress=progress)
    restored = search.restore(items, rng)             # None: there is nothing at all, start from step 0
    restored = search.restore(items, rng, before=90)  # rewind: what is newer than the one taken exists no more

Every rank asks its own node's tiers; rank 0 asks the stores, decides, and tells the others. docs/checkpoint-format.md,
*Restoring*, is the specification.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hpctrain.checkpoint import names
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.parts import PartTier
from hpctrain.checkpoint.ranks import Ranks
from hpctrain.checkpoint.restore_attempt import Attempt, Loaded
from hpctrain.checkpoint.restore_report import Restored, steps_lost
from hpctrain.checkpoint.restore_sources import Candidate, Sight, candidates
from hpctrain.checkpoint.restore_threads import HungError, Limits, Pulse, ReadCrew, bounded
from hpctrain.checkpoint.store import Store
from hpctrain.checkpoint.torch_state import RandomState, Stateful
from hpctrain.clock import Clock
from hpctrain.errors import CheckpointError, StorageError

Items = Mapping[str, Stateful]
_THREADS = max(1, min(4, os.cpu_count() or 1))
Tell = Callable[[str, str, int, Mapping[str, Any]], None]
"""Told of an event's kind, reason, step and evidence."""


class NothingOlderError(CheckpointError):
    """There are checkpoints, and none is old enough to rewind to."""


class Search:
    """Restores from what is left anywhere; made by every rank alike.

    Args:
        stores: of the job, best first; the same on every rank. Only rank 0 asks what they hold.
        tiers: of this rank's node: ``ram``, ``peer``, ``local``, those that it has.
        tell: told, on rank 0, of ``checkpoint.restored`` and ``checkpoint.skipped``.
        progress: told bytes of tensors that are done, and of all that this rank needs; at least every second, by another
            thread, while a restore is going on.
        node: this node's name; None for the host's. Ranks with the same name see the same tiers.
        limits: how long to wait for what.
    """

    def __init__(
        self, ranks: Ranks, stores: Sequence[Store], tiers: Sequence[PartTier], *, clock: Clock, tell: Tell,
        progress: Callable[[int, int], None] | None = None, node: str | None = None, limits: Limits | None = None,
    ) -> None:
        self._ranks, self._stores, self._clock, self._tell = ranks, list(stores), clock, tell
        self._tiers = {tier.tier: tier for tier in tiers}
        self._progress, self._limits = progress, limits or Limits()
        self._crew = ReadCrew(_THREADS, self._limits)
        self._node = socket.gethostname() if node is None else node

    def restore(
        self, items: Items, rng: RandomState | None, *, before: int | None = None, back: int = 1,
        reached: int | None = None,
    ) -> Restored | None:
        """Load the newest checkpoint that can be had; a collective call. None: there is nothing at all.

        Nothing counts that was loaded only partly: what is damaged is replaced from another place or another checkpoint.

        Args:
            items: what is registered, by name.
            rng: continued only on the number of ranks that saved.
            before: only a checkpoint with a smaller step; what is newer than the one taken is abandoned before the state
                is touched. Calling it again does the same again.
            back: with ``before``: 1 takes the newest step that is small enough, 2 the one before that, and so on; the oldest
                where there are fewer.
            reached: the last step that is known to have been completed; it only serves the report.

        Raises:
            CheckpointError: a store has committed checkpoints, but none can be used, or a store cannot be asked; or one
                does not fit what is registered, or none is older than ``before``.
            StorageError: what is newer could not be abandoned; the state is untouched.
            LostRanksError: another rank is gone, or does not answer in time.
        """
        started = self._clock.monotonic()
        self._crew = ReadCrew(_THREADS, self._limits)  # for all tries: what hangs once is not asked again
        with (Pulse(self._progress, self._limits.ranks_s) as pulse,
              self._ranks.patience(self._limits.ranks_s, "a checkpoint was restored")):
            heard, deaf = self._hear()
            pulse.alive()
            older = _further_back([one for one in heard if before is None or one.name.step < before], back)
            self._check_rewind(heard, older, deaf, before)
            passed: list[tuple[CheckpointName, str]] = []
            for candidate in older:
                newer = [] if before is None else [one for one in heard if one.name > candidate.name]
                loaded = self._try(candidate, items, rng, pulse, rewind=None if before is None else newer)
                if isinstance(loaded, Loaded):
                    lost = steps_lost(candidate.name, [one.name for one in heard], reached)
                    return self._report(loaded, started, lost, passed, [one.name for one in newer])
                passed.append((candidate.name, loaded))
                self._say("checkpoint.skipped", f"{candidate.name} is passed over: {loaded}", candidate.name.step,
                          {"checkpoint": str(candidate.name)})
        self._check_nothing(older, passed, deaf)
        return None

    # --- asking ---------------------------------------------------------------------------------------------------

    def _hear(self) -> tuple[list[Candidate], list[str]]:
        """Every checkpoint that anybody has heard of, newest first, and which stores cannot be asked."""
        sights = self._ranks.gather(self._look())
        found: tuple[list[Candidate], list[str]] = ([], [])
        if self._ranks.is_first:
            stored, deaf = self._list_stores()
            found = candidates(sights, stored), deaf
        return self._ranks.broadcast(found)

    def _look(self) -> Sight:
        held, errors = {}, []
        for tier in self._tiers.values():
            try:
                held[tier.tier] = bounded(tier.holdings, self._limits.list_s, tier.tier)
            except HungError as error:
                errors.append(str(error))
        return Sight(self._node, held, tuple(errors))

    def _list_stores(self) -> tuple[list[list[CheckpointName]], list[str]]:
        stored: list[list[CheckpointName]] = []
        deaf = []
        for store in self._stores:
            try:
                stored.append(bounded(lambda store=store: store.checkpoints(committed=True),  # type: ignore[misc]
                                      self._limits.list_s, store.tier))
            except (OSError, StorageError) as error:
                stored.append([])
                deaf.append(str(error) if isinstance(error, HungError) else f"{store.tier} cannot be listed: {error}")
        return stored, deaf

    # --- one checkpoint -------------------------------------------------------------------------------------------

    def _try(
        self, candidate: Candidate, items: Items, rng: RandomState | None, pulse: Pulse, rewind: list[Candidate] | None
    ) -> Loaded | str:
        """Load one; every rank returns the same reason why that cannot be."""
        reasons = []
        # The parts on nodes alone first: they are faster, and a store that hangs is then not asked. What a store has
        # committed is asked for only where they are not enough.
        for with_stores in [False] * (not candidate.lacking) + [True] * bool(candidate.stores):
            attempt = Attempt(candidate, self._ranks, self._stores, self._tiers, limits=self._limits, crew=self._crew,
                              pulse=pulse)
            prepare = None if rewind is None else lambda: self._abandon(rewind)
            loaded = attempt.run(items, rng, with_stores=with_stores, before_touch=prepare)
            if isinstance(loaded, Loaded):
                return loaded
            reasons.append(loaded)
        return "; ".join(dict.fromkeys(reasons)) or candidate.lacking

    # --- rewinding ------------------------------------------------------------------------------------------------

    def _abandon(self, newer: Sequence[Candidate]) -> tuple[CheckpointName, ...]:
        """Make newer checkpoints exist no more, on all tiers; returns those among them that somebody had pinned.

        Raises:
            StorageError: one may still exist.
        """
        pinned = self._ranks.on_first(lambda: self._abandon_stored(newer))
        for tier in self._tiers.values():
            for one in newer:
                try:
                    bounded(lambda tier=tier, one=one: tier.drop(one.name), self._limits.list_s, tier.tier)  # type: ignore[misc]
                except HungError:
                    break  # a disk that hangs; what is there is older than all that comes now, and alone is no checkpoint
        self._ranks.first_error("")  # all have dropped theirs before anybody goes on
        return pinned

    def _abandon_stored(self, newer: Sequence[Candidate]) -> tuple[CheckpointName, ...]:
        pinned = []
        for one in newer:
            for store in (self._stores[index] for index in one.stores):
                def work(store: Store = store, one: Candidate = one) -> bool:
                    kept = store.read_file(one.name, names.PIN) is not None
                    store.abandon(one.name)
                    return kept

                try:
                    if bounded(work, self._limits.open_s, store.tier) and one.name not in pinned:
                        pinned.append(one.name)
                except OSError as error:
                    raise StorageError(f"{one.name} cannot be abandoned: {error}", where=store.where,
                                       hint="nothing was restored; mend the storage and try again") from error
        return tuple(pinned)

    def _check_rewind(
        self, heard: Sequence[Candidate], older: Sequence[Candidate], deaf: Sequence[str], before: int | None
    ) -> None:
        if before is None:
            return
        if deaf:
            raise CheckpointError(f"cannot rewind to before step {before}: {'; '.join(deaf)}",
                                  hint="what is newer there would come back; try again when it can be listed")
        if heard and not older:
            raise NothingOlderError(f"there is no checkpoint before step {before}; the oldest is {heard[-1].name}",
                                    hint="keep more of them (checkpoint.keep_last), or start a new run")

    # --- the end --------------------------------------------------------------------------------------------------

    def _check_nothing(
        self, older: Sequence[Candidate], passed: Sequence[tuple[CheckpointName, str]], deaf: Sequence[str]
    ) -> None:
        """Nothing was restored: starting from step 0 is right only if there is nothing that could be mended.

        Parts on nodes alone hold nobody up: those of a save that a failure cut short never were a whole checkpoint.
        """
        where = ", ".join(store.where for store in self._stores)
        why = [f"{name}: {reason}" for name, reason in passed] + list(deaf)
        if deaf or any(one.is_committed for one in older):
            count = "there is 1 checkpoint" if len(passed) == 1 else f"there are {len(passed)} checkpoints"
            raise CheckpointError(
                f"{count} and none can be used: {'; '.join(why)}" if passed else
                f"it cannot be told whether there is a checkpoint: {'; '.join(why)}", where=where,
                hint="mend what the message names; to start from step 0 instead, move the directory away",
            )

    def _report(
        self, loaded: Loaded, started: float, lost: int, passed: Sequence[tuple[CheckpointName, str]],
        abandoned: Sequence[CheckpointName],
    ) -> Restored:
        restored = Restored(
            loaded.name, loaded.tiers, loaded.stores, self._clock.monotonic() - started, loaded.size_bytes, lost,
            tuple(passed), tuple(abandoned), loaded.pinned, loaded.notes, loaded.nodes, loaded.cause, loaded.world,
        )
        restored = self._ranks.broadcast(restored)  # rank 0's seconds: all say the same
        self._say("checkpoint.restored", f"{restored.line}; it was saved because {restored.cause}", restored.step,
                  restored.evidence())
        return restored

    def _say(self, kind: str, reason: str, step: int, evidence: Mapping[str, Any]) -> None:
        if self._ranks.is_first:
            self._tell(kind, reason, step, evidence)


def _further_back(older: list[Candidate], back: int) -> list[Candidate]:
    """Without the newest ``back - 1`` steps; the oldest step at least."""
    steps = sorted({one.name.step for one in older}, reverse=True)
    return [one for one in older if one.name.step <= steps[min(back, len(steps)) - 1]] if steps else []
