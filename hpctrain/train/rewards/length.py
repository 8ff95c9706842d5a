"""Reward for an answer of the right length (pure)."""

from __future__ import annotations


def length(tokens: int, least: int, most: int | None) -> float:
    """1 between the two bounds, which count as right; outside, less the further away: the share of the nearer bound that is
    reached, or that bound's share of the length.

    So a model that writes far too much is told by how much a shorter answer is better.
    """
    if tokens < least:
        return tokens / least
    if most is not None and tokens > most:
        return most / tokens
    return 1.0
