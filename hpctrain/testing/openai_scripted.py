"""Models that are a few lines of Python, to stand in for a teacher or a judge (pure).

They do real work on what they are sent, so that what learns from them learns something: sums are computed, marks depend on
whether the answer is right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Messages = Sequence[Mapping[str, Any]]

_SUM = re.compile(r"(-?\d+)\s*([-+*x\u00d7])\s*(-?\d+)")
_PART = r"<{name} (?P<tag>[0-9a-f]+)>\n(?P<text>.*?)\n</{name} (?P=tag)>"
_SCALE = re.compile(r"from 0 to (\d+)")


def arithmetic(messages: Messages) -> str:
    """Computes the last sum, difference or product of the last message."""
    result = solve(_last(messages))
    return "I see nothing to compute." if result is None else str(result)


def judge(messages: Messages) -> str:
    """Marks answers to sums, all or nothing; other answers by the words they share with the question."""
    text = _last(messages)
    question = _part("question", text)
    if question is None:
        question, text = _part("question", _first_user(messages)), _first_user(messages)
    first, second = _part("answer A", text), _part("answer B", text)
    if first is not None and second is not None:
        one, two = worth(question or "", first), worth(question or "", second)
        return "BETTER: " + ("TIE" if one == two else "A" if one > two else "B")
    scale = _SCALE.findall(text)
    return f"MARK: {round(worth(question or '', _part('answer', text) or '') * int(scale[-1] if scale else 10))}"


def letters(messages: Messages) -> str:
    """Marks the share of small letters in an answer: even what an untrained model writes gets marks that differ."""
    text = _last(messages)
    answer = _part("answer", text) or ""
    scale = _SCALE.findall(text)
    share = sum("a" <= letter <= "z" for letter in answer) / max(1, len(answer))
    return f"MARK: {round(share * int(scale[-1] if scale else 10))}"


def echo(messages: Messages) -> str:
    """Says the last message again."""
    return _last(messages)


SCRIPTS: Mapping[str, Callable[[Messages], str]] = {
    "arithmetic": arithmetic, "echo": echo, "judge": judge, "letters": letters,
}
"""By name, as the command line takes them."""


def solve(text: str) -> int | None:
    """The result of the last sum, difference or product in a text; None where there is none."""
    found = _SUM.findall(text)
    if not found:
        return None
    left, sign, right = found[-1]
    one, two = int(left), int(right)
    return one + two if sign == "+" else one - two if sign == "-" else one * two


def worth(question: str, answer: str) -> float:
    """0 to 1: for a sum, whether the answer's last number is its result; else the share of the question's words."""
    result = solve(question)
    if result is not None:
        numbers = re.findall(r"-?\d+", answer)
        return 1.0 if numbers and int(numbers[-1]) == result else 0.0
    words = set(re.findall(r"\w{4,}", question.lower()))
    return len(words & set(re.findall(r"\w{4,}", answer.lower()))) / len(words) if words else 0.0


def _part(name: str, text: str) -> str | None:
    found = re.search(_PART.replace("{name}", name), text, re.DOTALL)
    return found["text"] if found else None


def _last(messages: Messages) -> str:
    return _content(messages[-1])


def _first_user(messages: Messages) -> str:
    return next((_content(message) for message in messages if message.get("role") == "user"), "")


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""
