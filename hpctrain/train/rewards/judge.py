"""Reward from a judge model behind an endpoint (adapter over :mod:`hpctrain.endpoint`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hpctrain.endpoint.client import Client
from hpctrain.endpoint.judge import Marker
from hpctrain.errors import EndpointError
from hpctrain.recipe.schema_method import Judge
from hpctrain.train.rewards.batch import Batch


class JudgeReward:
    """Marks from 0 to 1 for each answer, all asked at once; the same answer is asked about once.

    Args:
        cache, writer, notify: see :class:`hpctrain.endpoint.judge.Marker`.
        share: ranks of this node, which all ask at once.
        beat: told how far it is, at least once a second: a judge that is slow or away for a while is no hang.

    Raises:
        EndpointError: the variable that is to hold the judge's key does not.
    """

    def __init__(
        self, judge: Judge, *, cache: Path | None, writer: str, notify: Callable[[str], None], share: int = 1,
        beat: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._beat = beat
        self._marker = Marker(judge, cache=cache, writer=writer, notify=notify,
                              client=Client(judge, share=share, notify=notify))

    def __call__(self, batch: Batch) -> list[float | None]:
        """One mark per answer.

        Raises:
            EndpointError: the judge does not answer after all tries, or its replies hold no marks. The message begins with
                the judge's place in the recipe.
        """
        try:
            return [*self._marker.marks(batch.prompts, batch.texts, tick=self._tick)]
        except EndpointError as error:
            raise EndpointError(error.message, where=f"judge: {error.where}", hint=error.advice) from None

    def _tick(self, done: int, of: int) -> None:
        self._beat(f"{done} of {of} marks of the judge")
