"""Has a teacher behind an endpoint answer the data's questions, once (service).

Each answer is on disk before the next is taken, under the content of its question: a run that is killed, stopped or requeued
asks only for what is missing, and not at all once everything is there. A question that the teacher refuses, such as one
that is too long for it, is left out; more than a few of them end the run.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from hpctrain.data.read import rows as data_rows
from hpctrain.data.read import validation_rows
from hpctrain.endpoint.client import AskingStopped, Client
from hpctrain.endpoint.kept import Kept, question_key
from hpctrain.endpoint.wire import Answer
from hpctrain.errors import EndpointError, QuestionRefusedError, RecipeError
from hpctrain.files import write_atomic
from hpctrain.recipe.schema import Data
from hpctrain.recipe.schema_method import Endpoint
from hpctrain.recipe.units import several
from hpctrain.train.tune.context import TuneContext
from hpctrain.train.tune.distill_rows import Conversation, Learned, learned, question

_TOO_MANY = 0.5
"""Of all answers: if so many cannot be learned, something is wrong that a person should know of."""
MOST_REFUSED = 0.1
"""Of all questions may be left out because the teacher refuses them; more ends the run."""
_ONLY_REFUSALS = 8
"""So many refusals without an answer, and the teacher is asked no more: it would refuse everything."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of asking.

    Attributes:
        path: the rows to learn; "" where the asking was stopped.
        validation_fraction: of them.
        stopped: why it was stopped, "" where it was not.
    """

    path: str = ""
    validation_fraction: float = 0.0
    stopped: str = ""


def ask_teacher(context: TuneContext, teacher: Endpoint) -> Answered:
    """Ask on rank 0 while the others wait; called by every rank.

    Raises:
        EndpointError: the teacher does not answer after all tries, or refuses too many questions, of which one is named with
            ``file:line``; what it had answered is kept.
        RecipeError: a row cannot be asked (with ``file:line``), or the teacher's answers cannot be learned.
        StorageError: the answers cannot be written.
    """
    context.heartbeat.beat("data", detail="asking the teacher")
    return context.ranks.on_first(lambda: _ask(context, teacher))


def with_rows(context: TuneContext, answered: Answered) -> None:
    """From here on the recipe's data is the teacher's answers; the same questions as before are kept out of training."""
    data = Data(source="files", paths=[answered.path], format="prompt_completion",
                sequence_length=context.data.sequence_length, validation_fraction=answered.validation_fraction)
    context.recipe = context.recipe.model_copy(update={"data": data})


def _ask(context: TuneContext, teacher: Endpoint) -> Answered:
    found = list(data_rows(context.data, context.recipe.method or ""))
    if not found:
        raise RecipeError("the data holds no rows", where="data")
    asked = [question(row.values, row.where) for row in found]
    keys = [question_key(teacher, conversation) for conversation in asked]
    kept = Kept(context.run_dir.cache / "teacher", "answers", durable=True)
    missing = {key: conversation for key, conversation in zip(keys, asked, strict=True) if kept.get(key) is None}
    refusals = _Refusals(teacher, dict(zip(reversed(keys), (row.where for row in reversed(found)), strict=True)), kept)
    try:
        _fetch(context, teacher, kept, missing, refusals)
    except AskingStopped as stop:
        still = sum(kept.get(key) is None for key in missing)
        context.report.say(f"stopped while asking the teacher ({stop}): {still} of {len(missing)} answers are missing")
        return Answered(stopped=str(stop))
    rows = [row.values for row in found]
    held_out = validation_rows(len(rows), context.data.validation_fraction)
    result = learned(rows, asked, (kept.get(key) or {} for key in keys), held_out=held_out)
    _tell(context, teacher, result, asked=len(missing), total=len(found), refused=refusals.example)
    return Answered(str(_write(context.run_dir.cache, result)), result.validation_fraction)


class _Refusals:
    """Questions that the teacher refuses.

    They are kept only once the asking has come to its end: an error that ends it is there to be mended, and the questions
    are then asked again.

    Args:
        places: where each question comes from, by its key, last ones first.
    """

    def __init__(self, teacher: Endpoint, places: dict[str, str], kept: Kept) -> None:
        self._teacher, self._places, self._kept = teacher, places, kept
        self._found: dict[str, str] = {}
        self._first: EndpointError | None = None
        self._before = len(kept)

    def add(self, key: str, error: QuestionRefusedError) -> None:
        """Take one.

        Raises:
            EndpointError: these are too many.
        """
        self._found[key] = error.message
        self._first = self._first or self._named(key, error.message, error.advice)
        answered = len(self._kept) > self._before
        if len(self._found) > MOST_REFUSED * len(self._places) or (
                not answered and len(self._found) >= _ONLY_REFUSALS):
            more = f"; so does it {len(self._found) - 1} others" if len(self._found) > 1 else ""
            raise EndpointError(self._first.message + more, where=self._first.where, hint=self._first.advice)

    def keep(self) -> None:
        """All questions were asked: those that are refused are not asked again."""
        for key, reason in self._found.items():
            self._kept.put(key, {"refused": reason})

    @property
    def example(self) -> str:
        """One of them in words, "" without any."""
        for key, place in reversed(self._places.items()):
            record = self._kept.get(key) or {}
            if record.get("refused"):
                return f"{place}: {record['refused']}"
        return ""

    def _named(self, key: str, reason: str, advice: str) -> EndpointError:
        return EndpointError(
            f"the teacher at {self._teacher.url} refuses this question: {reason}", where=self._places.get(key, ""),
            hint=advice or "leave out such rows, or give the teacher's server more room (vLLM: --max-model-len)")


def _fetch(
    context: TuneContext, teacher: Endpoint, kept: Kept, missing: dict[str, Conversation], refusals: _Refusals
) -> None:
    """Get the missing answers.

    Raises:
        AskingStopped: the run was asked to stop.
        EndpointError: see :func:`ask_teacher`.
    """
    order, started, tokens = list(missing), time.monotonic(), 0
    if not order:
        return

    def keep(index: int, answer: Answer) -> None:
        nonlocal tokens
        tokens += answer.completion_tokens
        kept.put(order[index], {"text": answer.text, "finished": answer.finished})

    def tick(done: int, of: int) -> None:
        context.heartbeat.beat("data", detail=f"{done} of {of} answers of the teacher")

    context.report.say(f"asking {teacher.model} at {teacher.url} {len(order)} questions, {teacher.concurrency} at once")
    client = Client(teacher, env=os.environ, notify=lambda text: context.report.say(f"warning: {text}"))
    client.answer_many([missing[key] for key in order], on_answer=keep, tick=tick, stop=lambda: context.stop.reason,
                       on_refused=lambda index, error: refusals.add(order[index], error))
    refusals.keep()
    context.report.say(f"the teacher wrote {tokens} tokens in {time.monotonic() - started:.1f} s")


def _tell(context: TuneContext, teacher: Endpoint, result: Learned, *, asked: int, total: int, refused: str) -> None:
    """One event about what came of it.

    Args:
        refused: one of the refusals, in words.

    Raises:
        RecipeError: most answers cannot be learned.
    """
    left_out = result.cut_off + result.empty
    if left_out > _TOO_MANY * total:
        raise RecipeError(
            f"of {total} answers of the teacher {result.cut_off} were cut off at {teacher.max_new_tokens} tokens and "
            f"{result.empty} were empty, so that {len(result.rows)} are left to learn", where="teacher.endpoint",
            hint="raise teacher.endpoint.max_new_tokens" if result.cut_off else "look at what the teacher says")
    evidence = {"rows": total, "asked": asked, "cut_off": result.cut_off, "empty": result.empty, "refused": result.refused}
    more = f"; {result.cut_off} cut off and {result.empty} empty ones are left out" if left_out else ""
    if result.refused:
        more += f"; {several(result.refused, 'question')} that the teacher refuses left out, such as {refused}"
    how = f"{asked} of them asked for now" if asked else "all of them from an earlier start"
    context.report.event("teacher.answered", f"{len(result.rows)} answers of {teacher.model}, {how}{more}",
                         evidence=evidence)


def _write(cache: Path, result: Learned) -> Path:
    """The rows under their content, written once: a file whose time changed would be another data set."""
    data = result.text.encode()
    path = cache / f"taught-{hashlib.sha256(data).hexdigest()[:16]}.jsonl"
    if not path.is_file():
        write_atomic(path, data)
    return path
