"""The sets that are made from the running Python."""

from __future__ import annotations

import json

import pytest

from hpctrain.data.arithmetic import MOST, sums
from hpctrain.data.docstrings import first_sentence, questions
from hpctrain.data.formats import check_row
from hpctrain.data.read import rows, split
from hpctrain.recipe.check_data import MADE
from hpctrain.recipe.schema import Data


@pytest.mark.parametrize("source", ["arithmetic", "docstring-questions"])
@pytest.mark.parametrize("format_", ["text", "chat", "prompt_completion", "preference", "prompts"])
def test_made_rows_are_right(source: str, format_: str) -> None:
    """Every set is made in every format it promises, and each of its rows is one of that format."""
    assert format_ in MADE[source]
    found = list(rows(Data.model_validate({"source": source, "format": format_})))

    assert len(found) > 500
    assert [row.where for row in found if check_row(row.values, format_)] == []
    assert len({json.dumps(row.values, sort_keys=True) for row in found}) == len(found)


def test_sums_are_right_and_different() -> None:
    """Answers are those of Python, wrong ones are wrong, none is negative, and no problem comes twice."""
    for largest in (0, 9, 20, 1000):
        found = sums(largest)
        assert len(set(found)) == len(found)
        assert len(found) <= MOST
        for problem in found:
            right = problem.left + problem.right if problem.operator == "+" else problem.left - problem.right
            assert problem.answer == right
            assert problem.wrong_answer != problem.answer
            assert min(problem.answer, problem.wrong_answer) >= 0
            assert max(problem.left, problem.right) <= largest
    assert len(sums(20)) == 21 * 21 + 21 * 22 // 2


def test_sums_are_the_same_everywhere() -> None:
    """The order does not depend on the interpreter, its hash seed or its generator of random numbers."""
    assert [problem.question for problem in sums(20)[:3]] == FIRST_SUMS


FIRST_SUMS = ["What is 12 + 9?", "What is 14 - 0?", "What is 5 + 8?"]


def test_questions_are_asked_of_the_whole_library() -> None:
    """There are many questions, about modules and about builtins, each with an answer of one sentence."""
    found = questions()
    names = {question.name for question in found}

    assert len(found) > 1000
    assert len(names) == len(found)
    assert {"textwrap.dedent", "shutil.copyfile", "str.upper", "len"} <= names
    assert all(question.answer.isascii() and "\n" not in question.answer for question in found)


def test_held_out_questions_are_not_trained_on() -> None:
    """No question is on both sides of the split."""
    training, held_out = split(Data(source="docstring-questions", validation_fraction=0.1), "sft")
    asked = {json.dumps(row["messages"][0]) for row in training}

    assert held_out
    assert [row for row in held_out if json.dumps(row["messages"][0]) in asked] == []


def test_first_sentences_are_cut_out() -> None:
    """The signature of what is written in C is passed over, lines are joined, the second sentence is left out."""
    assert first_sentence("Return a copy\n  of the text. Never mind.") == "Return a copy of the text."
    assert first_sentence("len(obj, /) -> int\n\nReturn the number of items") == "Return the number of items."
    assert first_sentence("Short.") == ""
    assert first_sentence("execle(file, *args, env)\n\nExecute the file") == ""
    assert first_sentence(None) == ""
