"""Find the checks: those that ship, and those that a site adds (service).

The entry point group ``hpctrain.healthchecks`` names a site's checks (``name = module:CHECK``). Looking entry points up
reads every installed distribution, so the prolog does not: its JSON configuration lists them under ``site_checks``.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from hpctrain.errors import NotFoundError
from hpctrain.health.finding import Check, Mode
from hpctrain.health.verdict import Rules

ENTRY_POINT_GROUP = "hpctrain.healthchecks"


def load_checks(site: Iterable[str] = (), problems: list[str] | None = None) -> tuple[Check, ...]:
    """All shipped checks in the order of their names, then a site's.

    Args:
        site: ``module:NAME`` of each further check.
        problems: takes one sentence for each site check that cannot be used; such a check is left out.
    """
    package = _package()
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    checks = [importlib.import_module(f"{package.__name__}.{name}").CHECK for name in names]
    taken = set(names)
    for reference in site:
        check, problem = _site_check(reference, taken)
        if check:
            checks.append(check)
            taken.add(check.name)
        elif problems is not None:
            problems.append(problem)
    return tuple(checks)


def find_site_checks() -> tuple[str, ...]:
    """``module:NAME`` of every check that an installed package offers under the entry point group."""
    from importlib.metadata import entry_points

    return tuple(sorted(point.value for point in entry_points(group=ENTRY_POINT_GROUP)))


def choose(checks: Sequence[Check], names: Sequence[str]) -> tuple[Check, ...]:
    """The checks of these names; all of them where no name is given.

    Raises:
        NotFoundError: there is no such check.
    """
    known = {check.name: check for check in checks}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise NotFoundError(f"no health check '{unknown[0]}'", hint=f"the checks are: {', '.join(known)}")
    return tuple(known[name] for name in names) or tuple(checks)


def for_context(checks: Iterable[Check], context: str) -> tuple[Check, ...]:
    """The checks that run in a context; all of them in ``manual``."""
    return tuple(check for check in checks if context == "manual" or context in check.contexts)


def model_limits(gpu_names: Iterable[str]) -> dict[str, dict[str, float]]:
    """What ``limits.json`` says for the GPU model of a node: check -> limits. A node with several models gets none."""
    document = json.loads((Path(_package().__path__[0]) / "limits.json").read_text())
    names = set(gpu_names)
    if len(names) != 1:
        return {}
    name = names.pop()
    # The longest match wins: "H100 PCIe" before "H100".
    models = sorted(document["models"], key=lambda model: len(model["match"]))
    found: dict[str, dict[str, float]] = {}
    for model in models:
        if all(word in name for word in model["match"].split()):
            for check, limits in model["limits"].items():
                found[check] = {**found.get(check, {}), **limits}
    return found


def with_model(rules: Rules, gpu_names: Iterable[str]) -> Rules:
    """The site's rules over those of the GPU model."""
    limits = model_limits(gpu_names)
    return Rules(
        rules.modes, {key: {**limits.get(key, {}), **rules.limits.get(key, {})} for key in {*limits, *rules.limits}}
    )


def _site_check(reference: str, taken: set[str]) -> tuple[Check | None, str]:
    module, _, attribute = reference.partition(":")
    try:
        check: Any = getattr(importlib.import_module(module), attribute or "CHECK")
    except Exception as error:  # noqa: BLE001 - a site's code must not stop the shipped checks
        return None, f"site check '{reference}' cannot be loaded: {error!r}"
    if not isinstance(check, Check) or not isinstance(check.mode, Mode):
        return None, f"site check '{reference}' is a {type(check).__name__}, not a hpctrain.health.finding.Check"
    if check.name in taken:
        return None, f"site check '{reference}' has the name of another check: '{check.name}'"
    return check, ""


def _package() -> ModuleType:
    try:
        return importlib.import_module("hpctrain._shipped.healthchecks")
    except ModuleNotFoundError:
        import sys

        from hpctrain.resources import HEALTHCHECKS, shipped

        # A checkout: the folder lies beside the package and is not installed under a name of its own.
        parent = str(shipped(HEALTHCHECKS).parent)
        if parent not in sys.path:
            sys.path.append(parent)
        return importlib.import_module("healthchecks")
