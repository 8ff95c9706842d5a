"""Reward from a judge model behind an endpoint (adapter over :mod:`hpctrain.endpoint`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hpctrain.endpoint.judge import Marker
from hpctrain.recipe.schema_method import Judge
from hpctrain.train.rewards.batch import Batch


class JudgeReward:
    """Marks from 0 to 1 for each answer, all asked at once; the same answer is asked about once.

    Args:
        cache, writer, notify: see :class:`hpctrain.endpoint.judge.Marker`.

    Raises:
        EndpointError: the variable that is to hold the judge's key does not.
    """

    def __init__(self, judge: Judge, *, cache: Path | None, writer: str, notify: Callable[[str], None]) -> None:
        self._marker = Marker(judge, cache=cache, writer=writer, notify=notify)

    def __call__(self, batch: Batch) -> list[float | None]:
        """One mark per answer.

        Raises:
            EndpointError: the judge does not answer after all tries, or its replies hold no marks.
        """
        return [*self._marker.marks(batch.prompts, batch.texts)]
