"""What ``hpctrain evaluate`` is asked for: models, suites, judge; nothing is loaded (entry point)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpctrain.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from hpctrain.evaluate.results import Evaluation
    from hpctrain.jobs.find import Run
    from hpctrain.recipe.schema import Recipe
    from hpctrain.recipe.schema_method import Judge, Suite

RUN_DIR = "HPCTRAIN_RUN_DIR"
"""Set in a job of ours: results are kept there."""


@dataclass(frozen=True)
class Asked:
    """A request.

    Attributes:
        name: of the run or model, for titles.
        subjects: label and directory of each model, the one to compare with first.
        run: None for a bare model.
        recipe: of the run, or None.
        folder: where results are kept, or None.
        options: the others, as they were typed.
    """

    name: str
    subjects: Sequence[tuple[str, str]]
    suites: Sequence[Suite]
    run: Run | None
    recipe: Recipe | None
    judge: Judge | None
    folder: Path | None
    options: Mapping[str, Any]

    def previous(self) -> Evaluation:
        """What was measured before.

        Raises:
            NotFoundError: nothing was.
        """
        from hpctrain.evaluate.files import require

        if self.folder is None and self.run is None:
            raise UsageError("--show needs a run, or --to DIR with earlier results")
        return require(self.folder or (self.run.dir.path if self.run else Path()))

    def to_json(self) -> dict[str, Any]:
        """For ``--dry-run -o json``."""
        return {"name": self.name, "models": [{"label": label, "path": path} for label, path in self.subjects],
                "suites": [suite.model_dump(mode="json") for suite in self.suites],
                "folder": str(self.folder) if self.folder else None}


def read_request(options: Mapping[str, Any]) -> Asked:
    """Find the models and read the suites.

    Raises:
        NotFoundError: there is no such run or model, or a part of it is missing.
        UsageError: a suite or an option is wrong.
    """
    from hpctrain.recipe.suites import parse_suite, unique_names, usual_suites

    run, path = _find(options["model"])
    recipe = _recipe(run) if run is not None else None
    folder = options["folder"] or (Path(os.environ[RUN_DIR]) if os.environ.get(RUN_DIR) else None)
    name = run.name if run is not None else Path(path).name
    if options["show"]:
        return Asked(name, (), (), run, recipe, None, folder, options)
    _inspect(path, run)
    suites = [_local(_with_limits(parse_suite(text), options)) for text in options["suites"]]
    if not suites:
        if recipe is None or recipe.method is None:
            raise UsageError("nothing says what to measure", hint="--suite perplexity:FILE; see 'hpctrain evaluate --help'")
        suites = [_with_limits(suite, options) for suite in usual_suites(recipe)]
    subjects = [*_compared(options, recipe), ("after" if options["compare"] or _base(recipe) else name, path)]
    if len(subjects) == 1:
        subjects = [(name, path)]
    judge = _judge(options, recipe)
    for suite in suites:
        if suite.kind == "judge" and judge is None:
            raise UsageError("a suite of kind 'judge' needs a judge",
                             hint="--judge URL --judge-model NAME, or judge: in the recipe")
        if suite.pairwise and len(subjects) < 2:
            raise UsageError("a pairwise judge compares two models", hint="name the other one: --compare MODEL")
    return Asked(name, subjects, unique_names(suites), run, recipe, judge, folder, options)


def _find(key: str) -> tuple[Run | None, str]:
    """A model directory first, then a run."""
    from hpctrain.jobs.find import find_run
    from hpctrain.settings_file import load_settings

    folder = Path(key).expanduser()
    if any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        return None, str(folder.absolute())
    try:
        run = find_run(key, load_settings().runs_dir)
    except NotFoundError as error:
        if folder.is_dir():
            raise NotFoundError("it holds neither a model (config.json) nor a run (run.json)", where=key) from None
        error.advice = error.advice or "give a run, or the directory of a model"
        raise
    return run, str(run.dir.model)


def _inspect(path: str, run: Run | None) -> None:
    """Complain of a model that is not there or not whole, before anything is loaded or queued."""
    from hpctrain.evaluate.model_directory import inspect

    if run is not None and not Path(path).is_dir():
        raise NotFoundError(
            f"run {run.name} has left no model yet", where=path,
            hint=f"wait for its end, or export a checkpoint: hpctrain checkpoints export {run.name} latest DIR",
        )
    inspect(path)


def _recipe(run: Run) -> Recipe | None:
    from hpctrain.recipe.schema import Recipe

    try:
        return Recipe.model_validate(json.loads(run.dir.resolved_json.read_bytes()))
    except (OSError, ValueError):
        return None  # of another version, or a run that only looks like ours: a model is enough


def _base(recipe: Recipe | None) -> str | None:
    if recipe is None or recipe.model is None or recipe.method in (None, "pretrain"):
        return None
    return recipe.model.path


def _compared(options: Mapping[str, Any], recipe: Recipe | None) -> list[tuple[str, str]]:
    from hpctrain.evaluate.model_directory import locate

    if options["no_compare"] and options["compare"]:
        raise UsageError("--compare and --no-compare exclude each other")
    if options["compare"]:
        run, path = _find(options["compare"])
        _inspect(path, run)
        return [("before", path)]
    base = None if options["no_compare"] else _base(recipe)
    return [("before", locate(base))] if base is not None else []


def _with_limits(suite: Suite, options: Mapping[str, Any]) -> Suite:
    from hpctrain.recipe.schema_method import Suite

    changes: dict[str, Any] = {}
    if options["limit"] is not None and suite.limit is None:
        changes["limit"] = options["limit"]
    if options["max_new_tokens"] is not None and suite.max_new_tokens == Suite.model_fields["max_new_tokens"].default:
        changes["max_new_tokens"] = options["max_new_tokens"]
    return suite.model_copy(update=changes)


def _local(suite: Suite) -> Suite:
    """Absolute paths: a job starts in another directory."""
    def absolute(text: str) -> str:
        return str(Path(text).expanduser().absolute())

    paths, tasks = [absolute(path) for path in suite.paths], [
        absolute(task) if task.endswith((".yaml", ".yml")) else task for task in suite.tasks]
    place, colon, name = (suite.function or "").rpartition(":")
    function = f"{absolute(place)}{colon}{name}" if place.endswith(".py") else suite.function
    return suite.model_copy(update={"paths": paths, "tasks": tasks, "function": function})


def _judge(options: Mapping[str, Any], recipe: Recipe | None) -> Judge | None:
    from hpctrain.recipe.suites import read_judge

    own = recipe.judge if recipe is not None else None
    changes = {"url": options["judge"], "model": options["judge_model"], "api_key_env": options["judge_key_env"],
               "rubric": options["rubric"]}
    given = {key: value for key, value in changes.items() if value is not None}
    if not given:
        return own
    values = {**(own.model_dump() if own is not None else {}), **given}
    if "url" not in values or "model" not in values:
        raise UsageError("a judge needs --judge URL and --judge-model NAME")
    return read_judge(values)
