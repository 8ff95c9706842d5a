"""What a model behind the test server is asked, and what it says (pure)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Question:
    """What a client asks."""

    messages: Sequence[Mapping[str, Any]]
    temperature: float = 1.0
    max_new_tokens: int = 256


@dataclass(frozen=True)
class Said:
    """What is answered; ``finished`` is false where the limit cut it off."""

    text: str
    finished: bool = True
    prompt_tokens: int = 0
    completion_tokens: int = 0


class RefusedError(Exception):
    """The model cannot take this question: HTTP status 400."""


Model = Callable[[Question], "Said | str"]
"""What answers."""
