"""What a suite asks of a row, whichever of the formats the row has (pure).

A prompt is text, or a list of messages; with messages the tokenizer's chat template makes the text. Formats and their keys
are those of ``data.format`` in a recipe.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
Messages = list[dict[str, Any]]
Prompt = str | Messages


@dataclass(frozen=True, slots=True)
class Pair:
    """Something to be predicted, and what goes before it.

    Attributes:
        before: the prompt; "" for text that begins a document.
        after: text, or messages, of which the first is the assistant's.
        tools: definitions of tools for the chat template.
    """

    before: Prompt
    after: str | Messages
    tools: list[dict[str, Any]] | None = None


def predicted(row: Row, text_field: str = "text") -> list[Pair]:
    """What perplexity is measured on: a whole text, a completion, or everything the assistant says in a conversation.

    Raises:
        ValueError: the row has none of these.
    """
    tools = tools_of(row)
    if isinstance(row.get("messages"), list):
        messages = [dict(message) for message in row["messages"]]
        turns = [index for index, message in enumerate(messages) if message.get("role") == "assistant" and index]
        if turns:
            return [Pair(messages[:index], [messages[index]], tools) for index in turns]
    if "prompt" in row and "completion" in row:
        return [Pair(_prompt(row["prompt"]), _said(row["completion"]), tools)]
    if isinstance(row.get(text_field), str):
        return [Pair("", row[text_field])]
    raise ValueError(f"has neither {text_field!r} nor 'messages' with an assistant's turn nor 'prompt' and 'completion'")


def prompt_of(row: Row) -> Prompt:
    """What the model is asked: the prompt, or a conversation up to the assistant's last turn.

    Raises:
        ValueError: the row has no prompt.
    """
    if "prompt" in row:
        return _prompt(row["prompt"])
    if "messages" in row:
        messages = [dict(message) for message in row["messages"]]
        while messages and messages[-1].get("role") == "assistant":
            messages.pop()
        if messages:
            return messages
    raise ValueError("has neither 'prompt' nor 'messages' that begin with a user's turn")


def answers_of(row: Row) -> list[str]:
    """The right answers, of which any will do: ``answer`` (or a list), else the completion, else the assistant's last words.

    Raises:
        ValueError: the row has none.
    """
    if row.get("answer") is not None:
        answer = row["answer"]
        return [str(one) for one in answer] if isinstance(answer, list) else [str(answer)]
    if "completion" in row:
        return [said_text(_said(row["completion"]))]
    messages = row.get("messages") or []
    if messages and messages[-1].get("role") == "assistant":
        return [said_text([messages[-1]])]
    raise ValueError("has neither 'answer' nor 'completion' nor a last turn of the assistant")


def choices_of(row: Row) -> list[str]:
    """Answers to choose from; empty where the answer is to be written.

    Raises:
        ValueError: ``choices`` is no list of texts, or the right answer is not among them.
    """
    choices = row.get("choices")
    if choices is None:
        return []
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(one, str) and one for one in choices):
        raise ValueError("'choices' is no list of two or more texts")
    right_choice(row, choices)
    return choices


def right_choice(row: Row, choices: Sequence[str]) -> int:
    """Which of the choices is right: ``answer`` is its text, or its number from 0.

    Raises:
        ValueError: it is neither.
    """
    answer = row.get("answer")
    if isinstance(answer, str) and answer in choices:
        return list(choices).index(answer)
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return answer
    raise ValueError(f"'answer' is {answer!r}, neither one of the choices nor its number from 0 to {len(choices) - 1}")


def preference_of(row: Row) -> tuple[Pair, Pair]:
    """The better and the worse answer, each after its prompt.

    Raises:
        ValueError: one of them is missing.
    """
    if "chosen" not in row or "rejected" not in row:
        raise ValueError("has no 'chosen' and 'rejected'")
    tools = tools_of(row)
    pairs = []
    for key in ("chosen", "rejected"):
        value = row[key]
        if "prompt" in row:
            pairs.append(Pair(_prompt(row["prompt"]), _said(value), tools))
        elif isinstance(value, list) and len(value) > 1:
            pairs.append(Pair([dict(message) for message in value[:-1]], [dict(value[-1])], tools))
        else:
            raise ValueError("has no 'prompt'")
    return pairs[0], pairs[1]


def tools_of(row: Row) -> list[dict[str, Any]] | None:
    """Definitions of tools for the chat template."""
    tools = row.get("tools") or None
    return json.loads(tools) if isinstance(tools, str) else tools


def prompt_text(prompt: Prompt) -> str:
    """A prompt for people and judges: the text, or what was said by whom."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return said_text(prompt)
    return "\n".join(f"{message.get('role', '?')}: {said_text([message])}" for message in prompt)


def said_text(said: str | Sequence[Mapping[str, Any]]) -> str:
    """The words of a completion; calls of tools are left out."""
    return said if isinstance(said, str) else "\n".join(_content(message.get("content")) for message in said)


def _content(content: Any) -> str:
    if isinstance(content, list):  # parts, as multimodal chats have them
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return "" if content is None else str(content)


def _prompt(value: Any) -> Prompt:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(message, Mapping) for message in value):
        return [dict(message) for message in value]
    raise ValueError("'prompt' is neither text nor a list of messages")


def _said(value: Any) -> str | Messages:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(message, Mapping) for message in value):
        return [dict(message) for message in value]
    raise ValueError("an answer is neither text nor a list of messages")
