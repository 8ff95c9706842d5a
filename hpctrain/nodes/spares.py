"""The hot spares: nodes of a reservation, kept for those that are replaced (service)."""

from __future__ import annotations

from collections.abc import Sequence

from hpctrain.errors import SlurmError
from hpctrain.ids import NodeName
from hpctrain.nodes.replace import is_ready, spares
from hpctrain.nodes.site import Site
from hpctrain.slurm.model import Node, Reservation


def listed(site: Site) -> tuple[Reservation | None, list[tuple[Node, bool]]]:
    """The reservation, and its nodes with whether each is ready to be given."""
    pool = spares(site.slurm, site.settings.spares)
    return pool, [(node, is_ready(node)) for node in site.slurm.nodes(pool.nodes)] if pool else []


def add(site: Site, names: Sequence[str], *, dry_run: bool = False) -> str:
    """Set nodes aside as spares; what was or would be done.

    Raises:
        NoSuchNodeError: unknown node.
        SlurmError: refused.
    """
    wanted = [node.name for node in site.slurm.nodes([NodeName(name) for name in names])]
    pool = spares(site.slurm, site.settings.spares)
    have = list(pool.nodes) if pool else []
    nodes = [*have, *(name for name in wanted if name not in have)]
    if not dry_run and nodes != have:
        if pool:
            site.slurm.update_reservation(pool.name, nodes)
        else:
            site.slurm.create_reservation(site.settings.spares, nodes, site.settings.spare_users)
    return f"reservation {site.settings.spares} {'would have' if dry_run else 'has'} {', '.join(nodes)}"


def remove(site: Site, names: Sequence[str], *, dry_run: bool = False) -> str:
    """Give spares to everybody; what was or would be done.

    Raises:
        SlurmError: a node is no spare, or Slurm refuses.
    """
    pool = spares(site.slurm, site.settings.spares)
    strangers = [name for name in names if pool is None or name not in pool.nodes]
    if pool is None or strangers:
        hint = "'hpctrain nodes spares list' shows them"
        raise SlurmError(f"{', '.join(strangers)}: not in reservation {site.settings.spares}", hint=hint)
    left = [name for name in pool.nodes if name not in names]
    if not dry_run and left:
        site.slurm.update_reservation(pool.name, left)
    elif not dry_run:
        site.slurm.delete_reservation(pool.name)
    verb = "would have" if dry_run else "has"
    return f"reservation {pool.name} {verb} {', '.join(left)}" if left else f"reservation {pool.name} {verb} no node left"
