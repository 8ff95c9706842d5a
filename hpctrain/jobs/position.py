"""How far a run's output has been shown, so that another process can go on from there (pure).

A position travels as plain JSON of which only what has changed is sent: mappings merge, anything else replaces. It names
each log file by its path below the run directory, which holds incarnation, rank and node, and says up to which byte the
whole lines of it were shown. A file without a place in it is shown from its start.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Place:
    """Up to where one file was shown.

    Attributes:
        inode: of the file, so that one that was replaced meanwhile is read from its start; None if never opened.
        offset: bytes, always at the end of a line.
        time: of the newest line before it, for the lines after it that bring none; ``-inf`` before the first.
    """

    inode: int | None = None
    offset: int = 0
    time: float = float("-inf")

    def to_json(self) -> list[Any]:
        """Inode, offset, time."""
        return [self.inode, self.offset, self.time if math.isfinite(self.time) else None]

    @classmethod
    def from_json(cls, value: Any) -> Place:
        """Read :meth:`to_json` back.

        Raises:
            ValueError: it is something else.
        """
        if not isinstance(value, list) or len(value) != 3:
            raise ValueError(f"not a place in a file: {value!r}")
        inode, offset, time = value
        if not isinstance(offset, int) or offset < 0 or not isinstance(inode, (int, type(None))):
            raise ValueError(f"not a place in a file: {value!r}")
        return cls(inode, offset, float(time) if isinstance(time, (int, float)) else float("-inf"))


@dataclass(frozen=True, slots=True)
class Position:
    """How far following a run has come.

    Attributes:
        files: place by path below the run directory.
        incarnation: the newest one whose lines were shown, -1 for none.
        restarts: how many restarts were announced.
        announced: (state, reason, restarts) of the last announcement; empty for none.
    """

    files: Mapping[str, Place] = field(default_factory=dict)
    incarnation: int = -1
    restarts: int = 0
    announced: tuple[Any, ...] = ()

    def to_json(self, before: Position | None = None) -> dict[str, Any]:
        """Plain data; of the files only those whose place is another one than before."""
        known = before.files if before else {}
        return {
            "files": {name: place.to_json() for name, place in self.files.items() if known.get(name) != place},
            "incarnation": self.incarnation, "restarts": self.restarts, "announced": json.dumps(self.announced),
        }

    @classmethod
    def from_json(cls, value: Any) -> Position:
        """Read :meth:`to_json` back.

        Raises:
            ValueError: it is something else.
        """
        try:
            files = {str(name): Place.from_json(place) for name, place in value["files"].items()}
            announced = tuple(json.loads(value["announced"]))
            return cls(files, int(value["incarnation"]), int(value["restarts"]), announced)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a position: {error}") from None
