"""Which rows go through the model together (pure)."""

from __future__ import annotations

from collections.abc import Sequence

PADDED_TOKENS = 16384
"""Tokens of one batch at most, padding included: logits of a large vocabulary are what takes the memory."""


def batches(lengths: Sequence[int], most_rows: int, most_tokens: int = PADDED_TOKENS) -> list[list[int]]:
    """Indices, batch by batch, longest first: little padding, and what does not fit into memory fails at once.

    Args:
        lengths: tokens of each row.
        most_rows: rows of a batch at most.
        most_tokens: rows times the longest of them at most; a single row may be longer.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    found: list[list[int]] = []
    for index in order:
        full = not found or len(found[-1]) >= most_rows or (len(found[-1]) + 1) * lengths[found[-1][0]] > most_tokens
        if full:
            found.append([index])
        else:
            found[-1].append(index)
    return found


def windows(tokens: Sequence[int], length: int) -> list[tuple[list[int], int]]:
    """Cut a text into pieces of which each token but the very first is predicted exactly once.

    Args:
        tokens: of the whole text.
        length: predicted tokens of a piece at most; the token before them goes along as context.

    Returns:
        Tokens of each piece, and the index of the first one that is predicted.
    """
    pieces = [(list(tokens[begin:begin + length + 1]), 1) for begin in range(0, max(0, len(tokens) - 1), length)]
    return [piece for piece in pieces if len(piece[0]) > 1]


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    shorter = min(len(first), len(second))
    return next((index for index in range(shorter) if first[index] != second[index]), shorter)
