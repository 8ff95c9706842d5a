"""A metric of your own (adapter over ``importlib``).

``module:function`` or ``file.py:function`` is called once as ``function(model, rows)``: a
:class:`hpctrain.evaluate.language_model.LanguageModel` and the rows as dicts. It returns one number, or a dict of them.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hpctrain.errors import NotFoundError, RecipeError
from hpctrain.evaluate.measures import Measure
from hpctrain.evaluate.task import Task

_SHAPE = "it must return a number, or a dict of numbers by name"


def measure_whole(task: Task) -> list[Measure]:
    """What the function says; higher is taken to be better, unless a name begins with ``-`` or ends with ``loss``.

    Raises:
        NotFoundError: there is no such function.
        RecipeError: it raised (with the line), or returned something else than numbers.
    """
    function = load_function(task.suite.function or "")
    try:
        found = function(task.model, [dict(row.values) for row in task.rows])
    except Exception as error:  # noqa: BLE001 - the user's own code
        raise RecipeError(f"{task.suite.function} raised {type(error).__name__}: {error}", where=_where(error)) from None
    return measures_of(found, task.suite.function or "", len(task.rows))


def measures_of(found: Any, name: str, rows: int) -> list[Measure]:
    """A function's answer as measures.

    Raises:
        RecipeError: it is no number and no dict of numbers.
    """
    values = found if isinstance(found, Mapping) else {name.rpartition(":")[2]: found}
    measures = []
    for key, value in values.items():
        if not isinstance(value, (int, float)) and not hasattr(value, "__float__"):
            raise RecipeError(f"{name} returned {type(value).__name__} for {key!r}; {_SHAPE}")
        number, label = float(value), str(key)
        better = "lower" if label.startswith("-") or label.endswith("loss") else "higher"
        measures.append(Measure(label.removeprefix("-"), number if math.isfinite(number) else None, better, None, rows))
    if not measures:
        raise RecipeError(f"{name} returned nothing; {_SHAPE}")
    return measures


def load_function(target: str) -> Callable[..., Any]:
    """Import ``module:function`` or ``file.py:function``.

    Raises:
        NotFoundError: there is no such file, module or function.
        RecipeError: importing it fails (with the line), or it is no function.
    """
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise RecipeError(f"{target!r} is not of the form module:function or file.py:function")
    try:
        module = _module(place)
    except NotFoundError:
        raise
    except Exception as error:  # noqa: BLE001 - the user's own code
        if isinstance(error, ModuleNotFoundError) and error.name and place.startswith(error.name):
            raise NotFoundError(f"there is no module {place!r}",
                                hint="or give the path of a file: metrics.py:function") from None
        raise RecipeError(f"importing {place} raised {type(error).__name__}: {error}", where=_where(error)) from None
    function = getattr(module, name, None)
    if not callable(function):
        known = sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        raise NotFoundError(f"{place} has no function {name!r}", hint=f"it has {', '.join(known[:8])}" if known else "")
    found: Callable[..., Any] = function
    return found


def _module(place: str) -> Any:
    if not place.endswith(".py"):
        return importlib.import_module(place)
    path = Path(place).expanduser().absolute()
    spec = importlib.util.spec_from_file_location(f"hpctrain_metric_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise NotFoundError("there is no such file", where=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles look their module up there
    spec.loader.exec_module(module)
    return module


def _where(error: BaseException) -> str:
    """The line of the user's code that failed: the innermost one that is not a library's."""
    frames, here = traceback.extract_tb(error.__traceback__), str(Path(__file__).parent)
    own = [frame for frame in frames if not any(part in frame.filename for part in ("site-packages", here, "<frozen"))]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else ""
