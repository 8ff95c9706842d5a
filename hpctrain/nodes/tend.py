"""Carry out what the policy says about every node (service).

One look does this, in this order: acts that were begun are carried on, what others did is noted, then each node is decided
about and acted upon. Only one look at a time: it holds the journal's lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hpctrain.errors import StorageError
from hpctrain.health.policy import REMEDIES, Decision, Step, is_persons
from hpctrain.health.remedy_settings import filled
from hpctrain.nodes.acts import Acts, Wish, command_preview
from hpctrain.nodes.record import (
    DROPPED,
    FAILED,
    NEXT,
    SEEN,
    SPARE,
    Entry,
    failed_lately,
    interrupted,
    is_open_drain,
)
from hpctrain.nodes.replace import spares
from hpctrain.nodes.site import Site
from hpctrain.nodes.view import Fleets, NodeView, Viewer, gpu_of, is_out
from hpctrain.slurm.model import Node

BY = "hpctrain nodes tend"
AGAIN_S = 300.0
"""An act that Slurm refused is tried again after so long."""
_ACTS = REMEDIES | {Step.DRAIN, Step.RETURN}
_ALERTS = (Step.ALERT, Step.PERSON)


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that a look did or found.

    Attributes:
        step: value of :class:`hpctrain.health.policy.Step`, or ``spare``.
        done: it was done, or begun; False for what is only told.
        alert: somebody should read it.
    """

    node: str
    step: str
    text: str
    done: bool = False
    alert: bool = False


class Tender:
    """Looks after the nodes of one cluster."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._limits = site.settings.limits
        self._viewer = Viewer(site.config, site.clock, self._limits, resets=bool(site.settings.reset))

    def look(self, *, dry_run: bool = False) -> list[Line]:
        """Look at all nodes once and do what is due; what was done or, in a dry run, would be done.

        Raises:
            ControllerDownError: Slurm does not answer; what was begun is carried on by the next look.
            StorageError: the journal cannot be written, or another look is going on.
        """
        journal = self._site.journal
        if dry_run or journal is None:
            return list(self._decide(Acts(self._site, self._viewer), dry_run=True))
        with journal.locked():
            journal.compact(self._site.clock.time())
            acts = Acts(self._site, self._viewer)
            lines = list(self._carry_on(acts))
            self._note(acts, self._site.slurm.nodes())
            return lines + list(self._decide(acts, dry_run=False))

    def _carry_on(self, acts: Acts) -> Iterator[Line]:
        for intent in interrupted(acts.book.entries):
            if intent.step == SPARE:
                continue  # a part of a replacement, which carries it on
            try:
                end = acts.proceed(intent)
            except StorageError as error:
                yield Line(intent.node, intent.step, f"cannot be carried on: {error}", alert=True)
                continue
            if end is not None:
                yield _told(end)

    def _note(self, acts: Acts, nodes: list[Node]) -> None:
        """Drains that nodes made themselves count as ours, and so does a return that somebody else made."""
        busy = {entry.node for entry in interrupted(acts.book.entries)}
        for node in nodes:
            if node.name in busy:
                continue
            known = is_open_drain(acts.book.of(node.name))
            ours = is_out(node) and not is_persons(True, node.reason)
            now = self._site.clock.time()
            if ours and not known:
                when, by = node.reason_time or now, node.reason_user or "unknown"
                acts.add(Entry(when, node.name, SEEN, Step.DRAIN.value, reason=node.reason, by=by))
            elif known and not is_out(node):
                acts.add(Entry(now, node.name, SEEN, Step.RETURN.value, reason="somebody brought it back", by="unknown"))

    def _decide(self, acts: Acts, *, dry_run: bool) -> Iterator[Line]:
        nodes = self._site.slurm.nodes()
        fleets = self._viewer.fleets(nodes, acts.book)
        for node in nodes:
            view = self._viewer.view(node, fleets, acts.book)
            yield from self._act(acts, view, fleets, dry_run=dry_run)

    def _act(self, acts: Acts, view: NodeView, fleets: Fleets, *, dry_run: bool) -> Iterator[Line]:
        decision, node = view.decision, view.node
        changed = _is_news(decision, view.history)
        if not dry_run and changed:
            acts.add(_next(view, self._site.clock.time()))
        if decision.rule == "person" and changed and is_open_drain(view.history):
            text = f"drained by us, and now it has a reason that is not ours, so it is left alone: '{node.reason}'"
            yield Line(node.name, decision.step.value, text)
        if decision.step not in _ACTS:
            if decision.step not in (Step.KEEP, Step.WAIT) and (changed or dry_run):
                yield Line(node.name, decision.step.value, _why(decision), alert=decision.step in _ALERTS)
            elif dry_run and decision.rule != "healthy":
                yield Line(node.name, decision.step.value, _why(decision))
            return
        if failed_lately(view.history, decision.step.value, self._site.clock.time(), AGAIN_S):
            return
        if dry_run:
            yield Line(node.name, decision.step.value, f"would {self._words(view)} ({_why(decision)})")
            return
        try:
            intent, end = acts.begin(self._wish(view))
        except StorageError as error:
            yield Line(node.name, decision.step.value, f"cannot be done: {error}", alert=True)
            return
        if end is None or end.kind not in (FAILED, DROPPED):
            fleets.under_way |= {node.name} if decision.step in REMEDIES else set()
            if decision.step is Step.DRAIN:
                fleets.drained(node)
        begun = Line(node.name, intent.step, f"begun: {intent.reason} (rule '{intent.rule}')", done=True)
        yield _told(end) if end else begun

    def _wish(self, view: NodeView) -> Wish:
        decision = view.decision
        found = next((str(one["message"]) for one in view.evidence if one.get("level") == "drain"), "")
        reason = found if found and decision.step in REMEDIES else decision.reason
        detail: dict[str, object] = {}
        if decision.step is Step.DRAIN:
            reason = view.reason
            detail = {"verdict_time": view.facts.verdict_time}
        elif decision.step is Step.RESET:
            gpu = gpu_of(view.facts.fault.partition("/")[2])
            detail = {"gpu": gpu, "pci": _pci(view, gpu)}
        return Wish(decision.step, view.node.name, reason, decision.rule, BY, view.facts.fault, view.evidence, detail)

    def _words(self, view: NodeView) -> str:
        step, settings, name = view.decision.step, self._site.settings, view.node.name
        if step is Step.RESET:
            gpu = gpu_of(view.facts.fault.partition("/")[2])
            return f"let the node run {command_preview(filled(settings.reset, {'node': name, 'gpu': str(gpu)}))}"
        if step is Step.REPLACE:
            return replacement_words(self._site, view)
        return {
            Step.DRAIN: f"drain it with the reason '{view.reason}'",
            Step.REBOOT: "run scontrol reboot ASAP nextstate=DOWN, and check it afterwards",
            Step.RETURN: "bring it back into service",
        }[step]


def replacement_words(site: Site, view: NodeView) -> str:
    """What a replacement would do."""
    values = {"node": view.node.name, "reason": view.node.reason, "fault": view.facts.fault, "id": "ID"}
    command = filled(site.settings.replace, values)
    run = f"run {command_preview(command)}" if command else "run nothing (remedies.replace is not set)"
    pool = spares(site.slurm, site.settings.spares)
    told = f"take a spare out of reservation {pool.name} ({len(pool.nodes)} nodes)" if pool else "there are no spares"
    return f"{run}, and {told}"


def _pci(view: NodeView, gpu: int | None) -> str:
    """The GPU's address in the kernel log, where one of the findings names it."""
    own = [one for one in view.evidence if gpu is not None and gpu_of(str(one.get("entity", ""))) == gpu]
    return next((str(one["evidence"]["pci"]) for one in own if one.get("evidence", {}).get("pci")), "")


def _is_news(decision: Decision, history: tuple[Entry, ...]) -> bool:
    last = next((entry for entry in reversed(history) if entry.kind == NEXT), None)
    if last is None:
        return decision.rule != "healthy" and (decision.rule != "person" or is_open_drain(history))
    return (last.step, last.rule) != (decision.step.value, decision.rule)


def _next(view: NodeView, now: float) -> Entry:
    decision = view.decision
    return Entry(
        now, view.node.name, NEXT, decision.step.value, reason=decision.reason, rule=decision.rule, fault=view.facts.fault,
        by=BY, due=decision.due, evidence=tuple(view.evidence[:5]),
    )  # fmt: skip


def _told(end: Entry) -> Line:
    words = {FAILED: "failed", DROPPED: "left alone"}.get(end.kind, "done")
    rule = f" (rule '{end.rule}')" if end.rule else ""
    return Line(end.node, end.step, f"{words}: {end.reason}{rule}", done=words == "done", alert=end.kind == FAILED)


def _why(decision: Decision) -> str:
    return f"{decision.reason} (rule '{decision.rule}')"
