"""Tokens on disk: made once, mapped into memory by every rank (adapter over the file system and NumPy).

``cache/tokens-<hash>.bin`` holds all tokens as one array, ``.json`` beside it what they are. The hash covers the
sources and the tokenizer, so that a restart finds them and a changed recipe does not.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpctrain.errors import RecipeError, StorageError
from hpctrain.files import make_private_dir, storage_errors, write_json_atomic
from hpctrain.train.drafts import draft_of
from hpctrain.train.tokenizers import Tokenizer, Tokens

FORMAT_VERSION = 1
_VISIBLE_WITHIN_S = 30.0


@dataclass(frozen=True, slots=True)
class TokenFile:
    """Prepared data.

    Attributes:
        path: of the array.
        fingerprint: of sources and tokenizer.
        tokens: how many there are.
        documents: how many they came from.
        dtype: NumPy's name of their type.
        reused: it was found, not made.
    """

    path: str
    fingerprint: str
    tokens: int
    documents: int
    dtype: str
    reused: bool = False

    def open(self) -> Tokens:
        """Map the tokens into memory, read-only.

        Raises:
            StorageError: this node does not see the file that rank 0 wrote.
        """
        deadline = time.monotonic() + _VISIBLE_WITHIN_S
        while True:
            try:
                return np.memmap(self.path, dtype=self.dtype, mode="r", shape=(self.tokens,))
            except (FileNotFoundError, ValueError) as error:
                # A network file system may show a new file late on other nodes; listing its directory hurries it up.
                if time.monotonic() > deadline:
                    raise StorageError(
                        f"this node does not see the tokens that rank 0 wrote: {error}", where=self.path,
                        hint="the run directory must be on a file system that all nodes share",
                    ) from None
                os.listdir(Path(self.path).parent)
                time.sleep(0.2)


def fingerprint(sources: Any, tokenizer: Tokenizer) -> str:
    """Short hash of everything that the tokens depend on."""
    text = json.dumps([FORMAT_VERSION, sources, tokenizer.identity], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def prepare(
    cache: Path, key: str, documents: Callable[[], Iterable[str]], tokenizer: Tokenizer,
    progress: Callable[[int, int], None] | None = None,
) -> TokenFile:
    """Find the tokens in the cache, or make them; on one rank.

    Args:
        cache: directory of the cache.
        key: from :func:`fingerprint`.
        documents: opened only if there is work to do.
        progress: if given, told the number of documents and tokens so far, after each document.

    Raises:
        StorageError: the cache cannot be written.
        RecipeError: the data holds no text at all.
    """
    found = find(cache, key)
    if found is not None:
        return found
    make_private_dir(cache)
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)
    path = cache / f"tokens-{key}.bin"
    with storage_errors(path), draft_of(path) as draft:
        documents_done, tokens_done = _write(draft, documents(), tokenizer, dtype, progress)
        if tokens_done <= documents_done:  # nothing but end-of-text marks
            raise RecipeError("the data holds no text", where="data")
        file = TokenFile(str(path), key, tokens_done, documents_done, dtype.name)
        found = find(cache, key)
        if found is not None:
            return found  # another process was first, and somebody may have mapped its file already
        draft.replace(path)
    # The description comes second: whoever reads it may rely on the array.
    write_json_atomic(path.with_suffix(".json"), asdict(file))
    return file


def _write(
    path: Path, documents: Iterable[str], tokenizer: Tokenizer, dtype: np.dtype[Any],
    progress: Callable[[int, int], None] | None,
) -> tuple[int, int]:
    documents_done = tokens_done = 0
    with path.open("wb", buffering=1 << 20) as file:
        for tokens in tokenizer.encode(documents):
            file.write(tokens.astype(dtype, copy=False).tobytes())
            documents_done, tokens_done = documents_done + 1, tokens_done + len(tokens)
            if progress is not None:
                progress(documents_done, tokens_done)
        file.flush()
        os.fsync(file.fileno())
    return documents_done, tokens_done


def find(cache: Path, key: str) -> TokenFile | None:
    """What an earlier start left in a cache, whole and of this key; None where there is nothing."""
    path = cache / f"tokens-{key}.bin"
    try:
        record = json.loads(path.with_suffix(".json").read_bytes())
        record.update(path=str(path), reused=True)
        file = TokenFile(**record)
        whole = path.stat().st_size == file.tokens * np.dtype(file.dtype).itemsize and file.fingerprint == key
    except (OSError, ValueError, TypeError):
        return None
    return file if whole else None
