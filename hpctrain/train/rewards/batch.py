"""What rewards are asked about: prompts, the model's answers, and the rows they came from (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Turn = str | Sequence[Mapping[str, Any]]
"""A prompt or an answer: plain text, or messages with ``role`` and ``content``."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Answers that are judged together.

    Attributes:
        prompts: as in the data, one per answer (a prompt with several answers is repeated).
        completions: what the model wrote.
        rows: the other keys of the rows, each with one value per answer.
        token_counts: length of each answer in tokens, with its end-of-text token; empty where nobody counted.
    """

    prompts: Sequence[Turn]
    completions: Sequence[Turn]
    rows: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    token_counts: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.completions)

    @property
    def texts(self) -> list[str]:
        """The answers as text."""
        return [text_of(completion) for completion in self.completions]

    def column(self, name: str) -> Sequence[Any]:
        """One value per answer; None where a row has no such key."""
        return self.rows.get(name, [None] * len(self))


def text_of(turn: Turn) -> str:
    """Plain text of a prompt or an answer: of messages, the contents one after the other."""
    if isinstance(turn, str):
        return turn
    return "\n".join(_content(message.get("content")) for message in turn)


def _content(content: Any) -> str:
    """A message's content is text, or a list of parts of which some are text, or missing (a bare tool call)."""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return ""
