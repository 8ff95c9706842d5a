"""The part of :class:`hpctrain.testing.fake_slurm.FakeSlurm` that reboots, returns and reserves nodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from hpctrain.errors import SlurmError
from hpctrain.ids import NodeName
from hpctrain.slurm.model import Node, Reservation, clean_reason
from hpctrain.slurm.nodelist import natural_sort
from hpctrain.testing.fake_scheduler import FakeScheduler

YEAR_S = 365 * 86_400.0


class FakeNodes:
    """Nodes and reservations in memory; a rebooted node comes back when a test calls :meth:`boot`."""

    user: str
    _scheduler: FakeScheduler
    _reservations: dict[str, Reservation]

    # -- the port ----------------------------------------------------------------------------------------------------

    def resume(self, names: Iterable[NodeName]) -> None:
        """Clear DRAIN, DOWN and the reason."""
        self._call("resume")
        for name in self._steer(names):
            node = self._scheduler.nodes[name]
            state = "IDLE" if node.state == "DOWN" else node.state
            flags = node.flags - {"DRAIN", "REBOOT_REQUESTED", "REBOOT_ISSUED"}
            self._set(replace(node, state=state, flags=flags, reason="", reason_user="", reason_time=None))
        self._scheduler.schedule()

    def reboot(self, names: Iterable[NodeName], reason: str) -> None:
        """Drain and remember the wish; it is carried out by :meth:`boot`."""
        self._call("reboot")
        nodes, text = self._steer(names), clean_reason(reason)
        if not text:
            raise SlurmError("You must specify a reason when rebooting a node")
        for name in nodes:
            node = self._scheduler.nodes[name]
            if not node.flags & {"REBOOT_REQUESTED", "REBOOT_ISSUED"}:
                flags, now = node.flags | {"DRAIN", "REBOOT_REQUESTED"}, self._scheduler.clock.time()
                self._set(replace(node, flags=flags, reason=text, reason_user=self.user, reason_time=now))

    def reservations(self) -> list[Reservation]:
        """All reservations."""
        self._call("reservations")
        return [self._reservations[name] for name in sorted(self._reservations)]

    def create_reservation(self, name: str, nodes: Iterable[NodeName], users: Iterable[str]) -> None:
        """Make one; nothing keeps the fake's jobs from its nodes."""
        self._call("create_reservation")
        chosen, who = self._some(nodes), tuple(users)
        if name in self._reservations or not who:
            raise SlurmError(f"cannot make reservation {name}")
        self._reservations[name] = Reservation(name, chosen, who, self._scheduler.clock.time() + YEAR_S)

    def update_reservation(self, name: str, nodes: Iterable[NodeName]) -> None:
        """Give it other nodes."""
        self._call("update_reservation")
        chosen = self._some(nodes)
        self._reservations[name] = replace(self._known(name), nodes=chosen)

    def delete_reservation(self, name: str) -> None:
        """Delete it."""
        self._call("delete_reservation")
        self._steer(())
        del self._reservations[self._known(name).name]

    # -- what only a test may do -------------------------------------------------------------------------------------

    def boot(self, name: str) -> None:
        """Let a node boot; one that Slurm was to reboot stays DOWN, as ``nextstate=DOWN`` says."""
        node, now = self._scheduler.nodes[NodeName(name)], self._scheduler.clock.time()
        node = replace(node, boot_time=now, flags=node.flags - {"NOT_RESPONDING"})
        if node.flags & {"REBOOT_REQUESTED", "REBOOT_ISSUED"}:
            flags = node.flags - {"DRAIN", "REBOOT_REQUESTED", "REBOOT_ISSUED"}
            reason = f"{node.reason} : reboot issued : reboot complete"
            node = replace(node, state="DOWN", flags=flags, reason=reason, reason_time=now)
        self._set(node)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _set(self, node: Node) -> None:
        self._scheduler.nodes[node.name] = node

    def _some(self, names: Iterable[NodeName]) -> tuple[NodeName, ...]:
        nodes = self._steer(names)
        if not nodes:
            raise SlurmError("a reservation needs a node")
        return tuple(natural_sort(set(nodes)))

    def _known(self, name: str) -> Reservation:
        if name not in self._reservations:
            raise SlurmError(f"there is no reservation {name}: Requested reservation is invalid")
        return self._reservations[name]

    def _call(self, name: str) -> None:
        raise NotImplementedError(name)

    def _steer(self, names: Iterable[NodeName]) -> list[NodeName]:
        raise NotImplementedError(list(names))
