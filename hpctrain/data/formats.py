"""What a row of each format looks like, and what is wrong with one that does not (pure).

Keys and their meaning are those of trl's dataset formats, so that a set made for trl needs no change: *text* rows hold one
piece of text, *chat* rows a conversation, *prompt_completion* rows a question with its answer, *preference* rows two answers
of which the first is better, *prompts* rows a question only, with whatever its rewards need beside it.

Prompts, completions and answers of a row are all plain text, or all lists of messages; then a chat template joins them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hpctrain.recipe.check_data import FORMATS

TEXT, CHAT, PROMPT_COMPLETION, PREFERENCE, PROMPTS = "text", "chat", "prompt_completion", "preference", "prompts"

EXPECTED: Mapping[str, str] = {
    TEXT: '{"text": "..."}',
    CHAT: '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}',
    PROMPT_COMPLETION: '{"prompt": "...", "completion": "..."}',
    PREFERENCE: '{"prompt": "...", "chosen": "...", "rejected": "..."}',
    PROMPTS: '{"prompt": "...", "answer": "..."}',
}
"""One row of each format, for messages. ``prompts`` needs an answer only where a reward compares with it."""

ROLES = ("system", "developer", "user", "assistant", "tool")
"""Who may speak in a conversation."""


def formats_of(method: str) -> tuple[str, ...]:
    """The formats that a method can learn from, its own first; all of them for a method that is not known."""
    return FORMATS.get(method, tuple(EXPECTED))


def guess_format(method: str, row: Mapping[str, Any], *, text_field: str = "text") -> str:
    """The format that ``auto`` means, by the keys of the first row; the method's own where they decide nothing."""
    keys = {TEXT if key == text_field else key for key, value in row.items() if value is not None}
    own = FORMATS.get(method)
    looks_like = next((name for name, found in _SIGNS if found <= keys), "")
    if own is None:
        return looks_like or TEXT
    return looks_like if looks_like in own else own[0]


_SIGNS: tuple[tuple[str, set[str]], ...] = (
    (CHAT, {"messages"}), (PREFERENCE, {"chosen", "rejected"}), (PROMPT_COMPLETION, {"prompt", "completion"}),
    (PROMPTS, {"prompt"}), (TEXT, {"text"}),
)


def normalise(row: Mapping[str, Any], format_: str) -> dict[str, Any]:
    """A row as all readers are given it.

    Tables fill each message up with nulls for the keys of all others: these are taken out. A preference row whose answers
    are whole conversations, without a prompt, gets what both begin with as its prompt.
    """
    values = {key: _without_nulls(value) if key in _TALK else value for key, value in row.items()}
    chosen, rejected = values.get("chosen"), values.get("rejected")
    if format_ == PREFERENCE and values.get("prompt") is None and isinstance(chosen, list) and isinstance(rejected, list):
        shared = _shared_start(chosen, rejected)
        values |= {"prompt": chosen[:shared], "chosen": chosen[shared:], "rejected": rejected[shared:]}
    return values


_TALK = ("messages", "prompt", "completion", "chosen", "rejected")


def check_row(row: Any, format_: str, *, text_field: str = "text") -> str | None:
    """What is wrong with a row, in words that name what was expected; None if nothing is.

    Args:
        format_: one of :data:`EXPECTED`.
        text_field: for ``text``: the key that holds it.
    """
    if not isinstance(row, Mapping):
        return f"expected an object like {EXPECTED[format_]}, got {_kind(row)}"
    if format_ == TEXT:
        return _check_text(row, text_field)
    return _CHECKS[format_](row)


def _check_text(row: Mapping[str, Any], field: str) -> str | None:
    if field not in row:
        return f"has no {field!r}{_keys(row)}"
    return None if isinstance(row[field], str) else f"{field!r} is not text but {_kind(row[field])}"


def _check_chat(row: Mapping[str, Any]) -> str | None:
    if row.get("messages") is None:
        return _lacks(row, "messages", CHAT)
    problem = _check_messages(row["messages"], "messages") or _check_tools(row)
    if problem:
        return problem
    if not any(message["role"] == "assistant" for message in row["messages"]):
        return "'messages' has no message of the assistant, so there is nothing to learn"
    return None


def _check_pair(row: Mapping[str, Any]) -> str | None:
    return _check_parts(row, ("prompt", "completion"), PROMPT_COMPLETION)


def _check_preference(row: Mapping[str, Any]) -> str | None:
    problem = _check_parts(row, ("prompt", "chosen", "rejected"), PREFERENCE)
    if problem is None and row["chosen"] == row["rejected"]:
        return "'chosen' and 'rejected' are the same, so there is nothing to prefer"
    return problem


def _check_prompts(row: Mapping[str, Any]) -> str | None:
    return _check_parts(row, ("prompt",), PROMPTS)


_CHECKS: Mapping[str, Callable[[Mapping[str, Any]], str | None]] = {
    CHAT: _check_chat, PROMPT_COMPLETION: _check_pair, PREFERENCE: _check_preference, PROMPTS: _check_prompts,
}


def _check_parts(row: Mapping[str, Any], parts: Sequence[str], format_: str) -> str | None:
    """Each part is there, all are plain text or all are messages, and the right side speaks in each."""
    for part in parts:
        if row.get(part) is None:
            return _lacks(row, part, format_)
        if not isinstance(row[part], str | list):
            return f"{part!r} is {_kind(row[part])}; expected text, or a list of messages"
    talk = [part for part in parts if isinstance(row[part], list)]
    if talk and len(talk) < len(parts):
        plain = next(part for part in parts if part not in talk)
        return f"{plain!r} is text but {talk[0]!r} is a list of messages; expected all to be text, or all messages"
    for part in parts:
        problem = _check_messages(row[part], part) if talk else _check_plain(row[part], part)
        if problem:
            return problem
    if talk:
        return _check_turns(row, parts) or _check_tools(row)
    return None


def _check_plain(value: str, part: str) -> str | None:
    # An empty prompt is how a text that begins with nothing is written; an empty answer teaches nothing.
    return None if value.strip() or part == "prompt" else f"{part!r} is empty"


def _check_turns(row: Mapping[str, Any], parts: Sequence[str]) -> str | None:
    if row["prompt"][-1]["role"] == "assistant":
        return "the last message of 'prompt' is the assistant's; expected the user's (or a tool's), which is to be answered"
    for part in parts[1:]:
        if row[part][0]["role"] != "assistant":
            return f"the first message of {part!r} is the {row[part][0]['role']}'s; expected the assistant's answer"
    return None


def _check_messages(value: Any, part: str) -> str | None:
    if not isinstance(value, list):
        return f"{part!r} is {_kind(value)}; expected a list of messages, such as {_MESSAGE}"
    if not value:
        return f"{part!r} is an empty list; expected messages, such as {_MESSAGE}"
    for number, message in enumerate(value):
        problem = _check_message(message)
        if problem:
            return f"{part}[{number}] {problem}"
    return None


_MESSAGE = '{"role": "user", "content": "..."}'


def _check_message(message: Any) -> str | None:
    if not isinstance(message, Mapping):
        return f"is {_kind(message)}; expected {_MESSAGE}"
    role = message.get("role")
    if role not in ROLES:
        hint = " (it has 'from' and 'value': rename them to 'role' and 'content')" if "from" in message else ""
        return f"has the role {role!r}; expected one of {', '.join(ROLES)}{hint}"
    content, calls = message.get("content"), message.get("tool_calls")
    if content is None and not calls:
        return f"has no 'content'; expected {_MESSAGE}"
    if content is not None and not isinstance(content, str | list):
        return f"has {_kind(content)} as 'content'; expected text"
    if calls is not None:
        return _check_calls(calls)
    return None


def _check_calls(calls: Any) -> str | None:
    """What transformers' chat templates read: ``[{"type": "function", "function": {"name", "arguments"}}]``."""
    if not isinstance(calls, list):
        return f"has {_kind(calls)} as 'tool_calls'; expected a list"
    for call in calls:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            return ('has a tool call without a name; expected {"type": "function", '
                    '"function": {"name": ..., "arguments": {...}}}')
    return None


def _check_tools(row: Mapping[str, Any]) -> str | None:
    """``tools``, where it is there: descriptions of functions, as a list or as the JSON text of one."""
    tools = row.get("tools")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError as error:
            return f"'tools' is text that is not JSON: {error}"
    if tools is None:
        return None
    if not isinstance(tools, list):
        return f"'tools' is {_kind(tools)}; expected a list of functions"
    for number, tool in enumerate(tools):
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            return (f"tools[{number}] has no name; expected "
                    '{"type": "function", "function": {"name": ..., "parameters": ...}}')
    return None


def _lacks(row: Mapping[str, Any], part: str, format_: str) -> str:
    return f"has no {part!r}{_keys(row)}; expected {EXPECTED[format_]}"


def _keys(row: Mapping[str, Any]) -> str:
    return f" (its keys: {', '.join(map(str, list(row)[:8]))})" if row else " (it is empty)"


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names: Mapping[type, str] = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list",
                                 dict: "an object"}
    return names.get(type(value), type(value).__name__)


def _without_nulls(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return [
        {key: item for key, item in message.items() if item is not None or key == "content"}
        if isinstance(message, Mapping) else message for message in value
    ]


def _shared_start(first: list[Any], second: list[Any]) -> int:
    """How many messages two conversations begin with alike; each keeps at least its last."""
    longest = min(len(first), len(second)) - 1
    return next((index for index in range(max(longest, 0)) if first[index] != second[index]), max(longest, 0))
