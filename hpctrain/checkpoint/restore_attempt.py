"""One try to load one checkpoint from what is left of it, all ranks together (service)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hpctrain.checkpoint import codec
from hpctrain.checkpoint.distcp import by_name
from hpctrain.checkpoint.fill import FillPlan
from hpctrain.checkpoint.manifest import CommitRecord, Manifest
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.parts import PartTier
from hpctrain.checkpoint.ranks import Ranks, error_of
from hpctrain.checkpoint.restore import Items, Tree, give_back, targets_of, unfit
from hpctrain.checkpoint.restore_load import Load, Taken
from hpctrain.checkpoint.restore_options import Options
from hpctrain.checkpoint.restore_places import Places
from hpctrain.checkpoint.restore_report import parts_per_tier
from hpctrain.checkpoint.restore_sources import (
    ALL_PARTS,
    Agreement,
    Candidate,
    Origin,
    agree,
    as_part,
    manifest_digests,
    manifest_parts,
)
from hpctrain.checkpoint.restore_threads import Limits, Pulse, ReadCrew, bounded
from hpctrain.checkpoint.shards import StoredShard
from hpctrain.checkpoint.share import Share
from hpctrain.checkpoint.store import Store
from hpctrain.checkpoint.torch_state import RandomState
from hpctrain.checkpoint.write import check_shares

BeforeTouch = Callable[[], tuple[CheckpointName, ...]]
"""Called once it is certain that the checkpoint will do, before the first tensor is touched; returns what was pinned of what
it has made an end of."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checkpoint that is in the tensors; see :class:`hpctrain.checkpoint.restore_report.Restored`."""

    name: CheckpointName
    tiers: Mapping[str, int]
    nodes: Mapping[str, tuple[str, ...]]
    stores: tuple[str, ...]
    size_bytes: int
    notes: tuple[str, ...]
    cause: str
    world: Mapping[str, Any]
    pinned: tuple[CheckpointName, ...]


@dataclass(frozen=True, slots=True)
class _Fact:
    """What a rank found when it opened a part; ``error`` is empty when it is good."""

    digest: str = ""
    error: str = ""
    cause: str = ""
    world: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Decision:
    """What rank 0 makes of the facts.

    Attributes:
        manifests: of the stores that can be used.
    """

    agreement: Agreement
    world_size: int
    manifests: Mapping[int, Manifest]
    notes: tuple[str, ...]
    cause: str
    world: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Told:
    """What one rank tells the others of parts that only it has opened."""

    shards: Mapping[int, tuple[tuple[StoredShard, ...], str]]
    own: Mapping[int, str]


class Attempt:
    """One candidate; :meth:`run` is a collective call."""

    def __init__(
        self, candidate: Candidate, ranks: Ranks, stores: Sequence[Store], tiers: Mapping[str, PartTier], *,
        limits: Limits, crew: ReadCrew, pulse: Pulse,
    ) -> None:
        self._candidate, self._ranks, self._stores, self._limits, self._pulse = candidate, ranks, stores, limits, pulse
        self._crew = crew
        self._places = Places(candidate.name, tiers, stores, limits)

    def run(
        self, items: Items, rng: RandomState | None, *, with_stores: bool, before_touch: BeforeTouch | None
    ) -> Loaded | str:
        """Load it; every rank returns the same reason why it cannot be used.

        Args:
            with_stores: also use what stores have of it.

        Raises:
            CheckpointError: it does not fit what is registered.
        """
        try:
            decision = self._decide(with_stores=with_stores)
            if decision.agreement.lacking:
                # Where no node has anything, only what is wrong with the stores is worth saying.
                missing = [decision.agreement.lacking] if decision.world_size or not decision.notes else []
                return "; ".join((*missing, *decision.notes))
            self._places.use(decision.manifests)
            told = self._tell_each_other(decision)
            table, reason = self._table(decision, told)
            if reason:
                return reason
            own, reason = self._own_state(decision, told)
            if own is None:
                return reason
            plan, tensors = self._plan(items, own, table)

            def apply() -> None:
                same_world = decision.world_size == self._ranks.world_size
                give_back(items, rng if same_world else None, own, tensors)

            return self._load(decision, plan, apply, before_touch)
        finally:
            self._places.close()

    # --- which sources ----------------------------------------------------------------------------------------------

    def _decide(self, *, with_stores: bool) -> _Decision:
        gathered = self._ranks.gather(self._open_parts())
        decision = None
        if self._ranks.is_first:
            facts = {origin: fact for found in gathered for origin, fact in found.items()}
            opened, errors = self._open_stores() if with_stores else ({}, [])
            decision = self._judge(facts, opened, errors)
        self._pulse.alive()
        agreed = self._ranks.broadcast(decision)
        assert agreed is not None  # noqa: S101 - for the type checker: rank 0 has made it
        return agreed

    def _open_parts(self) -> dict[Origin, _Fact]:
        facts = {}
        for origin in self._candidate.origins:
            if self._candidate.opener(origin) != self._ranks.rank:
                continue
            try:
                part = self._places.open(origin)
                if part.world_size != self._candidate.world_size:
                    raise ValueError(f"it is of a world of {part.world_size}")
                facts[origin] = _Fact(part.digest, cause=part.reason, world=part.world)
            except Exception as error:  # noqa: BLE001 - whatever it is, there may be another place
                facts[origin] = _Fact(error=str(error) or type(error).__name__)
            self._pulse.alive()
        return facts

    def _open_stores(self) -> tuple[dict[int, tuple[CommitRecord, Manifest]], list[str]]:
        opened, errors = {}, []
        for index in self._candidate.stores:
            store = self._stores[index]
            try:
                opened[index] = bounded(lambda store=store: store.open(self._candidate.name),  # type: ignore[misc]
                                        self._limits.open_s, store.tier)
            except (ValueError, OSError) as error:
                errors.append(f"{store.tier}: {error}" if len(self._stores) > 1 else str(error))
        return opened, errors

    def _judge(
        self, facts: Mapping[Origin, _Fact], opened: Mapping[int, tuple[CommitRecord, Manifest]], errors: Sequence[str]
    ) -> _Decision:
        notes = [f"the part of rank {origin.part} in {origin} cannot be used: {fact.error}"
                 for origin, fact in facts.items() if fact.error]
        digests = {origin: fact.digest for origin, fact in facts.items() if not fact.error}
        notes.extend(errors)
        manifests: dict[int, Manifest] = {}
        committed: dict[int, str] | None = None
        for index, (_, manifest) in opened.items():
            found = manifest_digests(manifest)
            if committed is None or committed == found:
                committed, manifests[index] = found, manifest
            else:
                notes.append(f"{self._stores[index].tier} holds another checkpoint of that name and is left out")
        world_size = self._candidate.world_size
        if committed is not None:
            world_size = len(committed)
        agreement = agree(digests, committed, world_size)
        first = next(iter(manifests), None)
        record = opened[first][0] if first is not None else None
        fact = next((facts[origin] for origin in agreement.origins), _Fact())
        return _Decision(
            agreement, world_size, manifests, (*notes, *agreement.notes), record.reason if record else fact.cause,
            dict(record.world if record else fact.world),
        )

    # --- what is in it ----------------------------------------------------------------------------------------------

    def _tell_each_other(self, decision: _Decision) -> list[_Told]:
        """The tables of the parts that no manifest tells of, and the state of ranks that see theirs on no tier."""
        shards: dict[int, tuple[tuple[StoredShard, ...], str]] = {}
        own: dict[int, str] = {}
        same_world = decision.world_size == self._ranks.world_size
        for part in range(decision.world_size):
            origin = decision.agreement.of_part(part)
            if origin is None or self._candidate.opener(origin) != self._ranks.rank:
                continue
            opened = self._places.open(origin)
            if not decision.manifests:
                shards[part] = (tuple(as_part(opened.shards, part)), opened.replicated)
            if same_world or part == 0:
                own[part] = opened.own_state
        # What only this rank needs it need not tell.
        others = {part: text for part, text in own.items() if not same_world or part != self._ranks.rank}
        told = self._ranks.everyone(_Told(shards, others))
        told[self._ranks.rank] = _Told(shards, own)
        return told

    def _own_part(self, decision: _Decision) -> int:
        """Whose state that is no tensor is ours: on another number of ranks there is none, and what all share is in each."""
        return self._ranks.rank if decision.world_size == self._ranks.world_size else 0

    def _table(self, decision: _Decision, told: Sequence[_Told]) -> tuple[dict[str, list[StoredShard]], str]:
        if decision.manifests:
            parts = manifest_parts(next(iter(decision.manifests.values())))
            return by_name(stored for part, shards in parts.items() for stored in as_part(shards, part)), ""
        found = {part: entry for one in told for part, entry in one.shards.items()}
        shares = [Share(part, (), found[part][0], found[part][1]) for part in sorted(found)]
        reason = self._ranks.on_first(lambda: error_of(lambda: check_shares(shares)))
        return by_name(stored for share in shares for stored in share.shards), reason

    def _own_state(self, decision: _Decision, told: Sequence[_Told]) -> tuple[Tree | None, str]:
        part = self._own_part(decision)
        found: dict[int, Tree] = {}
        same_world = decision.world_size == self._ranks.world_size
        texts = {rank: text for one in told for rank, text in one.own.items()}

        def read() -> None:
            text = texts[part] if part in texts else self._places.own_state(part)
            found[part] = codec.decode(json.loads(text))

        if same_world or part in texts:
            error = self._ranks.first_error(error_of(read))
        else:  # only one rank reads what all need
            error = self._ranks.on_first(lambda: error_of(read))
            found = self._ranks.broadcast(found)
        return (None, error) if error else (found[part], "")

    # --- loading ----------------------------------------------------------------------------------------------------

    def _load(
        self, decision: _Decision, plan: FillPlan, apply: Callable[[], None], before_touch: BeforeTouch | None
    ) -> Loaded | str:
        stores = {index: Origin(self._stores[index].tier, "", ALL_PARTS, index) for index in decision.manifests}
        origins = {origin: self._candidate.origins[origin] for origin in decision.agreement.origins}
        options = Options(origins, list(stores.values()), self._ranks.world_size)
        load = Load(plan, self._places, options, self._ranks, crew=self._crew, pulse=self._pulse)
        pinned: tuple[CheckpointName, ...] = ()
        if before_touch is not None:
            # Nothing newer is given up for a checkpoint that turns out to be damaged.
            _, reason = load.run(deliver=False)
            if reason:
                return reason
            pinned = before_touch()
        taken, reason = load.run()
        if reason:
            return reason
        if error := self._ranks.first_error(error_of(apply)):
            raise self._unfit(error)
        return self._describe(decision, stores, options, taken, pinned=pinned)

    def _plan(self, items: Items, own: Tree, table: dict[str, list[StoredShard]]) -> tuple[FillPlan, dict[str, Any]]:
        """What this rank needs, and the tensors that are to be filled.

        Raises:
            CheckpointError: it does not fit what is registered; raised on every rank.
        """
        tensors: dict[str, Any] = {}
        plans: list[FillPlan] = []

        def make() -> None:
            tensors.update(targets_of(items, own))
            plans.append(FillPlan(tensors, table, self._ranks.world_size))

        if error := self._ranks.first_error(error_of(make)):
            raise self._unfit(error)
        return plans[0], tensors

    def _unfit(self, error: str) -> Exception:
        return unfit(str(self._candidate.name), ", ".join(store.where for store in self._stores), error)

    def _describe(
        self, decision: _Decision, stores: Mapping[int, Origin], options: Options, taken: Taken, *,
        pinned: tuple[CheckpointName, ...],
    ) -> Loaded:
        told_by = {part: decision.agreement.of_part(part) or next(iter(stores.values()))
                   for part in range(decision.world_size)}
        tiers, nodes = parts_per_tier(taken.by_part, told_by)
        failures = dict.fromkeys(f"{failure}; taken from elsewhere" for failure in options.failures)
        return Loaded(
            self._candidate.name, tiers, nodes, tuple(self._stores[index].tier for index in self._candidate.stores),
            taken.size_bytes, (*decision.notes, *failures), decision.cause, decision.world, pinned,
        )
