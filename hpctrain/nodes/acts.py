"""Do to a node what was decided, once (service).

Every act is written down before it is done and after it. :meth:`Acts.proceed` carries an act on from wherever it was
interrupted: it first looks whether the world already shows it. Before anything is changed the node is read again, and what
a person has taken over meanwhile is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpctrain.errors import ControllerDownError, SlurmError, StorageError
from hpctrain.files import storage_errors
from hpctrain.health import breaker
from hpctrain.health.kernel_log import clear
from hpctrain.health.policy import Step, is_persons
from hpctrain.health.reset import CLAIM_S, ResetFiles, ask, claim_age_s, load, withdraw
from hpctrain.health.verdict import PREFIX
from hpctrain.ids import NodeName
from hpctrain.nodes.record import DONE, DROPPED, FAILED, INTENT, Book, Entry, next_id
from hpctrain.nodes.replace import Replacing
from hpctrain.nodes.site import Site
from hpctrain.nodes.view import Viewer, is_out, is_silent
from hpctrain.slurm.model import Node

_REASON_LENGTH = 160
_REBOOT_MARK = " (reboot "


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be done.

    Attributes:
        reason: why; for a drain the drain reason.
        by: who wants it.
    """

    step: Step
    node: str
    reason: str
    rule: str
    by: str
    fault: str = ""
    evidence: tuple[Mapping[str, Any], ...] = ()
    detail: Mapping[str, Any] | None = None


class Acts:
    """Acts on the nodes of one cluster; ``book`` has the journal's records.

    Attributes:
        refusals: what Slurm said no to, by the act's id.
    """

    def __init__(self, site: Site, viewer: Viewer) -> None:
        self._slurm, self._config, self._settings = site.slurm, site.config, site.settings
        self._clock, self._viewer, self._journal = site.clock, viewer, site.journal
        self.book = Book(site.journal.entries() if site.journal else ())
        self.refusals: dict[str, SlurmError] = {}
        self._replacing = Replacing(site.slurm, site.settings, site.commands, site.clock)
        self._how: Mapping[str, Callable[[Entry, Node], Entry | None]] = {
            Step.DRAIN.value: self._drain,
            Step.RESET.value: self._reset,
            Step.REBOOT.value: self._reboot,
            Step.REPLACE.value: self._replace,
            Step.RETURN.value: self._return,
        }

    def add(self, entry: Entry) -> Entry:
        """Write a record down. Raises StorageError."""
        if self._journal:
            self._journal.append(entry)
        self.book.add(entry)
        return entry

    def begin(self, wish: Wish) -> tuple[Entry, Entry | None]:
        """Write an act down and do it; its intent and its end, None for one that goes on.

        Raises:
            ControllerDownError: whether it happened is not known; the next look carries it on.
            StorageError: it cannot be written down, and was not done.
        """
        now = self._clock.time()
        name = next_id(self.book.of(wish.node), wish.node, now)
        intent = self.add(
            Entry(
                now, wish.node, INTENT, wish.step.value, name, wish.reason, wish.rule, wish.fault, wish.by,
                evidence=tuple(wish.evidence[:5]), detail=dict(wish.detail or {}),
            )
        )  # fmt: skip
        return intent, self.proceed(intent)

    def proceed(self, intent: Entry) -> Entry | None:
        """Carry an act on; its end, or None if it goes on by itself. Raises as :meth:`begin`."""
        try:
            (node,) = self._slurm.nodes([NodeName(intent.node)])
            end = self._how[intent.step](intent, node)
        except ControllerDownError:
            raise
        except SlurmError as error:
            self.refusals[intent.id] = error
            end = self._end(intent, FAILED, str(error))
        return self.add(end) if end else None

    # -- the acts ----------------------------------------------------------------------------------------------------

    def _drain(self, intent: Entry, node: Node) -> Entry:
        out = is_out(node) and not is_silent(node)
        if is_persons(out, node.reason):
            return self._end(intent, DROPPED, _whose(node))
        if not out:
            if self._config.breaker.directory and self._slot(intent) < 0:
                return self._end(intent, FAILED, "the breaker has no slot left")
            self._slurm.drain([node.name], intent.reason)
        return self._end(intent, DONE)

    def _reboot(self, intent: Entry, node: Node) -> Entry:
        if is_persons(is_out(node), node.reason):
            return self._end(intent, DROPPED, _whose(node))
        if f"{_REBOOT_MARK}{intent.id})" not in node.reason and (node.boot_time or 0.0) <= intent.time:
            self._slurm.reboot([node.name], _reboot_reason(node, intent))
        return self._end(intent, DONE)

    def _return(self, intent: Entry, node: Node) -> Entry:
        if is_persons(is_out(node), node.reason):
            return self._end(intent, DROPPED, _whose(node))
        if is_out(node) and (node.reason_time or 0.0) > intent.time:
            return self._end(intent, DROPPED, f"it was taken out anew: '{node.reason}'")
        settled = True
        if is_out(node):
            settled = self.settle_log(node.name)  # before the node is back: its next check would drain it again
            withdraw(self._reset_files(node.name))
            if node.state == "DOWN":
                self._slurm.resume([node.name])
            else:
                self._slurm.undrain([node.name])
        self._give_back_slot(node.name)
        end = self._end(intent, DONE)
        return replace(end, detail={**end.detail, "settled": settled})

    def _reset(self, intent: Entry, node: Node) -> Entry | None:
        files, counts = self._reset_files(node.name), {"counts": True}
        result, claim = load(files.result), load(files.claim)
        now = self._clock.time()
        if result.get("id") == intent.id:
            end = self._end(intent, DONE if result.get("ok") else FAILED, str(result.get("told", "")))
            # The node's own time: the check that it made right afterwards is newer, whenever we come to look.
            return replace(end, time=float(result.get("time", now)), detail={**intent.detail, **counts})
        if claim.get("id") == intent.id:
            if claim_age_s(files) < CLAIM_S:
                return None
            why = "the reset was begun and never ended"
            return replace(self._end(intent, FAILED, why), detail={**intent.detail, **counts})
        if not is_out(node) or is_persons(True, node.reason):
            withdraw(files)
            return self._end(intent, DROPPED, _whose(node) if is_out(node) else "it is back in service")
        if now - intent.time > self._settings.limits.remedy_s:
            withdraw(files)
            why = "the node's health program did not carry it out"
            return replace(self._end(intent, FAILED, why), detail={**intent.detail, **counts})
        if load(files.request).get("id") != intent.id:
            with storage_errors(files.request):
                ask(files, {"id": intent.id, "time": now, **intent.detail})
        return None

    def _replace(self, intent: Entry, node: Node) -> Entry | None:
        lost = not is_out(node) or is_persons(True, node.reason)
        if lost and not self._replacing.was_started(intent):
            return self._end(intent, DROPPED, _whose(node) if is_out(node) else "it is back in service")
        self._replacing.give_spare(intent, self.book.of(intent.node), self.add)
        kind, told = self._replacing.ask_for_another(intent, node.reason)
        if kind is None:
            return None
        detail = {**intent.detail, "counts": True}
        return replace(self._end(intent, kind, told), detail=detail)

    # -- inside ------------------------------------------------------------------------------------------------------

    def settle_log(self, name: str) -> bool:
        """Forget what the node's kernel log said; False if there are no records of this node here. Raises StorageError."""
        files = self._viewer.files(name)
        with storage_errors(files.state):
            if not files.state.exists():
                return False
            with files.locked() as locked:
                if not locked:
                    raise StorageError("the records of the node's checks are busy", where=str(files.state), hint="try again")
                state = files.load()
                files.save(replace(state, log=clear(state.log, "", self._clock.time())))
        return True

    def _slot(self, intent: Entry) -> int:
        directory = self._config.breaker.directory
        with storage_errors(directory):
            return breaker.take_slot(Path(directory), self._config.breaker.slots, intent.node, intent.reason)

    def _give_back_slot(self, name: str) -> None:
        if self._config.breaker.directory:
            with storage_errors(self._config.breaker.directory):
                breaker.release(Path(self._config.breaker.directory), name)

    def _reset_files(self, name: str) -> ResetFiles:
        return ResetFiles(self._viewer.files(name).state.parent, name)

    def _end(self, intent: Entry, kind: str, told: str = "") -> Entry:
        reason = f"{intent.reason}: {told}" if told and kind != DROPPED else told or intent.reason
        return replace(intent, time=self._clock.time(), kind=kind, reason=reason, evidence=())


def _whose(node: Node) -> str:
    return f"{node.reason_user or 'somebody'} has it for '{node.reason}'"


def _reboot_reason(node: Node, intent: Entry) -> str:
    """The reason that the node has, so that its evidence stays, and a mark by which a repeated look knows this reboot."""
    base = node.reason.split(_REBOOT_MARK)[0].split(" : reboot ")[0]
    if not base.startswith(PREFIX):
        base = f"{PREFIX} {intent.reason}"
    return f"{base[:_REASON_LENGTH]}{_REBOOT_MARK}{intent.id})"


def command_preview(command: Sequence[str]) -> str:
    """A command as a list, which is what is run."""
    return "[" + ", ".join(repr(argument) for argument in command) + "]"
