"""The rows of a tuning run as the trainers' collators read them, kept in the run's cache (adapter over ``datasets``).

Rank 0 reads, checks and tokenises once; every rank, and every later start, maps the same files into memory.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hpctrain.data.identity import stamps
from hpctrain.data.read import rows, validation_rows
from hpctrain.errors import RecipeError
from hpctrain.files import make_private_dir, storage_errors, write_json_atomic
from hpctrain.recipe.units import several
from hpctrain.train.tune.context import TuneContext
from hpctrain.train.tune.tokenizer import identity as tokenizer_identity

VERSION = 1
"""Of the files in the cache."""
Encode = Callable[[dict[str, Any], str], "dict[str, list[int]] | None"]
"""Makes columns of numbers of a row and its place (``file:line``); None leaves the row out, since it is too long."""


def tokenise_rows(context: TuneContext, encode: Encode, options: Any, *, pack: int = 0) -> None:
    """Fill in the context's rows; all ranks together.

    Args:
        options: plain JSON that changes when what ``encode`` makes would.
        pack: fill sequences of so many tokens with several rows each; 0 does not.

    Raises:
        RecipeError: a row is not what it should be (with ``file:line``), or none is short enough.
        StorageError: the cache cannot be written.
    """
    key = _key(context, [options, pack])
    folder = context.run_dir.cache / f"rows-{key[:16]}"
    context.heartbeat.beat("data")

    def work() -> dict[str, Any]:
        facts = _facts(folder)
        reused = facts is not None
        if facts is None:
            facts = _write(context, encode, folder, pack)
        how = "found in the cache" if reused else "tokenised"
        context.report.event("data.prepared", _sentence(facts, how), evidence={**facts, "reused": reused})
        return facts

    _load(context, folder, key, context.ranks.on_first(work))


def keep_rows(context: TuneContext) -> None:
    """Fill in the context's rows as they are, for trainers that write and judge answers themselves; on every rank by itself.

    Raises:
        RecipeError: a row is not what it should be (with ``file:line``), or there are none.
    """
    from datasets import Dataset

    context.heartbeat.beat("data")
    found = [row.values for row in rows(context.data, context.recipe.method or "")]
    if not found:
        raise RecipeError("the data holds no rows", where="data")
    training = len(found) - validation_rows(len(found), context.data.validation_fraction)
    context.train_rows = Dataset.from_list(found[:training])
    context.eval_rows = Dataset.from_list(found[training:]) if found[training:] else None
    text = json.dumps(found, sort_keys=True, default=str)
    context.fingerprint = hashlib.sha256(text.encode()).hexdigest()
    evidence = {"training": training, "validation": len(found) - training}
    context.report.event("data.prepared", f"{several(training, 'row')} to train on, {len(found) - training} to measure on",
                         evidence=evidence)


def _key(context: TuneContext, options: Any) -> str:
    parts = [VERSION, context.recipe.method, context.data.model_dump(mode="json"), stamps(context.data),
             tokenizer_identity(context.tokenizer), options]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _write(context: TuneContext, encode: Encode, folder: Path, pack: int) -> dict[str, Any]:
    left_out = 0
    found: list[dict[str, Any]] = []
    for number, row in enumerate(rows(context.data, context.recipe.method or ""), start=1):
        if number % 1000 == 0:
            context.heartbeat.beat("data", detail=f"{number} rows")
        columns = encode(row.values, row.where)
        if columns is None:
            left_out += 1
        else:
            found.append({name: np.asarray(values, dtype=np.int32) for name, values in columns.items()})
    if not found:
        raise RecipeError(
            f"none of {several(left_out, 'row')} fits into {context.data.sequence_length} tokens" if left_out
            else "the data holds no rows", where="data.sequence_length" if left_out else "data",
        )
    training = len(found) - validation_rows(len(found), context.data.validation_fraction)
    facts: dict[str, Any] = {"rows": len(found), "left_out": left_out, "packed": bool(pack)}
    partial = folder.with_name(f".{folder.name}.partial")
    with storage_errors(folder):
        shutil.rmtree(partial, ignore_errors=True)
        make_private_dir(partial)
        for name, part in (("training", found[:training]), ("validation", found[training:])):
            facts[name] = _save(part, partial / name, pack)
        write_json_atomic(partial / "facts.json", facts)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    return facts


def _save(part: list[dict[str, Any]], folder: Path, pack: int) -> int:
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    if not part:
        return 0
    table = Dataset.from_dict({name: [row[name] for row in part] for name in part[0]})
    if pack:
        from trl.data_utils import pack_dataset

        table = pack_dataset(table, pack, "bfd", {"desc": None})
    table.save_to_disk(folder)
    return len(table)


def _facts(folder: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads((folder / "facts.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _sentence(facts: dict[str, Any], how: str) -> str:
    what = several(facts["training"], "sequence") if facts["packed"] else several(facts["training"], "row")
    text = f"{what} to train on, {facts['validation']} to measure on, {how}"
    return text + (f"; {several(facts['left_out'], 'row')} too long and left out" if facts["left_out"] else "")


def _load(context: TuneContext, folder: Path, key: str, facts: dict[str, Any]) -> None:
    from datasets import load_from_disk

    context.train_rows = load_from_disk(str(folder / "training"))
    context.eval_rows = load_from_disk(str(folder / "validation")) if facts["validation"] else None
    context.fingerprint = key
