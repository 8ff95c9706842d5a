"""What a row of each format looks like, and what is said about one that does not."""

from __future__ import annotations

from typing import Any

import pytest

from hpctrain.data.formats import EXPECTED, check_row, formats_of, guess_format, normalise

USER, ASSISTANT = {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}
CALL = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}]}

GOOD: list[tuple[str, dict[str, Any]]] = [
    ("text", {"text": ""}),
    ("chat", {"messages": [USER, ASSISTANT]}),
    ("chat", {"messages": [{"role": "system", "content": "Brief."}, USER, CALL, {"role": "tool", "content": "4"}, ASSISTANT],
              "tools": [{"type": "function", "function": {"name": "add", "parameters": {}}}]}),
    ("chat", {"messages": [USER, ASSISTANT], "tools": '[{"name": "add"}]'}),
    ("prompt_completion", {"prompt": "2 + 2 =", "completion": " 4"}),
    ("prompt_completion", {"prompt": [USER], "completion": [ASSISTANT]}),
    ("preference", {"prompt": "a", "chosen": "b", "rejected": "c"}),
    ("preference", {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [{"role": "assistant", "content": "5"}]}),
    ("prompts", {"prompt": "2 + 2?", "answer": "4"}),
    ("prompts", {"prompt": [USER]}),
]

BAD: list[tuple[str, Any, str]] = [
    ("text", {"body": "x"}, r"has no 'text' \(its keys: body\)"),
    ("text", {"text": 5}, "'text' is not text but a number"),
    ("chat", ["x"], "expected an object like"),
    ("chat", {"prompt": "x"}, r"has no 'messages' \(its keys: prompt\); expected .*\"role\": \"user\""),
    ("chat", {"messages": "hello"}, "'messages' is text; expected a list of messages"),
    ("chat", {"messages": []}, "'messages' is an empty list"),
    ("chat", {"messages": [USER]}, "no message of the assistant"),
    ("chat", {"messages": [USER, "hi"]}, r"messages\[1\] is text; expected"),
    ("chat", {"messages": [{"role": "human", "content": "x"}]}, r"messages\[0\] has the role 'human'; expected one of"),
    ("chat", {"messages": [{"from": "human", "value": "x"}]}, "rename them to 'role' and 'content'"),
    ("chat", {"messages": [{"role": "user"}]}, r"messages\[0\] has no 'content'"),
    ("chat", {"messages": [{"role": "user", "content": 4}]}, "has a number as 'content'"),
    ("chat", {"messages": [USER, {"role": "assistant", "tool_calls": [{}]}]}, "tool call without a name"),
    ("chat", {"messages": [USER, ASSISTANT], "tools": "{"}, "'tools' is text that is not JSON"),
    ("chat", {"messages": [USER, ASSISTANT], "tools": [{"x": 1}]}, r"tools\[0\] has no name"),
    ("prompt_completion", {"prompt": "x"}, "has no 'completion'"),
    ("prompt_completion", {"prompt": "x", "completion": "  "}, "'completion' is empty"),
    ("prompt_completion", {"prompt": "x", "completion": [ASSISTANT]}, "'prompt' is text but 'completion' is a list"),
    ("prompt_completion", {"prompt": [USER, ASSISTANT], "completion": [ASSISTANT]}, "of 'prompt' is the assistant's"),
    ("preference", {"prompt": "x", "chosen": "y", "rejected": "y"}, "are the same"),
    ("preference", {"prompt": "x", "chosen": "y"}, "has no 'rejected'"),
    ("preference", {"prompt": [USER], "chosen": [USER], "rejected": [ASSISTANT]}, "first message of 'chosen' is the user's"),
    ("prompts", {"question": "x"}, "has no 'prompt'"),
    ("prompts", {"prompt": 5}, "'prompt' is a number; expected text, or a list of messages"),
    ("prompts", {}, "it is empty"),
]


@pytest.mark.parametrize(("format_", "row"), GOOD)
def test_good_rows_pass(format_: str, row: dict[str, Any]) -> None:
    """Rows of trl's dataset formats, plain or as messages, with tools and without, are right."""
    assert check_row(row, format_) is None


@pytest.mark.parametrize(("format_", "row", "message"), BAD)
def test_bad_rows_are_explained(format_: str, row: Any, message: str) -> None:
    """What is wrong with a row is said in words that name the key and what was expected."""
    import re

    said = check_row(row, format_)

    assert said is not None
    assert re.search(message, said), said


def test_auto_follows_method_and_keys() -> None:
    """The method decides the format, and the first row's keys where the method leaves a choice."""
    assert guess_format("sft", {"messages": []}) == "chat"
    assert guess_format("sft", {"prompt": "a", "completion": "b"}) == "prompt_completion"
    assert guess_format("sft", {"body": "a"}, text_field="body") == "text"
    assert guess_format("sft", {"unknown": 1}) == "chat"
    assert guess_format("dpo", {"messages": []}) == "preference"
    assert guess_format("distill", {"prompt": "a"}) == "prompts"
    assert guess_format("", {"prompt": "a", "chosen": "b", "rejected": "c"}) == "preference"
    assert guess_format("", {"prompt": "a", "completion": None}) == "prompts"
    assert set(formats_of("")) == set(EXPECTED)


def test_nulls_of_tables_are_taken_out() -> None:
    """A table gives every message the keys of all others, as nulls; a reader does not see them."""
    row = normalise({"messages": [{**USER, "tool_calls": None}, {**CALL, "content": None}], "id": None}, "chat")

    assert row == {"messages": [USER, {**CALL, "content": None}], "id": None}


def test_whole_conversations_become_prompt_and_answers() -> None:
    """Two conversations without a prompt are split where they part."""
    other = {"role": "assistant", "content": "5"}
    row = normalise({"chosen": [USER, ASSISTANT], "rejected": [USER, other]}, "preference")

    assert row == {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [other]}
    assert check_row(row, "preference") is None
