"""What is said to an OpenAI-compatible endpoint, and how its answers are read (pure).

Only what all servers of this kind share is used: ``POST <url>/chat/completions`` with ``model``, ``messages``,
``temperature`` and a limit, without streaming.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Message = Mapping[str, Any]
"""One turn of a conversation: ``role`` and ``content``."""

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
"""Statuses that another try may mend: busy, overloaded, restarting, a proxy without its server."""
REFUSED = frozenset({400, 413, 422})
"""Statuses that say something about the question: it is too long, or the server will not talk of it."""
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0
_SHOWN = 300
_LIMIT_NAMES = ("max_tokens", "max_completion_tokens")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said.

    Attributes:
        finished: it came to its end; false where the limit of tokens cut it off.
        prompt_tokens, completion_tokens: as the server counts them, 0 where it does not say.
    """

    text: str
    finished: bool = True
    prompt_tokens: int = 0
    completion_tokens: int = 0


def chat_body(
    model: str, messages: Sequence[Message], *, temperature: float, max_new_tokens: int, limit_name: str = _LIMIT_NAMES[0],
) -> bytes:
    """The request for one answer.

    Args:
        limit_name: how the server calls the limit; see :func:`other_limit_name`.
    """
    return json.dumps({
        "model": model, "messages": [dict(message) for message in messages], "temperature": temperature,
        limit_name: max_new_tokens, "stream": False,
    }).encode()


def other_limit_name(limit_name: str, refusal: str) -> str:
    """The other name of the limit, where a refusal names it; "" where it does not.

    OpenAI's newer models refuse ``max_tokens``, and most other servers know no other name.
    """
    other = _LIMIT_NAMES[1 - _LIMIT_NAMES.index(limit_name)]
    return other if re.search(rf"\b{other}\b", refusal) else ""


def read_answer(body: bytes) -> Answer:
    """The answer in a response.

    Raises:
        ValueError: it is none; the text says what was found.
    """
    try:
        response = json.loads(body)
    except ValueError:
        raise ValueError(f"it answered with what is no JSON: {shown(body)}") from None
    try:
        choice = response["choices"][0]
        content = choice["message"].get("content")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ValueError(f"its answer holds no choices[0].message: {shown(body)}") from None
    if content is not None and not isinstance(content, str):
        raise ValueError(f"its answer's content is no text: {shown(body)}")
    usage = response.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    return Answer(
        content or "", finished=choice.get("finish_reason") != "length",
        prompt_tokens=_count(usage, "prompt_tokens"), completion_tokens=_count(usage, "completion_tokens"),
    )


def error_text(body: bytes) -> str:
    """What a server says about its refusal: OpenAI's ``error.message``, FastAPI's ``detail``, or the start of the text."""
    try:
        found = json.loads(body)
    except ValueError:
        return shown(body)
    for key in ("error", "message", "detail"):
        inner = found.get(key) if isinstance(found, Mapping) else None
        if isinstance(inner, Mapping):
            inner = inner.get("message")
        if isinstance(inner, str) and inner:
            return shown(inner)
    return shown(body)


def shown(text: bytes | str) -> str:
    """The start of a foreign text, safe to print in one line."""
    decoded = text.decode(errors="replace") if isinstance(text, bytes) else text
    line = " ".join("".join(char if char.isprintable() else " " for char in decoded).split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."


def wait_s(tries: int, asked_for_s: float | None, jitter: float) -> float:
    """Seconds before the next try: doubled each time, and never less than the server asks for, within a limit.

    Args:
        tries: made so far, from 1.
        asked_for_s: the server's ``Retry-After``.
        jitter: 0 to 1, so that many clients do not come back together.
    """
    doubled = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(tries - 1, 30)) * (0.75 + 0.5 * jitter)
    return min(LONGEST_WAIT_S, max(doubled, asked_for_s or 0.0))


def _count(usage: Mapping[str, Any], key: str) -> int:
    value = usage.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
