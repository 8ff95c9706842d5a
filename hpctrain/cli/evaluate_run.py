"""``hpctrain evaluate`` on this machine, or on the ranks of a job (entry point)."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from hpctrain.cli.output import say
from hpctrain.errors import UsageError

if TYPE_CHECKING:
    from hpctrain.cli.evaluate_ask import Asked
    from hpctrain.evaluate.results import Evaluation
    from hpctrain.evaluate.run import Helpers


def measure(asked: Asked) -> tuple[Evaluation, bool]:
    """Measure; the results, and whether this process speaks for all ranks.

    Raises:
        HpctrainError: no model can be loaded from here, or results cannot be written.
    """
    from hpctrain.evaluate.at_end import chat_template_of
    from hpctrain.evaluate.language_model import Place
    from hpctrain.evaluate.peers import environment_of, meet
    from hpctrain.evaluate.run import Order, Subject, evaluate
    from hpctrain.files import make_private_dir

    here = environment_of(os.environ)
    options, ranks = asked.options, meet(here, os.environ)
    if asked.folder is not None and ranks.is_first:
        make_private_dir(asked.folder)
    data = asked.recipe.data if asked.recipe is not None else None
    remote_code = options["trust_remote_code"] or bool(
        asked.recipe is not None and asked.recipe.model is not None and asked.recipe.model.trust_remote_code)
    place = Place(
        device=_device(options["device"]), precision=options["precision"],
        batch_size=options["batch_size"], spread=options["spread"], local_world_size=here.local_world_size,
        trust_remote_code=remote_code,
        sequence_length=options["sequence_length"] or (data.sequence_length if data is not None else 0),
    )
    subjects = tuple(Subject(label, path) for label, path in asked.subjects)
    order = Order(asked.name, subjects, asked.suites, place, asked.recipe, asked.judge,
                  chat_template_of(subjects[-1].path), asked.folder, time.time())
    found = evaluate(order, _helpers(asked, ranks))
    if found is None:
        raise UsageError("the evaluation was stopped")
    return found, ranks.is_first


def _helpers(asked: Asked, ranks: Any) -> Helpers:
    """What a run of ours can give: its rewards and its held-out text; a bare model gives neither."""
    from hpctrain.evaluate.run import Helpers

    ticker = _Ticker(speaks=ranks.is_first)
    voice: dict[str, Any] = {"say": ticker.say, "beat": ticker.beat}
    if asked.recipe is None or asked.run is None:
        return Helpers(ranks, **voice)
    from hpctrain.train.evaluation import lend

    device = _device(asked.options["device"])
    return lend(asked.recipe, asked.run.dir, ranks, device=device, **voice)


def _device(asked: str) -> str:
    """What was asked for; in a job of ours whose GPUs are simulated, the CPU."""
    return (os.environ.get("HPCTRAIN_DEVICE") or "") if asked == "auto" else asked


class _Ticker:
    """Progress on standard error: on a terminal one line that is overwritten, else a line every half minute."""

    EVERY_S, REDRAW_S = 30.0, 0.1

    def __init__(self, *, speaks: bool) -> None:
        self._speaks, self._last = speaks, time.monotonic()
        self._terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def beat(self, detail: str) -> None:
        """Show what is being done."""
        now = time.monotonic()
        if not self._speaks or now - self._last < (self.REDRAW_S if self._terminal else self.EVERY_S):
            return
        self._last = now
        if self._terminal:
            from hpctrain.jobs.text import cut

            click.echo("\r\x1b[K" + cut(detail, shutil.get_terminal_size().columns - 1), err=True, nl=False)
        else:
            say(detail)

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._speaks:
            say(("\r\x1b[K" if self._terminal else "") + text)
