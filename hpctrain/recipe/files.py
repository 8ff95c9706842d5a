"""Looks whether the local files a recipe names are there (adapter over the file system)."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from hpctrain.recipe.model_files import model_problems, template_problems, tokenizer_problems
from hpctrain.recipe.node import Path as Place
from hpctrain.recipe.problem import Problem, shown
from hpctrain.recipe.reward_files import function_problems, missing_rewards
from hpctrain.recipe.schema import Recipe

_DATA_HINT = "data.paths is yours to set: --set 'data.paths=[FILE, ...]', or 'hpctrain init' makes a copy to edit"
DATA_SUFFIXES = (".txt", ".md", ".jsonl", ".jsonl.gz", ".parquet")


def missing_files(recipe: Recipe) -> list[Problem]:
    """One problem per local file or directory that a recipe (with absolute paths) names and that is not there."""
    problems = [*_data(recipe), *_model(recipe), *_program(recipe), *_image(recipe)]
    return [*problems, *missing_rewards(recipe), *tokenizer_problems(recipe), *template_problems(recipe), *_suites(recipe),
            *_packages(recipe)]


def data_files(pattern: str) -> list[Path]:
    """The data files that one entry of ``data.paths`` means: a file, a directory's files, or a glob; sorted."""
    if Path(pattern).is_file():
        return [Path(pattern)]
    if Path(pattern).is_dir():
        return sorted(path for path in Path(pattern).rglob("*") if path.is_file() and path.name.endswith(DATA_SUFFIXES))
    matches = [Path(match) for match in glob.iglob(pattern, recursive=True)]
    inside = [path for match in matches if match.is_dir() for path in data_files(str(match))]
    return sorted([*(match for match in matches if match.is_file()), *inside])  # a link to nowhere matches, and is neither


def _data(recipe: Recipe) -> Iterator[Problem]:
    if recipe.data is None:
        return
    for index, pattern in enumerate(recipe.data.paths):
        yield from _files(pattern, ("data", "paths", index), _DATA_HINT)
    name = recipe.data.name
    if name and Path(name).is_absolute() and not Path(name).exists():
        yield Problem(("data", "name"), f"no such file or directory: {name}{_deepest(Path(name))}")


def _files(pattern: str, place: Place, hint: str = "") -> Iterator[Problem]:
    """What is wrong with one entry of a list of data files."""
    path = Path(pattern)
    if glob.has_magic(pattern) and not path.exists():
        if not data_files(pattern):
            yield Problem(place, f"no file matches {shown(pattern, 200)}", hint=hint)
    elif not path.exists():
        yield Problem(place, f"no such file or directory: {pattern}{_deepest(path)}", hint=hint)
    elif path.is_dir() and not data_files(pattern):
        yield Problem(place, f"{pattern} holds none of {' '.join(DATA_SUFFIXES)}", hint=saved_hint(path))
    elif path.is_file() and not pattern.endswith(DATA_SUFFIXES):
        yield Problem(place, f"{pattern} is none of {' '.join(DATA_SUFFIXES)}")


def saved_hint(folder: Path) -> str:
    """What to do with a directory without data files that Hugging Face's ``save_to_disk`` has made."""
    made = any((folder / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))
    return f"'save_to_disk' has made it: data.source huggingface and data.name {folder} read it" if made else ""


def _suites(recipe: Recipe) -> Iterator[Problem]:
    """Files, tasks and functions of the suites at the end of the run."""
    for number, suite in enumerate(recipe.evaluate.suites if recipe.evaluate is not None else ()):
        place = ("evaluate", "suites", number)
        for index, pattern in enumerate(suite.paths):
            yield from _files(pattern, (*place, "paths", index))
        for index, task in enumerate(suite.tasks):
            if Path(task).is_absolute() and not Path(task).is_file():
                yield Problem((*place, "tasks", index), f"no such file: {task}{_deepest(Path(task))}")
        if suite.function:
            yield from function_problems(suite.function, recipe.workdir, (*place, "function"))


def _model(recipe: Recipe) -> Iterator[Problem]:
    for place, name in (
        (("model", "path"), recipe.model.path if recipe.model else None), (("tokenizer", "path"), recipe.tokenizer.path),
        (("teacher", "path"), recipe.teacher.path if recipe.teacher else None),
    ):
        if name is None or not Path(name).is_absolute():
            continue
        if not Path(name).is_dir():
            yield Problem(place, f"no such directory: {name}{_deepest(Path(name))}")
        elif place[0] != "tokenizer":
            yield from model_problems(Path(name), place, weights=recipe.method != "pretrain")


def _program(recipe: Recipe) -> Iterator[Problem]:
    if recipe.workdir and not recipe.resources.container and not Path(recipe.workdir).is_dir():
        yield Problem(("workdir",), f"no such directory: {recipe.workdir}{_deepest(Path(recipe.workdir))}")
    elif recipe.command and recipe.command[0].endswith(".py") and not recipe.resources.container:
        script = Path(recipe.workdir or ".") / recipe.command[0]
        if not script.is_file():
            yield Problem(("command", 0), f"no such file: {script} (relative to workdir)")


def _packages(recipe: Recipe) -> Iterator[Problem]:
    """What the recipe asks of the Python that its ranks run in, which is this one unless they run in a container."""
    if recipe.method is None or recipe.resources.container:
        return
    if recipe.tracking.mlflow and find_spec("mlflow") is None:
        message = f"needs the package mlflow or mlflow-skinny, which {sys.executable} does not have"
        yield Problem(("tracking", "mlflow"), message, hint="pip install mlflow-skinny, or set tracking.mlflow to false")


def _image(recipe: Recipe) -> Iterator[Problem]:
    image = recipe.resources.container
    if image and Path(image).is_absolute() and not Path(image).exists():
        yield Problem(("resources", "container"), f"no such image: {image}{_deepest(Path(image))}")


def _deepest(path: Path) -> str:
    """How much of a long path does exist, which is where the misspelling is."""
    for parent in path.parents:
        if parent.exists():
            return "" if parent == path.parent else f" (there is {parent}, but nothing below it of that name)"
    return ""
