"""What a teacher is asked, and what of its answers is learned."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hpctrain.errors import RecipeError
from hpctrain.train.tune.distill_rows import last_answer_begins, learned, learned_row, question

USER = {"role": "user", "content": "2 + 3?"}
ASSISTANT = {"role": "assistant", "content": "5"}
SYSTEM = {"role": "system", "content": "be brief"}


@pytest.mark.parametrize(("row", "asked"), [
    ({"prompt": "2 + 3?", "answer": "5"}, [USER]),
    ({"prompt": [SYSTEM, USER]}, [SYSTEM, USER]),
    ({"prompt": [USER], "completion": [ASSISTANT]}, [USER]),
    ({"messages": [SYSTEM, USER, ASSISTANT]}, [SYSTEM, USER]),
    ({"messages": [USER, ASSISTANT, USER, ASSISTANT]}, [USER, ASSISTANT, USER]),
    ({"messages": [USER]}, [USER]),
])
def test_a_row_becomes_a_conversation_that_waits_for_an_answer(row: dict[str, Any], asked: list[dict[str, str]]) -> None:
    """A text is a user's turn; of a conversation the assistant's last turn is left out, and nothing else."""
    assert asked == question(row, "f:1")


@pytest.mark.parametrize(("row", "says"), [
    ({"prompt": " "}, "empty prompt"), ({"messages": [ASSISTANT]}, "nothing to ask"), ({"prompt": []}, "nothing to ask"),
    ({"prompt": [USER], "tools": [{"name": "x"}]}, "has tools"),
])
def test_what_cannot_be_asked_is_named_with_its_line(row: dict[str, Any], says: str) -> None:
    """An empty prompt, a conversation without a question, and tools."""
    with pytest.raises(RecipeError, match=says) as caught:
        question(row, "data.jsonl:7")

    assert "data.jsonl:7" == caught.value.where


def test_what_is_learned_has_the_form_of_what_was_given() -> None:
    """Plain text stays plain text, a conversation a conversation; the row's own answer gives way, other keys stay."""
    assert {"answer": "5", "prompt": "2 + 3?", "completion": "five"} == learned_row(
        {"prompt": "2 + 3?", "answer": "5"}, [USER], "five")
    assert {"id": 1, "prompt": [USER], "completion": [{"role": "assistant", "content": "five"}]} == learned_row(
        {"id": 1, "messages": [USER, ASSISTANT]}, [USER], "five")
    assert "five" == learned_row({"prompt": "q", "completion": "mine"}, [USER], "five")["completion"]


def test_answers_that_are_cut_off_or_empty_are_not_learned() -> None:
    """They are counted; the others stay in order, and the same questions are kept out of training."""
    rows = [{"prompt": str(number)} for number in range(4)]
    answers = [{"text": "a", "finished": True}, {"text": "b and", "finished": False}, {"text": " "}, {"text": "d"}]

    found = learned(rows, [[USER]] * 4, answers, held_out=2)

    assert (["a", "d"], 1, 1) == ([row["completion"] for row in found.rows], found.cut_off, found.empty)
    assert (1, 0.5) == (found.held_out, found.validation_fraction)  # of the two that are kept out one has an answer
    assert found.rows == [json.loads(line) for line in found.text.splitlines()]


def test_the_last_answer_is_found() -> None:
    """It begins behind the last token that is not learned and before one that is; without any, at the end."""
    no = -100

    assert [2, 4, 0, 3, 0] == [last_answer_begins(labels, no) for labels in (
        [no, no, 5, 6], [no, 3, no, no, 7], [1, 2], [no, no, no], [])]
    assert 1 == last_answer_begins([no, 5, no], no)
