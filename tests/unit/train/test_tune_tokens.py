"""Which tokens of a row are learned."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hpctrain.errors import RecipeError
from hpctrain.train.byte_tokenizer import byte_tokenizer

pytest.importorskip("trl")

from hpctrain.train.tune.preference import preference_columns
from hpctrain.train.tune.tokens import IGNORED, Writer, fit

TALK = [
    {"role": "user", "content": "One?"}, {"role": "assistant", "content": "Eins."},
    {"role": "user", "content": "Two?"}, {"role": "assistant", "content": "Zwei: é"},
]


@pytest.fixture(scope="module")
def writer() -> Writer:
    return Writer.of(byte_tokenizer(), learn_all=False, longest=200)


def learned(row: dict[str, list[int]]) -> str:
    """The text of the tokens that are learned."""
    text: str = byte_tokenizer().decode([label for label in row["labels"] if label != IGNORED])
    return text


def test_only_the_assistant_is_learned(writer: Writer) -> None:
    """Of a conversation the assistant's turns are learned, with the token that ends each of them, and nothing else."""
    row = writer.chat({"messages": TALK}, "here:1")
    assert "Eins.<|endoftext|>Zwei: é<|endoftext|>" == learned(row)
    assert all(label in (IGNORED, token) for label, token in zip(row["labels"], row["input_ids"], strict=True))


def test_turn_by_turn_finds_the_same(writer: Writer) -> None:
    """Without marks in the template, writing the conversation out turn by turn finds the same tokens."""
    tokenizer = byte_tokenizer()
    for mark in ("generation", "endgeneration"):
        tokenizer.chat_template = tokenizer.chat_template.replace(f"{{%- {mark} %}}\n", "")
    other = Writer.of(tokenizer, learn_all=False, longest=200)
    assert not other.marked
    assert writer.chat({"messages": TALK}, "") == other.chat({"messages": TALK}, "")


def test_a_template_that_rewrites_the_past_is_refused(writer: Writer) -> None:
    """Where earlier turns are written differently once others follow, the row is named; no wrong mask is used."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role + ': ' + (m.content if loop.last else m.content[:1]) + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}")
    with pytest.raises(RecipeError, match="earlier turns differently") as caught:
        replace(writer, tokenizer=tokenizer, marked=False).chat({"messages": TALK}, "set.jsonl:7")
    assert "set.jsonl:7" in str(caught.value)


def test_tools_and_thoughts_are_learned(writer: Writer) -> None:
    """What the assistant thinks and which tool it calls is learned; the tools and what they answer is not."""
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
    messages = [
        {"role": "user", "content": "1+2?"},
        {"role": "assistant", "content": "", "reasoning_content": "A sum.", "tool_calls": [call]},
        {"role": "tool", "name": "add", "content": "3"}, {"role": "assistant", "content": "It is 3."},
    ]
    tools = '[{"type": "function", "function": {"name": "add", "parameters": {}}}]'
    row = writer.chat({"messages": messages, "tools": tools}, "")
    said = '<think>A sum.</think><tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call><|endoftext|>'
    assert said + "It is 3.<|endoftext|>" == learned(row)
    assert byte_tokenizer().decode(row["input_ids"]).startswith('tools: [{"type": "function"')


@pytest.mark.parametrize("talk", [False, True])
def test_a_completion_is_learned_after_its_prompt(writer: Writer, talk: bool) -> None:
    """Of a prompt with its completion the completion is learned, in plain text and in conversations alike."""
    prompt: Any = [{"role": "user", "content": "Q"}] if talk else "Q: "
    completion: Any = [{"role": "assistant", "content": "A"}] if talk else "A"
    assert "A<|endoftext|>" == learned(writer.pair({"prompt": prompt, "completion": completion}, ""))


def test_everything_is_learned_when_asked(writer: Writer) -> None:
    """With chat.loss_on 'all' every token has itself as its label."""
    row = replace(writer, learn_all=True).chat({"messages": TALK}, "")
    assert row["input_ids"] == row["labels"]


def test_long_rows(writer: Writer) -> None:
    """A row is cut to the longest sequence, and left out when nothing that is learned remains."""
    row = writer.chat({"messages": TALK}, "")
    assert 40 == len((fit(row, 40) or {})["input_ids"])
    assert fit(row, 5) is None


def test_pairs_share_their_prompt(writer: Writer) -> None:
    """A pair becomes what both answers begin with, and the two rests; one that is too long is left out whole."""
    row = {"prompt": [TALK[0]], "chosen": [TALK[1]], "rejected": [{"role": "assistant", "content": "Ein"}]}
    columns = preference_columns(writer, row, "")
    assert columns is not None
    texts = {name: byte_tokenizer().decode(ids) for name, ids in columns.items()}
    assert {"prompt_ids": "user: One?<|endoftext|>assistant: ", "chosen_ids": "Eins.<|endoftext|>",
            "rejected_ids": "Ein<|endoftext|>"} == texts
    assert preference_columns(replace(writer, longest=20), row, "") is None


def test_no_template_is_one_clear_error(writer: Writer) -> None:
    """Conversations need a chat template: the error says so, and what to set."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(RecipeError, match="no chat template"):
        replace(writer, tokenizer=tokenizer, marked=False).chat({"messages": TALK}, "")
