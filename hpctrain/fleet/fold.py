"""Hosts that say the same, shown once (pure)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from hpctrain.slurm.nodelist import fold, natural_sort

T = TypeVar("T")


def fold_hosts(labels: Iterable[str]) -> str:
    """``n[1-3],login`` where the labels are node names; what is none (an address, ``user@host``) stands as it is."""
    names = list(labels)
    try:
        return fold(names)
    except ValueError:
        return ",".join(natural_sort(names))


def group(items: Iterable[tuple[str, T]]) -> list[tuple[list[str], T]]:
    """The labels by what they have, in the order in which it is first met; what they have must be hashable."""
    found: dict[T, list[str]] = {}
    for label, value in items:
        found.setdefault(value, []).append(label)
    return [(labels, value) for value, labels in found.items()]
