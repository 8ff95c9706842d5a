"""Questions for a teacher, and its answers as rows that are learned (pure)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hpctrain.errors import RecipeError

Row = Mapping[str, Any]
Conversation = list[dict[str, Any]]
_SPOKEN = ("messages", "prompt", "completion")


def question(row: Row, where: str) -> Conversation:
    """What the teacher is asked: the prompt, or the conversation up to the assistant's last turn.

    Args:
        row: of the format ``prompts``, ``prompt_completion`` or ``chat``.
        where: ``file:line`` of it.

    Raises:
        RecipeError: the row cannot be asked.
    """
    if row.get("tools"):
        raise RecipeError("has tools, which a teacher behind an endpoint is not asked about", where=where,
                          hint="learn such rows with method 'sft'")
    prompt = row.get("prompt")
    if isinstance(prompt, str):
        if not prompt.strip():
            raise RecipeError("has an empty prompt, which cannot be asked", where=where)
        return [{"role": "user", "content": prompt}]
    turns = [dict(turn) for turn in (prompt if prompt is not None else row.get("messages") or ())]
    while prompt is None and turns and turns[-1].get("role") == "assistant":
        turns.pop()
    if not turns:
        raise RecipeError("has no turn of a user before the assistant's, so there is nothing to ask", where=where)
    return turns


def learned_row(row: Row, asked: Conversation, answer: str) -> dict[str, Any]:
    """The question with the teacher's answer, as a ``prompt_completion`` row; what else the row held stays in it."""
    more = {key: value for key, value in row.items() if key not in _SPOKEN}
    prompt = row.get("prompt")
    if isinstance(prompt, str):
        return {**more, "prompt": prompt, "completion": answer}
    return {**more, "prompt": asked, "completion": [{"role": "assistant", "content": answer}]}


@dataclass(frozen=True, slots=True)
class Learned:
    """Rows to learn, and what was left out.

    Attributes:
        cut_off: answers that the limit of tokens had cut off; to learn them would be to learn to stop anywhere.
        empty: answers without a word.
        refused: questions that the teacher would not answer.
        held_out: the last so many rows come from questions that are kept out of training.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    cut_off: int = 0
    empty: int = 0
    refused: int = 0
    held_out: int = 0

    @property
    def validation_fraction(self) -> float:
        """The share of rows to keep out of training, so that what is kept out are the same questions as before."""
        return self.held_out / len(self.rows) if self.rows else 0.0

    @property
    def text(self) -> str:
        """The rows as JSON lines."""
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows)


def learned(
    rows: Sequence[Row], asked: Sequence[Conversation], answers: Iterable[Mapping[str, Any]], *, held_out: int = 0
) -> Learned:
    """Rows to learn of questions and answers, in the order of the questions.

    Args:
        answers: for each question a record with ``text`` and ``finished``, or with what it was ``refused`` for.
        held_out: the last so many questions are kept out of training.
    """
    found: list[dict[str, Any]] = []
    cut_off = empty = refused = outside = 0
    for number, (row, conversation, answer) in enumerate(zip(rows, asked, answers, strict=True)):
        text = str(answer.get("text", ""))
        if answer.get("refused"):
            refused += 1
        elif not answer.get("finished", True):
            cut_off += 1
        elif not text.strip():
            empty += 1
        else:
            found.append(learned_row(row, conversation, text))
            outside += number >= len(rows) - held_out
    return Learned(found, cut_off, empty, refused, outside)


def last_answer_begins(labels: Sequence[int], ignored: int) -> int:
    """Where the last stretch of learned tokens begins; the length where nothing is learned."""
    end = next((at for at in range(len(labels), 0, -1) if labels[at - 1] != ignored), 0)
    if not end:
        return len(labels)
    return next((at for at in range(end, 0, -1) if labels[at - 1] == ignored), 0)
