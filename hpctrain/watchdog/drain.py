"""Takes a node out of service on which jobs have failed again and again (service over the nodes' acts and journal).

It is the health policy that permits it, with the limits and the breaker that hold for 'hpctrain nodes tend': a drain of a
person is never touched, and no more nodes are drained at a time or in an hour than the site has set. The act is in the
journal of the nodes under this command's key, so that it is done once, whoever is killed in between.
"""

from __future__ import annotations

from hpctrain.health.policy import JOBS_PREFIX, Facts, Step, decide, is_persons
from hpctrain.ids import NodeName
from hpctrain.nodes.acts import Acts, Wish
from hpctrain.nodes.record import DONE, DROPPED, FAILED, Entry, interrupted
from hpctrain.nodes.site import Site
from hpctrain.nodes.view import Viewer, is_out, is_silent
from hpctrain.slurm.model import Node
from hpctrain.watchdog.model import Command

BY = "hpctrain watchdog"
RULE = "jobs failed there"
LONGEST_REASON = 200
LOCK_S = 2.0
"""Somebody else who acts on nodes is not waited for longer: the next try is soon enough."""
_STATES = {DONE: "done", DROPPED: "void", FAILED: "failed"}


class Drainer:
    """Drains nodes of one cluster, with an administrator's rights.

    Args:
        site: with the journal of the acts on its nodes.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._viewer = Viewer(site.config, site.clock, site.settings.limits, resets=bool(site.settings.reset))

    def drain(self, command: Command) -> tuple[str, str]:
        """Drain the command's node, if the policy permits it: the state for the watchdog's journal, and what came of it.

        Raises:
            ControllerDownError: Slurm does not answer; whether it happened is found out by the next try.
            StorageError: the nodes' journal cannot be written, or somebody else is acting on nodes; nothing was done.
        """
        (name,), journal = command.nodes, self._site.journal
        if journal is None:
            return "void", "there is no journal of the acts on nodes"
        with journal.locked(wait_s=LOCK_S):
            acts = Acts(self._site, self._viewer)
            own = [entry for entry in acts.book.of(name) if entry.detail.get("command") == command.key]
            if begun := interrupted(own):
                return _told(acts.proceed(begun[0]))
            if ended := [entry for entry in own if entry.kind in _STATES]:
                return _told(ended[-1])
            everything = {str(node.name): node for node in self._site.slurm.nodes()}
            if why := self._kept(acts, everything.get(name), list(everything.values())):
                return "void", why
            wish = Wish(Step.DRAIN, name, f"{JOBS_PREFIX}: {command.reason}"[:LONGEST_REASON], RULE, BY,
                        detail={"command": command.key})
            _, end = acts.begin(wish)
            return _told(end)

    def _kept(self, acts: Acts, node: Node | None, everything: list[Node]) -> str:
        """Why the node is not drained; "" if it is to be."""
        if node is None:
            return "Slurm does not know the node"
        if is_out(node) and not is_silent(node):
            who = "by somebody else" if is_persons(True, node.reason) else "by us"
            return f"it is out of service already, {who}: '{node.reason}'"
        now, limits = self._site.clock.time(), self._site.settings.limits
        fleet = self._viewer.fleets(everything, acts.book).of(node)
        facts = Facts(NodeName(str(node.name)), fault=RULE)
        decision = decide(facts, acts.book.history(str(node.name), now - limits.rate_s), fleet, limits, now)
        return "" if decision.step is Step.DRAIN else decision.reason


def _told(end: Entry | None) -> tuple[str, str]:
    return (_STATES[end.kind], end.reason) if end is not None else ("", "it goes on")
