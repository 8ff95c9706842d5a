"""Text that is read while it is trained on, and the place where reading stands (service over the readers).

Documents come in the order of their files, pass after pass, are tokenised as they come, and fill samples that overlap by one
token, as those of a token file do. Samples are shuffled inside *windows*: a window is read as a whole, ahead of time, by a
thread. What must be saved is how many samples all ranks have consumed, and the place (pass, file, row, token) at which the
window of the next one begins. Every rank reads the whole stream and takes its share: where the ranks stand does not
depend on how many they are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpctrain.data.files import BadRow, find_files, read_file
from hpctrain.errors import CheckpointError, RecipeError
from hpctrain.recipe.schema import Data
from hpctrain.train.data import DataCursor
from hpctrain.train.order import SampleOrder
from hpctrain.train.tokenizers import Tokenizer, Tokens

WINDOW_TOKENS = 2**20
"""About so many tokens are shuffled among one another, and held in memory twice by each rank."""
SMALLEST_WINDOW = 16
PATIENCE_S = 5.0
"""A window that takes longer is said to be waited for."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a token stands: pass over the data, file, row in it, token in the row; all counted from 0."""

    turn: int = 0
    file: int = 0
    row: int = 0
    token: int = 0

    def to_json(self) -> list[int]:
        """Plain data."""
        return [self.turn, self.file, self.row, self.token]


Documents = Callable[[Place], Iterator[tuple[Place, Tokens]]]
"""Opens a stream at the row of a place: endless pairs of a row's place and its tokens."""


def documents_of(data: Data, tokenizer: Tokenizer) -> Documents:
    """The stream of a recipe's data, pass after pass.

    Raises:
        RecipeError, NotFoundError: while it is read, as :func:`hpctrain.data.read.rows`.
    """

    def open_at(place: Place) -> Iterator[tuple[Place, Tokens]]:
        for turn in count(place.turn):
            begin = place if turn == place.turn else Place(turn)
            waiting: deque[Place] = deque()
            found = 0
            for encoded in tokenizer.encode(_texts(data, begin, waiting)):
                found += len(encoded) > 1
                yield waiting.popleft(), encoded
            if not found and begin == Place(turn):
                raise RecipeError("the data holds no text", where="data")

    return open_at


def _texts(data: Data, begin: Place, places: deque[Place]) -> Iterator[str]:
    """The documents of one pass from a place on; their places are put into the queue as they are handed out."""
    for number, reader in _readers(data, begin):
        skip = begin.row if number == begin.file else 0
        for row, text in enumerate(reader(skip), start=skip):
            places.append(Place(begin.turn, number, row))
            yield text


def _readers(data: Data, begin: Place) -> Iterator[tuple[int, Callable[[int], Iterator[str]]]]:
    if data.source == "files":
        for number, path in enumerate(find_files(data.paths)):
            if number >= begin.file:
                yield number, _reader(path, data.text_field)
    elif data.source == "huggingface":
        yield 0, lambda skip: _from_hub(data, skip)
    else:
        message = f"'{data.source}' is made in memory and not streamed"
        raise RecipeError(message, where="data.mode", hint="take mode 'shared'")


def _reader(path: Path, field: str) -> Callable[[int], Iterator[str]]:
    def read(skip: int) -> Iterator[str]:
        for item in read_file(path, text_field=field, only_text=True, skip=skip):
            if isinstance(item, BadRow):
                raise item.error()
            text = item.values.get(field)
            if not isinstance(text, str):
                raise RecipeError(f"has no text under {field!r}", where=item.where, hint="data.text_field names the key")
            yield text

    return read


def _from_hub(data: Data, skip: int) -> Iterator[str]:
    from hpctrain.data.hub import read_hub

    for row in read_hub(data, column=data.text_field, streaming=True, skip=skip):
        yield str(row[data.text_field])


class Blocks:
    """Samples cut one after the other from a stream of documents.

    Args:
        documents: the stream.
        length: predicted tokens per sample.
        start: the first token.
    """

    def __init__(self, documents: Documents, length: int, start: Place) -> None:
        self._documents, self._length, self._start = documents(start), length, start
        self._pending: deque[tuple[Place, Tokens]] = deque()
        self._offset, self._held = start.token, -start.token

    @property
    def place(self) -> Place:
        """Of the first token of the next sample."""
        if not self._pending:
            return self._start
        row = self._pending[0][0]
        return Place(row.turn, row.file, row.row, self._offset)

    def take(self, samples: int) -> Tokens:
        """The next samples, as (samples, length + 1)."""
        return np.stack([self._next() for _ in range(samples)])

    def _next(self) -> Tokens:
        while self._held <= self._length:
            place, encoded = next(self._documents)
            self._pending.append((place, encoded))
            self._held += len(encoded)
        parts, missing, offset = [], self._length + 1, self._offset
        for _, encoded in self._pending:
            parts.append(encoded[offset : offset + missing])
            missing -= len(parts[-1])
            offset = 0
            if not missing:
                break
        self._advance()
        return np.concatenate(parts).astype(np.int64)

    def _advance(self) -> None:
        self._offset += self._length
        self._held -= self._length
        while self._offset >= len(self._pending[0][1]):
            self._offset -= len(self._pending.popleft()[1])


class WindowOrder(SampleOrder):
    """Which sample of a stream is the k-th that training consumes: shuffled inside windows of ``size`` samples."""

    def sample(self, cursor: int) -> int:
        """The sample that is consumed as number ``cursor``, counted from 0."""
        return cursor // self.size * self.size + super().sample(cursor)


class StreamSamples:
    """The samples of a stream, by number; numbers never go back by more than one window.

    Args:
        documents: the stream.
        length: predicted tokens per sample.
        window: samples of a window.
        waits: told when a window does not come in time, such as for a network that is down.
    """

    validation = 0
    training = 2**62
    """There is always another one."""

    def __init__(self, documents: Documents, length: int, window: int, waits: Callable[[], None] = lambda: None) -> None:
        self._documents, self.length, self.window, self._waits = documents, length, window, waits
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="stream")
        self.seek(0, Place())

    def seek(self, window: int, place: Place) -> None:
        """Begin again with a window that starts at a place."""
        self._blocks = Blocks(self._documents, self.length, place)
        self._windows: dict[int, Tokens] = {}
        self._starts = {window: place}
        self._next = window
        self._coming: Future[tuple[Tokens, Place]] | None = None

    def batch(self, indices: list[int], device: torch.device) -> torch.Tensor:
        """Some samples, as (samples, length + 1) of int64.

        Raises:
            RecipeError, NotFoundError: the data cannot be read on.
        """
        rows = [self._window(index // self.window)[index % self.window] for index in indices]
        self._forget(min(indices) // self.window)
        return torch.from_numpy(np.stack(rows)).to(device)

    def start_of(self, window: int) -> tuple[int, Place]:
        """The last window, up to this one, whose start is known."""
        known = max((number for number in self._starts if number <= window), default=min(self._starts))
        return known, self._starts[known]

    def validation_share(self, rank: int, world_size: int) -> list[int | None]:
        """A stream keeps nothing back."""
        del rank, world_size
        return []

    @property
    def turn(self) -> int:
        """Pass over the data in which the newest window was read."""
        return self._starts[max(self._starts)].turn

    def _window(self, number: int) -> Tokens:
        while number not in self._windows:
            if number < self._next:
                raise CheckpointError(f"window {number} of the stream was asked for after it was let go")
            coming = self._read_ahead()
            if not wait([coming], PATIENCE_S).done:
                self._waits()
            rows, after = coming.result()
            self._windows[self._next] = rows
            self._next += 1
            self._starts[self._next] = after
            self._coming = None
            self._forget(number - 1)
        self._read_ahead()
        return self._windows[number]

    def _read_ahead(self) -> Future[tuple[Tokens, Place]]:
        if self._coming is None:
            self._coming = self._reader.submit(self._take, self._blocks)
        return self._coming

    def _take(self, blocks: Blocks) -> tuple[Tokens, Place]:
        rows = blocks.take(self.window)
        return rows, blocks.place

    def _forget(self, before: int) -> None:
        """Let go what lies before a window; the start of the newest of them stays known."""
        for number in [number for number in self._windows if number < before]:
            del self._windows[number]
        for number in [number for number in self._starts if number < before - 1]:
            del self._starts[number]


class StreamCursor(DataCursor):
    """How many samples were consumed, and where in the stream that is.

    Args:
        order: of the samples; its size is that of the windows.
        fingerprint: of data and tokenizer.
        samples: moved along when a state is loaded.
    """

    def __init__(self, order: WindowOrder, fingerprint: str, samples: StreamSamples) -> None:
        super().__init__(order, fingerprint, samples.length)
        self._samples = samples

    @property
    def epoch(self) -> float:
        """Whole passes over the data so far."""
        return float(self._samples.turn)

    def state_dict(self) -> dict[str, Any]:
        """What to save."""
        window, place = self._samples.start_of(self.consumed // self.order.size)
        return {**super().state_dict(), "window": window, "place": place.to_json()}

    def load_state_dict(self, state_dict: Any) -> None:
        """Jump to a saved place.

        Raises:
            CheckpointError: it is the place of another stream.
        """
        if "place" not in state_dict:
            raise CheckpointError("the checkpoint was made with data.mode 'shared' or 'copy', not from a stream",
                                  hint="go on in that mode, or start a new run")
        super().load_state_dict(state_dict)
        self._samples.seek(int(state_dict["window"]), Place(*map(int, state_dict["place"])))


def window_of(length: int) -> int:
    """Samples of a window, for so many tokens per sample."""
    return max(SMALLEST_WINDOW, WINDOW_TOKENS // length)
