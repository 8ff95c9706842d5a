"""Find the checks and put them to a reading (service)."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Sequence
from types import ModuleType

from hpctrain.errors import NotFoundError
from hpctrain.health.finding import Check, Finding, Severity
from hpctrain.health.reading import Reading


def load_checks() -> tuple[Check, ...]:
    """All shipped checks in the order of their names, from the wheel or the checkout."""
    package = _package()
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    return tuple(importlib.import_module(f"{package.__name__}.{name}").CHECK for name in names)


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


def judge(reading: Reading, checks: Iterable[Check]) -> list[Finding]:
    """Every finding of every check. A check that raises is itself an UNKNOWN finding: it never condemns the node."""
    findings: list[Finding] = []
    for check in checks:
        try:
            findings += check.run(reading, check.limits)
        except Exception as error:  # noqa: BLE001 - one broken check must not silence the others
            findings.append(Finding(check.name, Severity.UNKNOWN, "check", f"the check itself failed: {error!r}"))
    return findings


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
