"""Events as lines, once or as they come (service)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from hpctrain.clock import Clock
from hpctrain.jobs.event import Event
from hpctrain.jobs.find import Run
from hpctrain.jobs.follow import how_it_ended
from hpctrain.jobs.poll import Poller
from hpctrain.jobs.report import sentence
from hpctrain.jobs.status import JobStatus, json_value
from hpctrain.jobs.text import cut, duration
from hpctrain.slurm.port import Slurm

POLL_S = 1.0
_BAD, _GOOD, _ODD = 31, 32, 33
_COLOURS = {
    "job.finished": _GOOD, "trainer.finished": _GOOD, "model.saved": _GOOD,
    "job.failed": _BAD, "rank.failed": _BAD, "node.lost": _BAD, "checkpoint.failed": _BAD,
    "checkpoint.degraded": _ODD, "checkpoint.recovered": _GOOD, "checkpoint.flushed": _GOOD,
    "fault.detected": _BAD, "recovery.started": _ODD, "recovery.finished": _GOOD, "loss.bad": _BAD, "log.rule": _ODD,
    "detection.alert": _ODD, "node.excluded": _ODD, "agent.lost_coordinator": _BAD,
    "checkpoint.skipped": _ODD, "job.requeued": _ODD, "job.cancelled": _ODD, "job.stop_requested": _ODD,
}


def wanted(event: Event, kinds: Sequence[str]) -> bool:
    """The event is of one of the kinds: a whole kind, or its first word with or without ``.*``; none means all."""
    return not kinds or any(event.kind == kind or event.kind.split(".")[0] == kind.removesuffix(".*") for kind in kinds)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events are wanted; what is empty asks for nothing.

    Attributes:
        since: seconds since the epoch.
    """

    kinds: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    since: float | None = None

    def takes(self, event: Event) -> bool:
        """The event is wanted."""
        blamed = event.evidence.get("nodes")
        places = {event.node, *(blamed if isinstance(blamed, list) else ())}
        return (
            wanted(event, self.kinds) and (not self.sources or event.source in self.sources)
            and (not self.nodes or bool(places & set(self.nodes))) and (self.since is None or event.time >= self.since)
        )


class EventPrinter:
    """Shows one event per line: the time, the time since submission, the source, what happened.

    Args:
        chosen: a :class:`Filter`; only what it takes is shown while following.
        start: what relative times count from, seconds since the epoch.
        width: cut lines there, None for never.
        json_lines: one JSON object per line instead.
    """

    def __init__(
        self, start: float, chosen: Filter | None = None, *, width: int | None = None, colour: bool = False,
        json_lines: bool = False,
    ) -> None:
        self.chosen = chosen or Filter()
        self._start, self._width, self._colour, self._json = start, width, colour, json_lines
        self._day = ""

    def show(self, event: Event) -> str:
        """The line, after a line with the date when that is a new one."""
        if self._json:
            return json.dumps(json_value(event.to_json()), ensure_ascii=False)
        moment = datetime.fromtimestamp(event.time).astimezone()
        day, self._day = self._day, moment.strftime("%Y-%m-%d")
        head = f"{self._day}\n" if day != self._day else ""
        passed = "+" + duration(max(0, round(event.time - self._start)))
        line = " ".join(f"  {moment:%H:%M:%S}  {passed:>8}  {event.source:<11} {sentence(event)}".splitlines())
        line = line if self._width is None else cut(line, self._width)
        code = _COLOURS.get(event.kind) if self._colour else None
        return head + (f"\x1b[{code}m{line}\x1b[0m" if code else line)


def follow_events(
    run: Run, slurm: Slurm | None, clock: Clock, printer: EventPrinter, *,
    out: Callable[[str], None], say: Callable[[str], None], shown_before: Collection[str] = (),
    mark: Callable[[str], None] | None = None,
) -> JobStatus:
    """Print events as they come, until the run has ended; return its final status.

    Args:
        mark: told "" at first, and a text after each event that was printed; another call that is given all these texts
            as ``shown_before`` prints the others only.
    """
    poller = Poller(run, slurm, clock, say=say)
    before, mark = frozenset(shown_before), mark or (lambda _: None)
    mark("")
    shown: set[tuple[float, str, str, str]] = set()
    while True:
        status = poller.status()
        for event in poller.events:
            # Not a position in the list: a slow file system may show an earlier event of another node later.
            key = (event.time, event.source, event.kind, event.node)
            if key not in shown:
                shown.add(key)
                if printer.chosen.takes(event):
                    line, text = printer.show(event), _digest(key)
                    if text not in before:
                        out(line)
                        mark(text)
        if status.final:
            say(how_it_ended(status))
            return status
        clock.sleep(POLL_S)


def _digest(key: tuple[float, str, str, str]) -> str:
    return hashlib.blake2b(repr(key).encode(), digest_size=9).hexdigest()
