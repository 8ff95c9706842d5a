"""What was registered with a :class:`~hpctrain.checkpoint.manager.Checkpointer` (adapter over ``torch``)."""

from __future__ import annotations

import json
from typing import Any

from hpctrain.checkpoint import codec, torch_state
from hpctrain.checkpoint.capture import Capture, Captures
from hpctrain.errors import UsageError


class Registered:
    """The objects whose state makes up a checkpoint."""

    def __init__(self) -> None:
        self.items: dict[str, torch_state.Stateful] = {}
        self.rng: torch_state.RandomState | None = None
        self._data: Any = None
        self._captures = Captures()

    def add(self, model: Any, optimizer: Any, *, rng: bool, more: dict[str, Any]) -> None:
        """See :meth:`hpctrain.checkpoint.manager.Checkpointer.register`."""
        if model is not None:
            adapted = torch_state.has_adapter(model)
            self.items["model"] = torch_state.AdapterState(model) if adapted else torch_state.ModelState(model)
        if optimizer is not None:
            if model is None:
                raise TypeError("register(optimizer=...) needs model=... too: its state is stored by parameter name")
            self.items["optimizer"] = torch_state.OptimizerState(model, optimizer)
        for name, item in more.items():
            if not isinstance(item, torch_state.Stateful):
                raise TypeError(f"register({name}=...): a {type(item).__name__} has no state_dict and load_state_dict")
            self.items[name] = item
        if rng:
            self.rng = torch_state.RandomState()
        self._data = more.get("data", self._data)

    def collect(self, rank: int, world_size: int) -> tuple[Capture, str]:
        """A rank's share of the tensors, and the rest of its state as JSON.

        Raises:
            TypeError, ValueError: something cannot be saved; the message names it.
        """
        tensors: dict[str, Any] = {}
        tree = {key: torch_state.split(item.state_dict(), key, tensors) for key, item in self.items.items()}
        if self.rng is not None:
            tree["rng"] = self.rng.state_dict()
        return self._captures(tensors, rank, world_size), json.dumps(codec.encode(tree), separators=(",", ":"))

    def check_skip(self) -> None:
        """Make sure that data can be skipped.

        Raises:
            UsageError: nothing registered as ``data`` can.
        """
        if not callable(getattr(self._data, "skip", None)):
            what = f"a {type(self._data).__name__} has no skip(n)" if self._data else "nothing is registered as data="
            raise UsageError(f"restore(skip_data=...): {what}", hint="register(data=...) an object with a method skip(n)")

    def skip(self, count: int) -> None:
        """Leave out the next ``count`` of whatever the registered data counts."""
        if count:
            self._data.skip(count)

    def clear(self) -> None:
        """Let go of everything."""
        self.items.clear()
        self._data = None
