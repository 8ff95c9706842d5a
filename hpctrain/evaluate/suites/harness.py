"""Tasks of lm-evaluation-harness (adapter over ``lm_eval``, which is optional).

A task is a name that the harness knows, or a YAML file of your own. Its data must be where ``datasets`` finds it without a
network, or there must be one: that is the harness's business, and its words are passed on.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hpctrain.errors import HpctrainError, MissingDependencyError, NotFoundError, RecipeError, first_line
from hpctrain.evaluate.measures import HIGHER, LOWER, Measure
from hpctrain.evaluate.task import Task

_INSTALL = "pip install 'hpctrain[harness]', or 'lm-eval>=0.4.8'"


def require_harness() -> None:
    """Look for the package without importing it, for checks before a job is queued.

    Raises:
        MissingDependencyError: it is not installed.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise MissingDependencyError("suite 'harness' needs the package 'lm-eval'", hint=_INSTALL)


def measure_whole(task: Task) -> list[Measure]:
    """All metrics of all tasks, each with the harness's own standard error.

    Raises:
        MissingDependencyError: lm-eval is not installed.
        NotFoundError: the harness knows no such task, or finds no data for it.
        RecipeError: the model cannot be given to it.
    """
    require_harness()
    if task.model.is_reward:
        raise RecipeError("it is a reward model, which the harness cannot ask", where=task.model.directory.path)
    if task.model.codec.tokenizer is None:
        raise RecipeError("the harness needs a transformers tokenizer, and this model has only hpctrain_tokenizer.json",
                          where=task.model.directory.path, hint="train it again with this version of hpctrain")
    with _quiet():
        results = _run(task)
    return measures_of(results)


def measures_of(results: Mapping[str, Any]) -> list[Measure]:
    """The harness's results as measures: ``TASK acc``; filters other than ``none`` are named too."""
    found = []
    for name, metrics in results.get("results", {}).items():
        ways = results.get("higher_is_better", {}).get(name) or {}
        rows = (results.get("n-samples", {}).get(name) or {}).get("effective") or 0
        for key, value in metrics.items():
            metric, _, filter_ = key.partition(",")
            if not isinstance(value, (int, float)) or isinstance(value, bool) or metric.endswith("_stderr") or not filter_:
                continue
            error = metrics.get(f"{metric}_stderr,{filter_}")
            better = "" if ways.get(metric) is None else HIGHER if ways[metric] else LOWER
            label = f"{name} {metric}" + ("" if filter_ == "none" else f" ({filter_})")
            known = float(error) if isinstance(error, (int, float)) else None
            found.append(Measure(label, float(value), better, known, int(rows)))
    return found


def _run(task: Task) -> Mapping[str, Any]:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    folders = sorted({str(Path(name).parent) for name in task.suite.tasks if _is_file(name)})
    names = [_task_name(name) if _is_file(name) else name for name in task.suite.tasks]
    try:
        manager = TaskManager(include_path=folders or None)
        if unknown := [name for name in names if name not in manager.all_tasks]:
            raise NotFoundError(f"lm-evaluation-harness knows no task {unknown[0]!r}",
                                hint="'lm_eval ls tasks' lists them; or give the path of a task's YAML file")
        model = HFLM(pretrained=task.model.model, tokenizer=task.model.codec.tokenizer, batch_size=1,
                     max_length=task.model.longest)
        found = simple_evaluate(model=model, tasks=names, limit=task.suite.limit, task_manager=manager, log_samples=False,
                                bootstrap_iters=1000)
    except HpctrainError:
        raise
    except Exception as error:  # noqa: BLE001 - the harness, datasets and the hub raise dozens of classes
        first = first_line(error)
        raise NotFoundError(f"lm-evaluation-harness failed: {first}",
                            hint="the task's data must be in the cache of 'datasets', or reachable from this node") from None
    return found or {}


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _task_name(path: str) -> str:
    """The name that a task's file gives it; only its line ``task:`` is read, since such files hold tags of their own."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise NotFoundError(f"cannot be read: {error.strerror}", where=path) from None
    for line in lines:
        key, _, value = line.partition(":")
        if key == "task" and value.strip():
            return value.split("#")[0].strip().strip("\"'")
    raise RecipeError("has no line 'task: NAME', so it is no task of lm-evaluation-harness", where=path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The harness speaks through the root logger and progress bars; what it has to say is in its results."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
