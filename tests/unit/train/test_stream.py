"""Text that is read while it is trained on."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.errors import CheckpointError, RecipeError
from hpctrain.recipe.schema import Data
from hpctrain.train import stream
from hpctrain.train.data import DataCursor
from hpctrain.train.order import SampleOrder
from hpctrain.train.stream import Blocks, Place, StreamCursor, StreamSamples, WindowOrder, documents_of
from hpctrain.train.tokenizers import ByteTokenizer

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")

LENGTH, WINDOW, BATCH = 5, 4, 6
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Files of three kinds with rows of all lengths, an empty one among them."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "a.txt").write_text("one two three")
    (folder / "b.jsonl").write_text("".join(json.dumps({"text": "x" * number}) + "\n\n" for number in (1, 0, 17, 3)))
    with gzip.open(folder / "c.jsonl.gz", "wt") as file:
        file.write("".join(json.dumps({"text": f"row {number}"}) + "\n" for number in range(5)))
    return Data(source="files", paths=[str(folder)], mode="stream", sequence_length=8)


def every_token(data: Data, count: int) -> list[int]:
    found: list[int] = []
    for _, encoded in documents_of(data, ByteTokenizer())(Place()):
        found += encoded.tolist()
        if len(found) >= count:
            return found[:count]
    raise AssertionError("a stream does not end")


def test_samples_are_the_text(data: Data) -> None:
    """Samples are cut from the documents one after the other, overlap by one token, and go on into the next pass."""
    taken = Blocks(documents_of(data, ByteTokenizer()), LENGTH, Place()).take(40)

    tokens = every_token(data, 40 * LENGTH + 1)
    assert [tokens[at * LENGTH : (at + 1) * LENGTH + 1] for at in range(40)] == taken.tolist()


@settings(max_examples=60, deadline=None)
@given(first=st.integers(0, 60), length=st.integers(1, 30))
def test_reading_goes_on_from_any_place(data: Data, first: int, length: int) -> None:
    """From the place of a sample on, the same samples come, wherever in a document, file or pass that is."""
    documents = documents_of(data, ByteTokenizer())
    blocks = Blocks(documents, length, Place())
    if first:
        blocks.take(first)
    place = Place(*blocks.place.to_json())

    assert Blocks(documents, length, place).take(7).tolist() == blocks.take(7).tolist()


def consume(data: Data, steps: int, ranks: int, state: Any = None) -> tuple[list[list[int]], Any]:
    """Samples of some steps over all ranks, in their order, and rank 0's state."""
    cursors = []
    for _ in range(ranks):
        samples = StreamSamples(documents_of(data, ByteTokenizer()), LENGTH, WINDOW)
        cursor = StreamCursor(WindowOrder(WINDOW, 7), "f", samples)
        if state is not None:
            cursor.load_state_dict(json.loads(json.dumps(state)))
        cursors.append((samples, cursor))
    seen: list[list[int]] = []
    for _ in range(steps):
        shares = [samples.batch(cursor.next_share(BATCH, rank, ranks), CPU).tolist()
                  for rank, (samples, cursor) in enumerate(cursors)]
        seen += [shares[at % ranks][at // ranks] for at in range(BATCH)]
    return seen, cursors[0][1].state_dict()


@pytest.mark.parametrize("stop", [1, 2, 3, 7, 10])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_stream_is_continued_with_the_next_samples(data: Data, stop: int, ranks: int) -> None:
    """A stream that is saved and opened again, also by another number of ranks, gives exactly what would have come."""
    whole, _ = consume(data, 12, 1)
    before, state = consume(data, stop, ranks)
    after, _ = consume(data, 12 - stop, 1, state)

    assert whole == before + after


def test_samples_are_shuffled_in_windows(data: Data) -> None:
    """Within a window the order is another one than in the files, and every sample comes once."""
    order = WindowOrder(WINDOW, 7)
    found = [order.sample(cursor) for cursor in range(8 * WINDOW)]

    assert sorted(found) == list(range(8 * WINDOW))
    assert found != sorted(found)
    assert all(sample // WINDOW == cursor // WINDOW for cursor, sample in enumerate(found))


def test_skipped_samples_are_left_out(data: Data) -> None:
    """Samples that are skipped, as after a bad loss, are read over."""
    whole, _ = consume(data, 5, 1)
    samples = StreamSamples(documents_of(data, ByteTokenizer()), LENGTH, WINDOW)
    cursor = StreamCursor(WindowOrder(WINDOW, 7), "f", samples)

    cursor.skip(4 * BATCH)

    assert samples.batch(cursor.next_share(BATCH, 0, 1), CPU).tolist() == whole[4 * BATCH :]


def test_other_checkpoints_are_refused(data: Data) -> None:
    """A checkpoint of a token file, or of another stream, is not continued."""
    samples = StreamSamples(documents_of(data, ByteTokenizer()), LENGTH, WINDOW)
    cursor = StreamCursor(WindowOrder(WINDOW, 7), "f", samples)

    with pytest.raises(CheckpointError, match="not from a stream"):
        cursor.load_state_dict(DataCursor(SampleOrder(WINDOW, 7), "f", LENGTH).state_dict())
    with pytest.raises(CheckpointError, match="fingerprint was g, is f"):
        cursor.load_state_dict({**cursor.state_dict(), "fingerprint": "g"})


def test_bad_rows_end_a_stream(tmp_path: Path) -> None:
    """A bad line, or data without any text, is an error with its place, from the thread that reads ahead too."""
    (tmp_path / "a.jsonl").write_text('{"text": "ok"}\n{"txt": "x"}\n')
    samples = StreamSamples(documents_of(Data(source="files", paths=[str(tmp_path)]), ByteTokenizer()), LENGTH, WINDOW)
    with pytest.raises(RecipeError, match="no text under 'text'") as caught:
        samples.batch([0], CPU)
    assert caught.value.where == f"{tmp_path}/a.jsonl:2"

    (tmp_path / "a.jsonl").write_text('{"text": ""}\n')
    with pytest.raises(RecipeError, match="holds no text"):
        Blocks(documents_of(Data(source="files", paths=[str(tmp_path)]), ByteTokenizer()), LENGTH, Place()).take(1)


@pytest.mark.parametrize("source", ["files", "huggingface"])
def test_tables_and_data_sets_are_continued(tmp_path: Path, source: str) -> None:
    """Rows without text do not count, whichever reader passes them over: a place in a table leads to the same row again."""
    pq, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    pytest.importorskip("datasets")
    texts = [None if number % 3 == 1 else f"text of row {number}" for number in range(30)]
    pq.write_table(pa.table({"text": texts, "more": list(range(30))}), tmp_path / "train.parquet")
    where = {"paths": [str(tmp_path)]} if source == "files" else {"name": str(tmp_path)}
    documents = documents_of(Data.model_validate({"source": source, "mode": "stream", **where}), ByteTokenizer())

    blocks = Blocks(documents, LENGTH, Place())
    for _ in range(6):
        blocks.take(9)
        again = Blocks(documents, LENGTH, blocks.place)
        assert again.take(4).tolist() == blocks.take(4).tolist()
        assert again.place == blocks.place


def test_a_stream_that_comes_late_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who looks for hangs is told that a window is waited for; what then comes is the same."""
    (tmp_path / "a.txt").write_text("hello world " * 50)
    data = Data(source="files", paths=[str(tmp_path)])
    documents, told = documents_of(data, ByteTokenizer()), threading.Event()

    def late(place: Place) -> Iterator[tuple[Place, Any]]:
        assert told.wait(60)
        yield from documents(place)

    monkeypatch.setattr(stream, "PATIENCE_S", 0.05)
    slow = StreamSamples(late, LENGTH, WINDOW, told.set).batch([0, 1], CPU)
    assert slow.tolist() == StreamSamples(documents, LENGTH, WINDOW).batch([0, 1], CPU).tolist()
