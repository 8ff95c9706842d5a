"""Some of what the model writes while it learns, for people to read (adapter over a file)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

from hpctrain.train.rewards.batch import Batch, text_of

_ROWS = 2
"""Answers that are kept of each draw."""
_LONGEST = 2000
"""Characters of each."""


class SampleLog:
    """Appends JSON lines: step, prompt, completion, and each reward of it. A file that cannot be written is left alone.

    Args:
        names: of the rewards, in the order in which they are judged.
        speaks: whether this rank writes.
    """

    def __init__(self, path: Path, names: Sequence[str], *, speaks: bool) -> None:
        self._path, self._names, self._speaks = path, tuple(names), speaks
        self._scores: dict[str, list[float | None]] = {}

    def add(self, step: int, name: str, batch: Batch, scores: Sequence[float | None]) -> None:
        """Take one reward's scores of a draw; with the last reward's, its first answers are written.

        Args:
            step: complete when they were written.
        """
        if not self._speaks:
            return
        self._scores[name] = list(scores[:_ROWS])
        if name != self._names[-1]:
            return
        found, self._scores = self._scores, {}
        lines = [
            json.dumps({"step": step, "prompt": text_of(batch.prompts[index])[:_LONGEST], "completion": text[:_LONGEST],
                        "rewards": {name: values[index] for name, values in found.items()}})
            for index, text in enumerate(batch.texts[:_ROWS])
        ]
        with contextlib.suppress(OSError), self._path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
