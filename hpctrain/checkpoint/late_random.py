"""Random generators that are restored later than everything else (adapter over ``torch``)."""

from __future__ import annotations

from typing import Any

from hpctrain.checkpoint.torch_state import RandomState


class LateRandomState:
    """Register it in place of ``rng=True`` where finding the first batch draws random numbers after the restore.

    It is saved with every rank's own state; continued only on the number of ranks that saved.
    """

    def __init__(self) -> None:
        self._now = RandomState()
        self._loaded: Any = None
        self._waits = False

    def state_dict(self) -> dict[str, Any]:
        """The generators as they are."""
        return self._now.state_dict()

    def load_state_dict(self, state_dict: Any) -> None:
        """Keep it for :meth:`apply`."""
        self._loaded = state_dict

    def wait(self) -> None:
        """The restore has succeeded: the next :meth:`apply` counts."""
        self._waits = self._loaded is not None

    def apply(self) -> bool:
        """Set the generators if they wait for it; whether they did."""
        waited, self._waits = self._waits, False
        if waited:
            self._now.load_state_dict(self._loaded)
        return waited
