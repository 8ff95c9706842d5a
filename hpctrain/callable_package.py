"""Lets a package and a function of the same name live together (entry point).

``hpctrain.submit("recipe.yaml")`` is what people write, and ``hpctrain.submit`` is also the package that does it. Python
puts a package over the function of its name as soon as anything imports from it, so the package itself takes the call.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class CallablePackage(ModuleType):
    """A package that passes a call on to the function of its name in :mod:`hpctrain.api`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        function = getattr(importlib.import_module("hpctrain.api"), self.__name__.rpartition(".")[2])
        return function(*args, **kwargs)


def make_callable(name: str) -> None:
    """Called by a package's ``__init__`` with its ``__name__``."""
    sys.modules[name].__class__ = CallablePackage
