"""The ``[remote]`` table of config.toml: places that commands may be sent to (pure).

::

    [remote]
    default = "lab"                          # where commands go when nothing is said; '--remote here' keeps them here

    [remote.lab]
    host = "alice@login.example.org"         # user@host:port, or a Host of ~/.ssh/config
    command = "~/venv/bin/hpctrain"          # the program there; default: "hpctrain", found by the login shell
    cluster = ""                             # as with --cluster: a private cluster there
    send_limit = "1GiB"                      # a submission's files may be so large, all together
    give_up_s = 600                          # how long to go on trying when the connection is lost
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hpctrain.errors import RecipeError
from hpctrain.recipe.units import parse_memory

HERE = "here"
"""The name that means no other machine."""
_HINT = "correct it in config.toml; 'python -m pydoc hpctrain.fleet.remote_profile' shows an example"


@dataclass(frozen=True, slots=True)
class Remote:
    """One place that commands can be sent to.

    Attributes:
        name: what a person types after ``--remote``.
        host: where SSH goes: ``user@host:port``, or a ``Host`` of the SSH configuration.
        command: the program there, as words.
        cluster: a private cluster there, "" for none.
        send_limit_bytes: most that one submission sends.
        give_up_s: longest time without a connection before a command gives up.
    """

    name: str
    host: str
    command: tuple[str, ...] = ("hpctrain",)
    cluster: str = ""
    send_limit_bytes: int = 2**30
    give_up_s: float = 600.0


def find_remote(typed: str, table: Mapping[str, Any]) -> Remote | None:
    """The place that a name or ``user@host`` means; None for ``here``, and where nothing is typed and there is no default.

    Args:
        typed: "" takes the table's default.

    Raises:
        RecipeError: the table says something wrong.
    """
    default = table.get("default", "")
    _require(isinstance(default, str), "default", "a text")
    name = typed or default
    if name in ("", HERE):
        return None
    for key, value in table.items():
        _require(key == "default" or isinstance(value, Mapping), key, f"a table: begin it with a line [remote.{key}]")
    if name in table and name != "default":
        return _profile(name, table[name])
    if name == default and not typed and "@" not in name:
        raise RecipeError(f"remote.default names {name!r}, and there is no [remote.{name}]", hint=_HINT)
    return Remote(name, name)


def _profile(name: str, table: Mapping[str, Any]) -> Remote:
    values: dict[str, Any] = {}
    for key, value in table.items():
        full = f"{name}.{key}"
        if key in ("host", "cluster"):
            _require(isinstance(value, str), full, "a text")
            values[key] = value
        elif key == "command":
            values[key] = _command(value, full)
        elif key == "send_limit":
            try:
                values["send_limit_bytes"] = parse_memory(value)
            except ValueError as error:
                raise RecipeError(f"remote.{full}: {error}", hint=_HINT) from None
        elif key == "give_up_s":
            good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 7 * 86400
            _require(good, full, "a number of seconds from 0 to a week")
            values[key] = float(value)
        else:
            known = "host, command, cluster, send_limit, give_up_s"
            raise RecipeError(f"unknown setting 'remote.{full}'", hint=f"known: {known}")
    return Remote(name, values.pop("host", "") or name, **values)


def _command(value: Any, key: str) -> tuple[str, ...]:
    """The words of the program there. SSH starts it in the home directory, which is what ``~/`` becomes."""
    words = [value] if isinstance(value, str) else value
    good = isinstance(words, list) and bool(words) and all(isinstance(word, str) and word for word in words)
    _require(good, key, "a path, or a list of words")
    return tuple("./" + word[2:] if word.startswith("~/") else word for word in words)


def _require(good: bool, key: str, what: str) -> None:
    if not good:
        raise RecipeError(f"remote.{key} must be {what}", hint=_HINT)
