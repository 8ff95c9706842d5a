"""Ranks that hold one model together go through it together, however much each has to do (adapter over ``torch``).

A forward pass of a sharded model is a chain of exchanges between all ranks, so no rank may make one alone. Before each
pass the ranks meet; one that has nothing left to ask goes through the model with a single token as often as the others
need it. What the ranks ask, and of which kind, is theirs: one may write an answer while another reads a long text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist


class HalfwayError(RuntimeError):
    """A pass through the model ended in its middle, where the other ranks still are: these ranks can only end."""


class Lockstep:
    """The meeting before each forward pass of a sharded model.

    Args:
        model: sharded; every call of it meets the other ranks from now on.
        group: a process group of all ranks that carries CPU tensors.
        filler: a token that the model knows.
    """

    def __init__(self, model: torch.nn.Module, group: Any, filler: int) -> None:
        self._model, self._group = model, group
        self._token = torch.tensor([[filler]], device=next(model.parameters()).device)
        self._helping, self._inside = False, False
        # Before FSDP2's own hooks, which begin to gather parameters.
        model.register_forward_pre_hook(self._before, prepend=True)
        model.register_forward_hook(self._after)

    @property
    def broken(self) -> bool:
        """A pass of this rank began and did not end."""
        return self._inside

    def finish(self, beat: Callable[[], None] = lambda: None) -> None:
        """Help the other ranks until none has anything left to ask; each rank calls it once it has done its part.

        Args:
            beat: called often while it helps.

        Raises:
            HalfwayError: a pass of this rank ended in its middle.
        """
        if self.broken:
            raise HalfwayError("a pass through the sharded model ended in its middle; the other ranks wait there")
        self._helping = True
        try:
            with torch.no_grad():
                while self._anybody(False):
                    beat()
                    self._model(input_ids=self._token, attention_mask=torch.ones_like(self._token), use_cache=False)
        finally:
            self._helping = False

    def _before(self, *_: Any) -> None:
        if self._inside:  # whoever caught the first error would now compute with another layer's weights
            raise HalfwayError("an earlier pass through the sharded model ended in its middle; the other ranks wait there")
        if not self._helping:
            self._anybody(True)
        self._inside = True

    def _after(self, *_: Any) -> None:
        self._inside = False

    def _anybody(self, asking: bool) -> bool:
        count = torch.tensor([int(asking)])
        dist.all_reduce(count, group=self._group)
        return bool(count.item())
