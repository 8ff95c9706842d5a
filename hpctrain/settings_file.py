"""Read :class:`~hpctrain.settings.Settings` from TOML files and the environment (adapter over the file system).

From weakest to strongest::

    built-in defaults
    /etc/hpctrain/config.toml                 a site's; HPCTRAIN_SITE_CONFIG names another file
    ~/.config/hpctrain/config.toml            a user's; below $XDG_CONFIG_HOME if that is set
    HPCTRAIN_RUNS_DIR, HPCTRAIN_CLUSTER,
    HPCTRAIN_SLURM_TIMEOUT_S, HPCTRAIN_SLURM_RETRIES, HPCTRAIN_SLURM_ADAPTER

A file::

    runs_dir = "/scratch/$USER/runs"          # ~ and $NAME are expanded
    slurm_timeout_s = 30                      # longest wait for one Slurm command
    slurm_retries = 3                         # further tries when the controller does not answer
    slurm_adapter = "auto"                    # cli, pyslurm, or what is faster ('hpctrain doctor' says which)
    cluster = "dev"                           # a private cluster to use

    [gpu_memory]                              # memory of one GPU, by Slurm's GPU type
    h100 = "80GiB"

    [recipe]                                  # defaults for every recipe
    resources.partition = "gpu"

    [watchdog]                                # see docs/watchdog.md
    notify_mail = "me@example.org"

    [remote.lab]                              # see docs/remote.md
    host = "me@login.example.org"
"""

from __future__ import annotations

import difflib
import importlib
import os
import re
import string
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hpctrain.errors import RecipeError
from hpctrain.recipe.units import parse_memory
from hpctrain.settings import ADAPTERS, Settings

SITE_FILE = "/etc/hpctrain/config.toml"
DEFAULT_RUNS_DIR = "~/hpctrain-runs"
_TABLES = ("gpu_memory", "recipe", "remote", "watchdog")
_HINT = "correct that line; 'python -m pydoc hpctrain.settings_file' shows an example"


def load_settings(env: Mapping[str, str] | None = None) -> Settings:
    """The settings of this process. A file that does not exist says nothing.

    Raises:
        RecipeError: a file or variable says something wrong; the message names file and line, or the variable.
    """
    env = os.environ if env is None else env
    values: dict[str, Any] = {}
    gpu_memory: dict[str, int] = {}
    watchdog: dict[str, Any] = {}
    remote: dict[str, Any] = {}
    layers: list[tuple[str, Mapping[str, Any]]] = []
    for path in settings_files(env):
        document = _Document.read(path)
        if document is None:
            continue
        values |= document.settings(env)
        gpu_memory |= document.gpu_memory()
        watchdog |= document.table("watchdog")
        remote |= document.table("remote")
        if recipe := document.table("recipe"):
            layers.append((str(path), recipe))
    values |= _from_variables(env)
    runs_dir = values.pop("runs_dir", None) or _directory(DEFAULT_RUNS_DIR, env)
    return Settings(
        runs_dir=runs_dir, gpu_memory_bytes=gpu_memory, watchdog=watchdog, remote=remote, recipe_layers=tuple(layers),
        **values,
    )


def settings_files(env: Mapping[str, str]) -> tuple[Path, Path]:
    """The site's and the user's file, whether they exist or not."""
    config_home = env.get("XDG_CONFIG_HOME") or str(_home(env) / ".config")
    return Path(env.get("HPCTRAIN_SITE_CONFIG") or SITE_FILE), Path(config_home) / "hpctrain" / "config.toml"


class _Document:
    """One parsed settings file; knows the line of each key for messages."""

    def __init__(self, path: Path, text: str, data: Mapping[str, Any]) -> None:
        self._path, self._text, self._data = path, text, data

    @classmethod
    def read(cls, path: Path) -> _Document | None:
        """Parse a file; None if there is none."""
        try:
            text = path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except UnicodeDecodeError as error:
            raise RecipeError(f"is not UTF-8 text: {error.reason}", where=str(path), hint=_HINT) from None
        except OSError as error:
            raise RecipeError(f"cannot be read: {error.strerror}", where=str(path), hint="mend its permissions") from None
        toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
        try:
            return cls(path, text, toml.loads(text))
        except ValueError as error:
            line = re.search(r"\(at line (\d+)", str(error))
            where = f"{path}:{line[1]}" if line else str(path)
            raise RecipeError(f"is not valid TOML: {error}", where=where, hint='texts need quotes: key = "value"') from None

    def settings(self, env: Mapping[str, str]) -> dict[str, Any]:
        """The plain keys, checked."""
        found: dict[str, Any] = {}
        for key, value in self._data.items():
            if key in _TABLES:
                continue
            if key not in _CHECKS:
                near = difflib.get_close_matches(key, (*_CHECKS, *_TABLES), n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join((*_CHECKS, *_TABLES))}"
                raise RecipeError(f"unknown setting '{key}'", where=self._where(key), hint=hint)
            found[key] = self._checked(key, lambda key=key, value=value: _CHECKS[key](value, env))  # type: ignore[misc]
        return found

    def gpu_memory(self) -> dict[str, int]:
        """Bytes by GPU type."""
        return {
            kind: self._checked(kind, lambda size=size: parse_memory(size))  # type: ignore[misc]
            for kind, size in self.table("gpu_memory").items()
        }

    def table(self, name: str) -> Mapping[str, Any]:
        """A table; empty if there is none."""
        value = self._data.get(name, {})
        if not isinstance(value, dict):
            raise RecipeError(f"'{name}' must be a table", where=self._where(name), hint=f"begin it with a line [{name}]")
        return value

    def _checked(self, key: str, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except ValueError as error:
            raise RecipeError(f"{key}: {error}", where=self._where(key), hint=_HINT) from None

    def _where(self, key: str) -> str:
        pattern = re.compile(rf"^\s*\[?\s*[\"']?{re.escape(key)}[\"']?\s*(?:[=.\]])")
        lines = (number for number, line in enumerate(self._text.splitlines(), 1) if pattern.match(line))
        number = next(lines, None)
        return f"{self._path}:{number}" if number else str(self._path)


def _from_variables(env: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, check in _CHECKS.items():
        variable = f"HPCTRAIN_{key.upper()}"
        text = env.get(variable, "")
        if not text:
            continue
        try:
            if key == "runs_dir":
                found[key] = str(Path(_expanded(text, env)).absolute())
            else:
                found[key] = check(_number(text) if key.startswith("slurm_") else text, env)
        except ValueError as error:
            raise RecipeError(str(error), where=variable, hint="correct or unset the variable") from None
    return found


def _directory(value: Any, env: Mapping[str, str]) -> str:
    path = _expanded(_text(value, env), env)
    if not path.startswith("/"):
        raise ValueError(f"{value!r} is not an absolute path; begin it with / or ~")
    return path


def _expanded(text: str, env: Mapping[str, str]) -> str:
    """``~`` and ``$NAME`` replaced; a variable that is not set is an error, not an empty piece of a path."""
    try:
        text = string.Template(text).substitute(env)
    except KeyError as error:
        raise ValueError(f"{text!r} uses ${error.args[0]}, which is not set") from None
    home = str(_home(env))
    return home + text[1:] if text == "~" or text.startswith("~/") else text


def _home(env: Mapping[str, str]) -> Path:
    return Path(env["HOME"]) if env.get("HOME") else Path.home()


def _text(value: Any, _env: Mapping[str, str]) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text; put it in quotes")
    return value


def _seconds(value: Any, _env: Mapping[str, str]) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise ValueError(f"{value!r} is not a number of seconds above 0")
    return float(value)


def _count(value: Any, _env: Mapping[str, str]) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is not a whole number of 0 or more")
    return value


def _adapter(value: Any, _env: Mapping[str, str]) -> str:
    if value not in ADAPTERS:
        raise ValueError(f"{value!r} is none of {', '.join(ADAPTERS)}")
    return str(value)


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


_CHECKS: dict[str, Callable[[Any, Mapping[str, str]], Any]] = {
    "runs_dir": _directory,
    "slurm_timeout_s": _seconds,
    "slurm_retries": _count,
    "slurm_adapter": _adapter,
    "cluster": _text,
}
