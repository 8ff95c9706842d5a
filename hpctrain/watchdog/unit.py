"""The text of the watchdog's systemd unit for this installation (pure)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from hpctrain.errors import UsageError

UNITS = {False: "systemd/hpctrain-watchdog-user.service", True: "systemd/hpctrain-watchdog.service"}
"""Path below ``slurm_scripts`` of the unit of one user, and of that of the whole cluster."""
NAME = "hpctrain-watchdog.service"
_KEPT = ("SLURM_CONF", "HPCTRAIN_CLUSTER", "HPCTRAIN_STATE_DIR", "HPCTRAIN_SITE_CONFIG")
"""Variables that decide which cluster is watched; a unit has none of the shell's."""


def render_unit(template: str, *, python: str, env: Mapping[str, str]) -> str:
    """The unit's text.

    Args:
        python: absolute path of the interpreter that has hpctrain.

    Raises:
        UsageError: a value cannot stand in a unit.
    """
    lines = [f"Environment={_quoted(f'{name}={env[name]}')}" for name in _KEPT if env.get(name)]
    program = _quoted(python).replace("$", "$$")  # a command line has variables, an assignment has none
    return template.replace("@PYTHON@", program).replace("@ENVIRONMENT@\n", "".join(f"{line}\n" for line in lines))


def _quoted(text: str) -> str:
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise UsageError(f"{text!r} holds a control character, which a unit cannot carry")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"' if re.search(r"[^A-Za-z0-9_./=:+@%-]", text) else escaped
