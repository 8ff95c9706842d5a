"""Suites on models, one after the other: each model is loaded once, each suite's rows are shared among the ranks (service).

What is finished is written at once; an evaluation that was stopped goes on behind it. A suite that fails is told with its
reason and the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event, Thread

from hpctrain import __version__
from hpctrain.checkpoint.ranks import Ranks
from hpctrain.errors import HpctrainError
from hpctrain.evaluate import files
from hpctrain.evaluate.keys import identity_of, result_key
from hpctrain.evaluate.kinds import KINDS, ByRow
from hpctrain.evaluate.language_model import LanguageModel, Place
from hpctrain.evaluate.loading import free_memory, load
from hpctrain.evaluate.lockstep import HalfwayError
from hpctrain.evaluate.measures import Measure
from hpctrain.evaluate.results import Evaluation, ModelResult, SuiteResult
from hpctrain.evaluate.rows import HeldOut, RowSource
from hpctrain.evaluate.task import Record, Scorer, SetRow, StoppedError, Task
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.schema_method import Judge, Suite

SAMPLES = 5
_SAMPLE_TEXT = 2000
_INNER = ("row", "nats", "tokens", "size_bytes", "marks", "chosen_tokens", "rejected_tokens")
"""Keys of records that say nothing to a reader."""
_TICK_S = 10.0
MOST_TRIES = 2
"""Times that a suite may end its ranks (memory that is full, a crash in code of yours) before it is left out; fewer than the
run's own budget allows (hpctrain.watchdog.budget: the same failure three times), or the finished run would fail by it."""
Rows = list[SetRow] | HpctrainError
"""The rows of a suite, or why there are none."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to measure, and the column it gets."""

    label: str
    path: str


@dataclass(frozen=True, slots=True)
class Order:
    """What is measured on what.

    Attributes:
        name: of the run or model that it is about.
        subjects: the one to compare with first.
        recipe: of the run: its data, rewards and judge; None for a bare model.
        chat_template: for tokenizers that have none.
        folder: where results are kept; None keeps none.
        made_at: seconds since the epoch.
    """

    name: str
    subjects: Sequence[Subject]
    suites: Sequence[Suite]
    place: Place = field(default_factory=Place)
    recipe: Recipe | None = None
    judge: Judge | None = None
    chat_template: str = ""
    folder: Path | None = None
    made_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Helpers:
    """What the caller lends: the trainer's ranks, its heart and its voice, and what only it can make.

    Attributes:
        say: told sentences.
        beat: told what is being done, often.
        stop: True once the job is to stop.
        scorer, weights: the run's rewards.
        held_out: texts that a run on text kept out of training.
    """

    ranks: Ranks
    say: Callable[[str], None] = lambda _text: None
    beat: Callable[[str], None] = lambda _text: None
    stop: Callable[[], bool] = lambda: False
    scorer: Scorer | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    held_out: HeldOut | None = None


@dataclass(slots=True)
class Share:
    """What one rank found.

    Attributes:
        records: of its rows.
        measures: of a suite that is measured as a whole, on the first rank.
        problem, code: what went wrong, and its exit code.
        stopped: it was asked to stop.
        parameters: of the model.
    """

    records: list[Record] = field(default_factory=list)
    measures: list[Measure] = field(default_factory=list)
    problem: str = ""
    code: int = 0
    stopped: bool = False
    parameters: int = 0


def name_of(suite: Suite) -> str:
    """The suite's name in tables."""
    return suite.name or suite.kind


def evaluate(order: Order, helpers: Helpers) -> Evaluation | None:
    """Measure everything that was not measured before; all ranks together.

    Returns:
        The results, on every rank; None when the job was asked to stop before the end.

    Raises:
        StorageError: results cannot be written.
        HalfwayError: a pass through a model that is spread over the ranks ended in its middle; these ranks can only end.
    """
    source = RowSource(order.recipe, helpers.held_out)
    sets = {name_of(suite): _rows(suite, source, helpers) for suite in order.suites}
    evaluation, keys = helpers.ranks.on_first(lambda: _plan(order, sets))
    first: dict[str, Mapping[int, Record]] = {}
    for number, subject in enumerate(order.subjects):
        model = _Model(order, subject, helpers)
        for suite in order.suites:
            name, label = name_of(suite), subject.label
            if any(one.label == label and one.suite(name) for one in evaluation.models):
                if not number and order.folder is not None:
                    first[name] = files.read_records(order.folder, label, name)
                continue
            started = time.monotonic()
            share = _attempt(model, suite, sets[name], first.get(name, {}) if number else {})
            helpers.beat("waiting for the other ranks")
            gathered = helpers.ranks.gather(share)
            result = SuiteResult(name, suite.kind, keys[label, name], seconds=time.monotonic() - started)
            merged = helpers.ranks.broadcast(_merge(gathered, result, order, label))
            _end_try(order, helpers)
            if merged is None:
                return None
            if not number:
                first[name] = {record["row"]: record for record in share.records}
            evaluation = _with(evaluation, label, *merged, order)
            _tell(helpers, label, merged[0])
            _write(order, helpers, evaluation, page=False)
        del model
        free_memory()
    _write(order, helpers, evaluation, page=True)
    return evaluation


def _rows(suite: Suite, source: RowSource, helpers: Helpers) -> Rows:
    helpers.beat(f"reading the rows of {name_of(suite)}")
    try:
        return source.rows_of(suite)
    except HpctrainError as error:
        return error


def _plan(order: Order, sets: Mapping[str, Rows]) -> tuple[Evaluation, dict[tuple[str, str], str]]:
    """The results that an earlier start has left, and the key of every result."""
    before = files.read(order.folder) if order.folder is not None else None
    known = {one.key: (one, model.parameters) for model in (before.models if before is not None else ())
             for one in model.suites if one.key and not one.problem}
    identities = {subject.path: identity_of(subject.path) for subject in order.subjects}
    models, keys = [], {}
    for subject in order.subjects:
        found = []
        for suite in order.suites:
            rows, name = sets[name_of(suite)], name_of(suite)
            keys[subject.label, name] = key = "" if isinstance(rows, HpctrainError) else result_key(
                suite, rows, identities[subject.path], identities[order.subjects[0].path], place=order.place,
                recipe=order.recipe, judge=order.judge, chat_template=order.chat_template)
            if key in known:
                found.append(known[key])
        models.append(ModelResult(subject.label, subject.path, max((size for _, size in found), default=0),
                                  tuple(one for one, _ in found)))
    return Evaluation(order.name, tuple(models), order.made_at, __version__), keys


class _Model:
    """The model of a subject, loaded when the first suite needs it."""

    def __init__(self, order: Order, subject: Subject, helpers: Helpers) -> None:
        self.order, self.subject, self.helpers = order, subject, helpers
        self._found: LanguageModel | HpctrainError | None = None

    def get(self) -> LanguageModel | HpctrainError:
        """It, or why it cannot be had; all ranks together."""
        if self._found is None:
            self.helpers.beat(f"loading {self.subject.label}")
            try:
                self._found = load(self.subject.path, self.order.place, chat_template=self.order.chat_template,
                                   ranks=self.helpers.ranks)
            except HpctrainError as error:
                self._found = error
        return self._found


@dataclass(frozen=True, slots=True)
class _Asked:
    """One suite on one model."""

    subject: Subject
    suite: Suite
    model: LanguageModel
    rows: list[SetRow]
    first: Mapping[int, Record]


def _attempt(model: _Model, suite: Suite, rows: Rows, first: Mapping[int, Record]) -> Share:
    """This rank's part of a suite; not begun again when it has ended its ranks too often, which would cost the whole run."""
    tries = model.helpers.ranks.on_first(lambda: _begin_try(model.order, f"{name_of(suite)} of {model.subject.label}"))
    if tries > MOST_TRIES:
        return _failed(HpctrainError(
            f"its ranks ended {MOST_TRIES} times before it was done", hint="the log of those starts says why; "
            f"then measure it by itself: hpctrain evaluate {model.order.name} --suite {suite.kind}"))
    if isinstance(rows, HpctrainError):
        return _failed(rows)
    found = model.get()
    if isinstance(found, HpctrainError):
        return _failed(found)
    return _share(model.order, model.helpers, _Asked(model.subject, suite, found, rows, first))


def _begin_try(order: Order, what: str) -> int:
    return files.begin_try(order.folder, what) if order.folder is not None else 1


def _end_try(order: Order, helpers: Helpers) -> None:
    if order.folder is not None and helpers.ranks.is_first:
        files.end_try(order.folder)


def _share(order: Order, helpers: Helpers, asked: _Asked) -> Share:
    """This rank's part, with whatever goes wrong in it as a value: the others wait to hear of it."""
    suite, ranks, share = asked.suite, helpers.ranks, Share(parameters=asked.model.parameters)
    kind, title = KINDS[suite.kind], f"{name_of(suite)} of {asked.subject.label}"
    mine = asked.rows[ranks.rank::ranks.world_size] if isinstance(kind, ByRow) else asked.rows

    def progress(done: int, of: int) -> None:
        if helpers.stop():
            raise StoppedError
        helpers.beat(f"{title}: {done} of {of}")

    data = order.recipe.data if order.recipe is not None else None
    task = Task(suite, asked.model, mine, text_field=data.text_field if data else "text", scorer=helpers.scorer,
                weights=helpers.weights, judge=order.judge, first=asked.first, progress=progress, say=helpers.say,
                ranks=ranks.world_size)
    try:
        progress(0, len(mine))
        if isinstance(kind, ByRow):
            share.records = kind.measure(task)
        elif ranks.is_first:
            with _ticking(helpers, title):
                share.measures = kind.measure(task)
    except StoppedError:
        share.stopped = True
    except Exception as error:
        share = _failed(error)
        if asked.model.lockstep is not None and asked.model.lockstep.broken:
            raise HalfwayError(f"{title}: {share.problem}") from error
    if asked.model.lockstep is not None:
        asked.model.lockstep.finish(lambda: helpers.beat(f"{title}: the other ranks have more rows"))
    return share


@contextmanager
def _ticking(helpers: Helpers, title: str) -> Iterator[None]:
    """Beat while code runs that knows nothing of beating; the job's time limit ends what never returns."""
    done = Event()

    def tick() -> None:
        while not done.wait(_TICK_S):
            helpers.beat(title)

    thread = Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _merge(shares: Sequence[Share], result: SuiteResult, order: Order, label: str) -> tuple[SuiteResult, int] | None:
    """The result of a suite and the model's parameters, on the first rank, which alone has the shares; None when stopped."""
    if any(share.stopped for share in shares):
        return None
    kind, parameters = KINDS[result.kind], max((share.parameters for share in shares), default=0)
    failed = next((share for share in shares if share.problem), None)
    if failed is not None:
        return replace(result, problem=failed.problem, exit_code=failed.code), parameters
    if not isinstance(kind, ByRow):
        measures = shares[0].measures if shares else []
        rows = max((one.count for one in measures), default=0)
        return replace(result, measures=tuple(measures), rows=rows), parameters
    records = sorted((record for share in shares for record in share.records), key=lambda record: int(record["row"]))
    try:
        if records and order.folder is not None:
            files.write_records(order.folder, label, result.name, records)
        return replace(result, measures=tuple(kind.summarise(records)), rows=len(records),
                       samples=tuple(_sample(record) for record in records[:SAMPLES])), parameters
    except Exception as error:  # noqa: BLE001 - the other ranks wait
        share = _failed(error)
        return replace(result, problem=share.problem, exit_code=share.code), parameters


def _with(evaluation: Evaluation, label: str, result: SuiteResult, parameters: int, order: Order) -> Evaluation:
    """With one more result, suites in the order in which they were asked for."""
    order_of = {name_of(suite): number for number, suite in enumerate(order.suites)}
    found = evaluation.with_result(label, result)
    models = []
    for model in found.models:
        suites = tuple(sorted(model.suites, key=lambda one: order_of.get(one.name, 0)))
        size = parameters if model.label == label and parameters else model.parameters
        models.append(replace(model, parameters=size, suites=suites))
    return replace(found, models=tuple(models))


def _write(order: Order, helpers: Helpers, evaluation: Evaluation, *, page: bool) -> None:
    folder = order.folder
    if folder is not None:
        helpers.ranks.on_first(lambda: files.write(folder, evaluation, page=page))


def _tell(helpers: Helpers, label: str, one: SuiteResult) -> None:
    if one.problem:
        helpers.say(f"{one.name} of {label}: not measured: {one.problem}")
    else:
        said = ", ".join(f"{measure.name} {measure.value:.4g}" for measure in one.measures[:3] if measure.value is not None)
        helpers.say(f"{one.name} of {label}: {said} ({one.rows} rows, {one.seconds:.1f} s)")


def _failed(error: Exception) -> Share:
    if isinstance(error, HpctrainError):
        return Share(problem=str(error) + (f" ({error.advice})" if error.advice else ""), code=error.exit_code)
    if type(error).__name__ == "OutOfMemoryError":
        return Share(problem="the GPU's memory is full (measure with a smaller --batch-size, or --precision bf16)", code=1)
    return Share(problem=f"{type(error).__name__}: {error}", code=1)


def _sample(record: Record) -> Record:
    return {key: value[:_SAMPLE_TEXT] if isinstance(value, str) else value for key, value in record.items()
            if key not in _INNER}
