"""Faults that a node of a private cluster pretends to have (adapter over one file).

Only where :data:`VARIABLE` is set, which the private cluster's own jobs have: the measurement is the real one, made slower
or spoiled where it happens, so that a test exercises all that follows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "HPCTRAIN_SIMULATED_NODES"
FILE = "deep.json"


@dataclass(frozen=True, slots=True)
class Pretended:
    """What is wrong with this node.

    Attributes:
        slow_factor: every timed piece of work takes so many times as long.
        corrupt: checks whose result has one bit flipped.
    """

    slow_factor: float = 1.0
    corrupt: frozenset[str] = frozenset()


def pretended(node: str, env: Mapping[str, str]) -> Pretended:
    """The faults of this node; none where nothing is simulated, or the file cannot be read."""
    directory = env.get(VARIABLE)
    if not directory or not node:
        return Pretended()
    try:
        record = json.loads((Path(directory) / node / FILE).read_text())
        return Pretended(max(1.0, float(record["slow_factor"])), frozenset(map(str, record["corrupt"])))
    except (OSError, ValueError, KeyError, TypeError):
        return Pretended()
