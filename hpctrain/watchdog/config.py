"""The ``[watchdog]`` table of config.toml (pure).

::

    [watchdog]
    poll_s = 10                    # shortest time between two questions to the controller
    longest_poll_s = 60            # longest, while nothing changes
    continue_after_s = 45          # a job that waits so long for a dead node goes on as another job
    drain_after = 3                # a watchdog of the cluster drains a node that failed so many jobs in a day; 0: never
    state_dir = "/var/lib/hpctrain/watchdog"
    spool_dir = "/shared/hpctrain/status"      # for one watchdog per cluster
    notify_command = ["/usr/local/bin/page", "--team", "ml"]   # gets JSON on standard input
    notify_webhook = "https://chat.example.org/hook/..."        # gets the same as an HTTP POST
    notify_mail = "me@example.org"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hpctrain.errors import RecipeError


@dataclass(frozen=True, slots=True)
class WatchdogConfig:
    """How a watchdog works; durations in seconds, paths absolute or "" for the default.

    Attributes:
        drain_after: a watchdog of the cluster drains a node on which so many failures within a day are blamed; 0: never.
        notify_command: program and arguments; the notification is JSON on its standard input.
        notify_webhook: http or https address.
    """

    poll_s: float = 10.0
    longest_poll_s: float = 60.0
    continue_after_s: float = 45.0
    drain_after: int = 3
    state_dir: str = ""
    spool_dir: str = ""
    notify_command: tuple[str, ...] = ()
    notify_webhook: str = ""
    notify_mail: str = ""


def parse(table: Mapping[str, Any], where: str = "") -> WatchdogConfig:
    """The table, checked.

    Raises:
        RecipeError: an unknown key or a value that means nothing.
    """
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key in ("poll_s", "longest_poll_s", "continue_after_s"):
            good = isinstance(value, (int, float)) and not isinstance(value, bool) and 1 <= value <= 3600
            _require(good, key, "a number of seconds from 1 to 3600", where)
            values[key] = float(value)
        elif key == "drain_after":
            good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 1000
            _require(good, key, "a whole number from 0 (never) to 1000", where)
            values[key] = value
        elif key in ("state_dir", "spool_dir"):
            _require(isinstance(value, str) and value.startswith("/"), key, "an absolute path", where)
            values[key] = value
        elif key == "notify_command":
            good = isinstance(value, list) and bool(value) and all(isinstance(word, str) and word for word in value)
            _require(good and value[0].startswith("/"), key, "a list: an absolute path and its arguments", where)
            values[key] = tuple(value)
        elif key == "notify_webhook":
            good = isinstance(value, str) and value.startswith(("https://", "http://"))
            _require(good, key, "an address that begins with https:// or http://", where)
            values[key] = value
        elif key == "notify_mail":
            good = isinstance(value, str) and "@" in value and not value.startswith("-") and len(value.split()) == 1
            _require(good, key, "one mail address", where)
            values[key] = value
        else:
            known = ", ".join(WatchdogConfig.__dataclass_fields__)
            raise RecipeError(f"unknown setting 'watchdog.{key}'", where=where, hint=f"known: {known}")
    config = WatchdogConfig(**values)
    _require(config.longest_poll_s >= config.poll_s, "longest_poll_s", "at least poll_s", where)
    return config


def _require(good: bool, key: str, what: str, where: str) -> None:
    if not good:
        raise RecipeError(f"watchdog.{key} must be {what}", where=where, hint="correct it in config.toml")
