"""From a recipe's data to samples and a cursor, in each of the three modes (service).

``shared``: tokens are made once by rank 0, or found where ``hpctrain data prepare`` has put them, and mapped into memory by
all. ``copy``: the token file is copied to each node's own disk first. ``stream``: no token file; see
:mod:`hpctrain.train.stream`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from hpctrain.checkpoint.ranks import Ranks
from hpctrain.jobs.layout import RunDir
from hpctrain.recipe.schema import Data, Recipe
from hpctrain.recipe.units import format_bytes
from hpctrain.train import text, tokens
from hpctrain.train.data import DataCursor, Samples
from hpctrain.train.environment import RankEnvironment
from hpctrain.train.heartbeat import Heartbeat
from hpctrain.train.order import SampleOrder
from hpctrain.train.prepared import tokenizer_of, tokens_of
from hpctrain.train.report import Reporter
from hpctrain.train.staging import Staged, node_dir, stage
from hpctrain.train.stream import StreamCursor, StreamSamples, WindowOrder, documents_of, window_of
from hpctrain.train.tokenizers import Tokenizer
from hpctrain.train.tokens import TokenFile


@dataclass(frozen=True, slots=True)
class PreparedData:
    """Tokens, and the tokenizer that made them.

    Attributes:
        tokenizer: on rank 0, and on all for a stream; the others do not need it.
    """

    file: TokenFile
    vocab_size: int
    end_of_text: int
    tokenizer: Tokenizer | None = None


@dataclass(frozen=True, slots=True)
class OpenData:
    """What the loop trains on.

    Attributes:
        describe: how many samples there are, in words.
    """

    samples: Samples | StreamSamples
    cursor: DataCursor
    vocab_size: int
    end_of_text: int
    tokenizer: Tokenizer | None
    describe: str


def open_data(
    recipe: Recipe, data: Data, run_dir: RunDir, environment: RankEnvironment, *, ranks: Ranks, report: Reporter,
    heartbeat: Heartbeat,
) -> OpenData:
    """Everything about the data of this rank.

    Raises:
        RecipeError, NotFoundError, StorageError, MissingDependencyError: it cannot be read, tokenised, copied or stored.
    """
    heartbeat.beat("data")
    if data.mode == "stream":
        return _open_stream(recipe, data, ranks=ranks, report=report, heartbeat=heartbeat)
    prepared = prepare_data(recipe, data, run_dir.cache, ranks=ranks, report=report, heartbeat=heartbeat)
    file = prepared.file
    if data.mode == "copy":
        staged = stage_here([Path(file.path)], data, run_dir, environment, report=report, heartbeat=heartbeat)
        file = replace(file, path=str(staged.paths[0]))
    samples = Samples(file.open(), data.sequence_length, data.validation_fraction)
    cursor = DataCursor(SampleOrder(samples.training, recipe.training.seed), file.fingerprint, samples.length)
    words = f"{samples.training:,} samples"
    return OpenData(samples, cursor, prepared.vocab_size, prepared.end_of_text, prepared.tokenizer, words)


def prepare_data(
    recipe: Recipe, data: Data, cache: Path, *, ranks: Ranks, report: Reporter, heartbeat: Heartbeat
) -> PreparedData:
    """Tokenise on rank 0, or find what an earlier start or ``hpctrain data prepare`` made; all ranks are told the file."""
    own: list[Tokenizer] = []

    def progress(documents: int, count: int) -> None:
        if documents % 1000 == 0:
            heartbeat.beat("data", detail=f"{documents} documents, {count} tokens")

    def work() -> PreparedData:
        started = time.monotonic()
        tokenizer = tokenizer_of(recipe)
        own.append(tokenizer)
        key, file = tokens_of(data, tokenizer, cache)
        file = file or tokens.prepare(cache, key, lambda: text.documents(data), tokenizer, progress)
        how = "found in the cache" if file.reused else f"tokenised in {time.monotonic() - started:.1f} s"
        evidence = {"tokens": file.tokens, "documents": file.documents, "reused": file.reused}
        report.event("data.prepared", f"{file.tokens:,} tokens of {file.documents:,} documents, {how}", evidence=evidence)
        return PreparedData(file, tokenizer.vocab_size, tokenizer.end_of_text)

    shared = ranks.on_first(work)
    return replace(shared, tokenizer=own[0]) if own else shared


def stage_here(
    sources: list[Path], data: Data, run_dir: RunDir, environment: RankEnvironment, *, report: Reporter,
    heartbeat: Heartbeat, root: Path | None = None,
) -> Staged:
    """Copy files to this node's disk; every rank of every node calls this.

    Args:
        root: see :func:`hpctrain.train.staging.stage`.

    Raises:
        StorageError, NotFoundError: see :func:`hpctrain.train.staging.stage`.
    """
    node = environment.node or os.uname().nodename
    folder = node_dir(data.copy_to, os.environ.get("SLURM_JOB_ID") or run_dir.name, node)
    staged = stage(sources, folder, _tell(heartbeat), root=root)
    if environment.rank == 0:
        how = f"copied in {staged.seconds:.1f} s" if staged.copied_bytes else "found there"
        size = sum(path.stat().st_size for path in staged.paths)
        report.event("data.staged", f"{format_bytes(size)} on each node's own disk, {how}", evidence={
            "files": len(staged.paths), "bytes": size, "copied_bytes": staged.copied_bytes, "directory": str(folder)})
    return staged


def stage_folder(
    folder: Path, data: Data, run_dir: RunDir, environment: RankEnvironment, *, report: Reporter, heartbeat: Heartbeat
) -> Path:
    """A folder that every rank reads while training, as this node should read it: in mode ``copy`` its copy, else itself.

    Raises:
        StorageError, NotFoundError: see :func:`hpctrain.train.staging.stage`.
    """
    if data.mode != "copy":
        return folder
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    staged = stage_here(files, data, run_dir, environment, report=report, heartbeat=heartbeat, root=folder.parent)
    return staged.paths[0].parents[len(files[0].relative_to(folder).parts) - 1]


def _tell(heartbeat: Heartbeat) -> Callable[[str], None]:
    last = [0.0]

    def tell(what: str) -> None:
        now = time.monotonic()
        if now - last[0] > 0.1:
            last[0] = now
            heartbeat.beat("data", detail=what)

    return tell


def _open_stream(recipe: Recipe, data: Data, *, ranks: Ranks, report: Reporter, heartbeat: Heartbeat) -> OpenData:
    def waits() -> None:
        heartbeat.beat("data", detail="waiting for the stream")  # which may take longer than a step before it is a hang

    tokenizer = tokenizer_of(recipe)
    key = ranks.on_first(lambda: tokens.fingerprint(["stream", text.identity(data)], tokenizer))
    window = window_of(data.sequence_length)
    samples = StreamSamples(documents_of(data, tokenizer), data.sequence_length, window, waits)
    cursor = StreamCursor(WindowOrder(window, recipe.training.seed), key, samples)
    how = f"text is read while training, shuffled among {window:,} samples"
    report.event("data.streamed", how, evidence={"window": window})
    return OpenData(samples, cursor, tokenizer.vocab_size, tokenizer.end_of_text, tokenizer, "a stream of samples")
