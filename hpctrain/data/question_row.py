"""A question and its answer as a row of any format (pure)."""

from __future__ import annotations

from typing import Any


def question_row(format_: str, question: str, answer: str, worse: str) -> dict[str, Any]:
    """The row that an example's data set has for a question.

    Args:
        format_: one of those that ``data.format`` names; any other gives a prompt with its answer.
        worse: an answer that ``preference`` rows rank below the right one.
    """
    asked = [{"role": "user", "content": question}]
    if format_ == "text":
        return {"text": f"{question} {answer}"}
    if format_ == "chat":
        return {"messages": [*asked, _said(answer)]}
    if format_ == "prompt_completion":
        return {"prompt": asked, "completion": [_said(answer)]}
    if format_ == "preference":
        return {"prompt": asked, "chosen": [_said(answer)], "rejected": [_said(worse)]}
    return {"prompt": asked, "answer": answer}


def _said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}
