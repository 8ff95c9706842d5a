"""Documents of a recipe's data (adapter over :mod:`hpctrain.data`).

A *document* is one piece of text that belongs together: a text file, one line of a jsonl file, one row of a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hpctrain.data.identity import stamps
from hpctrain.data.read import rows
from hpctrain.recipe.schema import Data


def documents(data: Data) -> Iterator[str]:
    """All documents of a recipe's data, always in the same order.

    Raises:
        NotFoundError: a path matches nothing, or a data set cannot be found.
        RecipeError: a file's format is not known, or a line or column has no text.
    """
    for row in rows(data, "pretrain"):
        yield row.values[data.text_field]


def identity(data: Data) -> Any:
    """What the documents depend on, cheaply: see :func:`hpctrain.data.identity.stamps`."""
    return stamps(data)
