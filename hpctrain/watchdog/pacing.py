"""How long to wait before the controller is asked again (pure, standard library only)."""

from __future__ import annotations

LONGEST_SILENCE_S = 300.0
SOON_S = 5.0


class Pace:
    """Soon while something is on its way, ever more rarely while nothing changes, and rarely while nobody answers.

    Args:
        shortest_s, longest_s: bounds while the controller answers.
    """

    def __init__(self, shortest_s: float = 10.0, longest_s: float = 60.0) -> None:
        self.shortest_s, self.longest_s = shortest_s, longest_s
        self.wait_s = shortest_s

    def answered(self, *, changed: bool, unsettled: bool) -> float:
        """After an answer: seconds until the next question.

        Args:
            changed: a job has come, gone or changed its state.
            unsettled: something is on its way, and the next look decides about it.
        """
        if unsettled:
            self.wait_s = min(SOON_S, self.shortest_s)
        elif changed:
            self.wait_s = self.shortest_s
        else:
            self.wait_s = min(max(self.wait_s, self.shortest_s) * 1.5, self.longest_s)
        return self.wait_s

    def silent(self) -> float:
        """After no answer: twice as long as before, at most five minutes."""
        self.wait_s = min(max(self.wait_s, self.shortest_s) * 2, LONGEST_SILENCE_S)
        return self.wait_s
