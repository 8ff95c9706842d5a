"""An agent's connection to the coordinator, made again when it breaks (service).

Calling may take seconds, so that a thread does it; everything else happens in the agent's own loop. Where the coordinator
is, the environment says at first; later ``control/coordinator.json`` does, because a successor is somewhere else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from hpctrain.agent.channel import Line, dial
from hpctrain.agent.coordinator_file import CoordinatorState, read_state
from hpctrain.checkpoint.keeper_wire import WireError
from hpctrain.clock import Clock
from hpctrain.jobs.layout import RunDir

SILENCE_S = 12.0
"""The coordinator sends something every second; when nothing has come for so long, it is called again."""
RETRY_S = 0.3
DIAL_S = 5.0


class CoordinatorLink:
    """Call :meth:`tend` often.

    Attributes:
        heard_s: when something was last heard, on the monotonic clock.

    Args:
        first: address and port from the environment, None where it has none.
        greet: called with every new line, before anything else is sent.
    """

    def __init__(
        self, run_dir: RunDir, secret: bytes, clock: Clock, first: tuple[str, int] | None, greet: Callable[[Line], None],
    ) -> None:
        self._run_dir, self._secret, self._clock, self._first, self._greet = run_dir, secret, clock, first, greet
        self._line: Line | None = None
        self._dialled: Line | None = None
        self._dialling: threading.Thread | None = None
        self._next_s = float("-inf")
        self.heard_s = clock.monotonic()
        self.seen: CoordinatorState | None = None

    @property
    def is_up(self) -> bool:
        """There is a connection."""
        return self._line is not None and not self._line.closed

    @property
    def descriptors(self) -> tuple[list[int], list[int]]:
        """For waiting: those to read from, and those to write to."""
        if self._line is None or self._line.closed:
            return [], []
        number = self._line.fileno()
        return [number], [number] if self._line.is_waiting else []

    def send(self, message: Mapping[str, Any]) -> None:
        """Send, if there is a connection; what is lost without one the greeting of the next says again."""
        if self._line is not None:
            self._line.send(message)

    def tend(self) -> list[dict[str, Any]]:
        """Keep the connection alive; what has come."""
        now = self._clock.monotonic()
        if self._dialled is not None:
            self._line, self._dialled = self._dialled, None
            self.heard_s = now
            self._greet(self._line)
        if self._line is None:
            self._call(now)
            return []
        self._line.push()
        messages = self._line.receive()
        if messages:
            self.heard_s = now
        if self._line.closed or now - self.heard_s > SILENCE_S:
            self._line.close()
            self._line = self.seen = None
        return messages

    def close(self) -> None:
        """Hang up."""
        if self._line is not None:
            self._line.close()

    def _call(self, now: float) -> None:
        if now < self._next_s or (self._dialling is not None and self._dialling.is_alive()):
            return
        self._next_s = now + RETRY_S
        self._dialling = threading.Thread(target=self._dial, name="dial", daemon=True)
        self._dialling.start()

    def _dial(self) -> None:
        state = self.seen = read_state(self._run_dir)
        places = [(state.addr, state.port)] if state is not None and state.port else []
        if self._first is not None and self._first not in places:
            places.append(self._first)
        for addr, port in places:
            try:
                self._dialled = dial(addr, port, self._secret, DIAL_S)
            except WireError:
                continue
            return


def place_of(text: str) -> tuple[str, int] | None:
    """Address and port from ``ADDR:PORT``; None if it is not that."""
    addr, _, port = text.rpartition(":")
    return (addr, int(port)) if addr and port.isdigit() else None
