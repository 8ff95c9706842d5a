"""Rebooting and returning nodes, and reservations, through scontrol (adapter over :mod:`hpctrain.slurm.commands`)."""

from __future__ import annotations

from collections.abc import Iterable

from hpctrain.errors import NoSuchNodeError, SlurmError
from hpctrain.ids import NodeName
from hpctrain.slurm import parse, refusal
from hpctrain.slurm.commands import Commands, said
from hpctrain.slurm.model import Reservation, clean_reason
from hpctrain.slurm.nodelist import fold

_KEEP_JOBS = "IGNORE_JOBS"
"""Slurm refuses to reserve a node whose jobs may outlast the moment, unless it is told to let them run on."""


class NodeCommands:
    """The part of :class:`hpctrain.slurm.via_cli.SlurmCli` that reboots, returns and reserves nodes."""

    _slurm: Commands

    def resume(self, names: Iterable[NodeName]) -> None:
        """Resume nodes. They show NOT_RESPONDING for the seconds until Slurm has pinged them."""
        nodes = folded(names)
        if nodes:
            self._slurm.change(f"cannot resume {nodes}", "scontrol", "update", f"NodeName={nodes}", "State=RESUME")

    def reboot(self, names: Iterable[NodeName], reason: str) -> None:
        """Reboot nodes. Slurm ignores the request for a node that it is to reboot already."""
        nodes, text = folded(names), clean_reason(reason)
        if not text:
            raise SlurmError("You must specify a reason when rebooting a node")
        if nodes:
            how = ("ASAP", "nextstate=DOWN", f"reason={text}", nodes)
            self._slurm.change(f"cannot reboot {nodes}", "scontrol", "reboot", *how)

    def reservations(self) -> list[Reservation]:
        """All reservations."""
        answer = self._slurm.read("cannot list reservations", "scontrol", "--oneliner", "show", "reservation")
        return parse.parse_reservations(answer)

    def create_reservation(self, name: str, nodes: Iterable[NodeName], users: Iterable[str]) -> None:
        """Create a reservation without an end (Slurm makes that a year)."""
        wanted = [f"ReservationName={name}", "StartTime=now", "Duration=UNLIMITED", f"Flags={_KEEP_JOBS}"]
        wanted += [f"Nodes={_some(nodes, name)}", f"Users={','.join(users)}"]
        result, repeated = self._slurm.ask("scontrol", "create", "reservation", *wanted)
        if not result.ok and not (repeated and "duplicate" in said(result).lower()):
            # The exception: an earlier try did reach Slurm, only its answer was lost.
            raise refusal.explain(said(result), f"cannot make reservation {name}")

    def update_reservation(self, name: str, nodes: Iterable[NodeName]) -> None:
        """Replace the nodes of a reservation. Slurm takes an empty list without a word and changes nothing."""
        changes = (f"ReservationName={name}", f"Nodes={_some(nodes, name)}")
        self._slurm.change(f"cannot change reservation {name}", "scontrol", "update", *changes)

    def delete_reservation(self, name: str) -> None:
        """Delete a reservation."""
        self._slurm.change(f"cannot delete reservation {name}", "scontrol", "delete", f"ReservationName={name}")


def folded(names: Iterable[NodeName]) -> str:
    """Node names as Slurm writes them. Raises NoSuchNodeError for what cannot be one."""
    try:
        return fold(names)
    except ValueError as error:
        raise NoSuchNodeError(str(error)) from None


def _some(names: Iterable[NodeName], reservation: str) -> str:
    nodes = folded(names)
    if not nodes:
        raise SlurmError(f"reservation {reservation} needs a node", hint="delete it instead")
    return nodes
