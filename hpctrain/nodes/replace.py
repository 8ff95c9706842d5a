"""Replace a node: a hot spare takes its place, and the site's command asks for another (service).

Hot spares are the nodes of a Slurm reservation that nobody else may use. The first that is idle is taken out of it and so
belongs to everybody in its partition; the node that is replaced stays drained until a person brings it back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from hpctrain.clock import Clock
from hpctrain.health.remedy_settings import RemedySettings, filled
from hpctrain.nodes.hooks import Hooks
from hpctrain.nodes.record import DONE, FAILED, INTENT, SPARE, Entry
from hpctrain.slurm.model import Node, Reservation
from hpctrain.slurm.port import Slurm


class Replacing:
    """How nodes of one cluster are replaced."""

    def __init__(self, slurm: Slurm, settings: RemedySettings, hooks: Hooks, clock: Clock) -> None:
        self._slurm, self._settings, self._hooks, self._clock = slurm, settings, hooks, clock

    def was_started(self, intent: Entry) -> bool:
        """The site's command has been started for this act."""
        return self._hooks.state(intent.id, self._settings.replace_timeout_s).state != "absent"

    def give_spare(self, intent: Entry, entries: Sequence[Entry], add: Callable[[Entry], Entry]) -> None:
        """Give a spare to the partition, once for each act; nothing happens if there is none."""
        act = f"{intent.id}-{SPARE}"
        begun = next((entry for entry in entries if entry.id == act and entry.kind == INTENT), None)
        if any(entry.id == act and entry.kind == DONE for entry in entries):
            return
        pool = spares(self._slurm, self._settings.spares)
        if begun is None:
            chosen = self._choose(pool, intent)
            if chosen is None:
                return
            why = f"{chosen} takes the place of {intent.node}"
            begun = add(
                Entry(
                    self._clock.time(), intent.node, INTENT, SPARE, act, why, "replace", by=intent.by,
                    detail={"spare": chosen},
                )
            )  # fmt: skip
        chosen = str(begun.detail.get("spare", ""))
        if pool is not None and chosen in pool.nodes:
            left = [name for name in pool.nodes if name != chosen]
            if left:
                self._slurm.update_reservation(pool.name, left)
            else:
                self._slurm.delete_reservation(pool.name)
        add(replace(begun, kind=DONE, time=self._clock.time()))

    def ask_for_another(self, intent: Entry, reason: str) -> tuple[str | None, str]:
        """Run the site's command once; how the act ends and what is to be told, None while the command runs."""
        if not self._settings.replace:
            return DONE, "no command asks for another node here (remedies.replace): a person has to"
        command = self.command(intent.node, reason or intent.reason, intent.fault, intent.id)
        state = self._hooks.start(intent.id, command, self._settings.replace_timeout_s)
        if state.state == "running":
            return None, ""
        return DONE if state.ok else FAILED, state.told or "the command was not started"

    def command(self, node: str, reason: str, fault: str, act: str) -> list[str]:
        """The site's command for a node; empty if there is none."""
        return filled(self._settings.replace, {"node": node, "reason": reason, "fault": fault, "id": act})

    def _choose(self, pool: Reservation | None, intent: Entry) -> str | None:
        if pool is None:
            return None
        nodes = self._slurm.nodes(pool.nodes)
        return next((node.name for node in nodes if is_ready(node) and node.name != intent.node), None)


def spares(slurm: Slurm, name: str) -> Reservation | None:
    """The reservation of the hot spares; None if there is none."""
    return next((one for one in slurm.reservations() if one.name == name), None)


def is_ready(node: Node) -> bool:
    """A spare that could work at once."""
    return node.available and node.state == "IDLE"
