"""Distinct types for the things that are otherwise all strings and ints (pure)."""

from __future__ import annotations

from typing import NewType

JobId = NewType("JobId", int)
"""Slurm's job number. Array and heterogeneous jobs are not submitted by hpctrain."""

NodeName = NewType("NodeName", str)
"""A node as Slurm names it (``NodeName``, not the host name)."""

Rank = NewType("Rank", int)
"""Global rank of a training process, 0 to world size - 1."""

Step = NewType("Step", int)
"""Number of *completed* optimizer steps; the first step that is done is step 1."""

Incarnation = NewType("Incarnation", int)
"""How many times the ranks of this run were started before: 0 on the first start.

It never goes back, also not over a requeue, and fences writers of older incarnations.
"""
