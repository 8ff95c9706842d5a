"""The rows of a tuning run as the trainers' collators read them, kept in the run's cache (adapter over ``datasets``).

Rank 0 reads, checks and tokenises once, or finds what ``hpctrain data prepare`` has made; every rank, and every later start,
maps the same files into memory, in mode ``copy`` from its node's own disk.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from hpctrain.data.read import split
from hpctrain.files import make_private_dir
from hpctrain.recipe.units import several
from hpctrain.train.open_data import stage_folder
from hpctrain.train.tune.context import TuneContext
from hpctrain.train.tune.row_files import Encode, Encoding, find_rows, read_facts, rows_key, sentence, write_rows

__all__ = ["Encode", "Encoding", "keep_rows", "tokenise_rows"]


def tokenise_rows(context: TuneContext, encode: Encode, options: Any, pack: int = 0) -> None:
    """Fill in the context's rows; all ranks together.

    Args:
        options, pack: see :class:`hpctrain.train.tune.row_files.Encoding`.

    Raises:
        RecipeError: a row is not what it should be (with ``file:line``), or none is short enough.
        StorageError: the cache cannot be written.
    """
    encoding = Encoding(encode, options, pack)
    data, method = context.data, context.recipe.method or ""
    context.heartbeat.beat("data")

    def work() -> tuple[str, str, dict[str, Any]]:
        key = rows_key(method, data, context.tokenizer, encoding)
        own = context.run_dir.cache / f"rows-{key[:16]}"
        folder = own if read_facts(own) is not None else find_rows(context.run_dir.path.parent, key) or own
        facts = read_facts(folder)
        reused = facts is not None
        if facts is None:
            make_private_dir(context.run_dir.cache)
            facts = write_rows(method, data, encoding, folder,
                               lambda number: context.heartbeat.beat("data", detail=f"{number} rows"))
        how = "found in the cache" if reused else "tokenised"
        context.report.event("data.prepared", sentence(facts, how), evidence={**facts, "reused": reused})
        return str(folder), key, facts

    name, key, facts = context.ranks.on_first(work)
    _load(context, Path(name), key, facts)


def keep_rows(context: TuneContext) -> None:
    """Fill in the context's rows as they are, for trainers that write and judge answers themselves; on every rank by itself.

    Raises:
        RecipeError: a row is not what it should be (with ``file:line``), or there are none.
    """
    from datasets import Dataset

    context.heartbeat.beat("data")
    training, held_out = split(context.data, context.recipe.method or "")
    context.train_rows = Dataset.from_list(training)
    context.eval_rows = Dataset.from_list(held_out) if held_out else None
    text = json.dumps([*training, *held_out], sort_keys=True, default=str)
    context.fingerprint = hashlib.sha256(text.encode()).hexdigest()
    evidence = {"training": len(training), "validation": len(held_out)}
    context.report.event("data.prepared", f"{several(len(training), 'row')} to train on, {len(held_out)} to measure on",
                         evidence=evidence)


def _load(context: TuneContext, folder: Path, key: str, facts: dict[str, Any]) -> None:
    from datasets import load_from_disk

    folder = stage_folder(
        folder, context.data, context.run_dir, context.environment, report=context.report, heartbeat=context.heartbeat)
    context.train_rows = load_from_disk(str(folder / "training"))
    context.eval_rows = load_from_disk(str(folder / "validation")) if facts["validation"] else None
    context.fingerprint = key
