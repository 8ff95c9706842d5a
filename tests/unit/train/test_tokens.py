"""Tokens on disk and samples cut from them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.errors import CheckpointError, RecipeError
from hpctrain.train.data import DataCursor, Samples
from hpctrain.train.order import SampleOrder
from hpctrain.train.tokenizers import ByteTokenizer
from hpctrain.train.tokens import fingerprint, prepare

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")


@given(st.text())
def test_byte_tokenizer_loses_nothing(text: str) -> None:
    """Decoding what was encoded gives the same text, whatever it is, with one end-of-text mark."""
    tokens = next(iter(ByteTokenizer().encode([text])))

    assert ByteTokenizer.end_of_text == tokens[-1]
    assert text == ByteTokenizer().decode(int(token) for token in tokens)


def test_tokens_are_made_once(tmp_path: Path) -> None:
    """A second start finds the file and does not open the documents; another key makes another file."""
    tokenizer = ByteTokenizer()
    first = prepare(tmp_path, "k1", lambda: ["ab", "c"], tokenizer)

    def fail() -> list[str]:
        raise AssertionError("opened again")

    second = prepare(tmp_path, "k1", fail, tokenizer)
    assert (5, 2, False, True) == (first.tokens, first.documents, first.reused, second.reused)
    assert [97, 98, 256, 99, 256] == second.open().tolist()
    assert prepare(tmp_path, "k2", lambda: ["x"], tokenizer).path != first.path


def test_half_written_file_is_made_again(tmp_path: Path) -> None:
    """A token file of the wrong size, as a full disk or a crash leaves it, is not believed."""
    made = prepare(tmp_path, "k", lambda: ["abcdef"], ByteTokenizer())
    Path(made.path).write_bytes(b"\0\0")

    again = prepare(tmp_path, "k", lambda: ["abcdef"], ByteTokenizer())

    assert not again.reused
    assert 7 == len(again.open())


def test_failed_tokenising_leaves_nothing(tmp_path: Path) -> None:
    """An error in the data leaves no partial file behind."""

    def documents() -> object:
        yield "a"
        raise RecipeError("line 2 is bad")

    with pytest.raises(RecipeError):
        prepare(tmp_path, "k", documents, ByteTokenizer())  # type: ignore[arg-type]
    assert [] == list(tmp_path.iterdir())


def test_data_without_text_is_refused(tmp_path: Path) -> None:
    """Empty documents are not trained on."""
    with pytest.raises(RecipeError, match="holds no text"):
        prepare(tmp_path, "k", lambda: ["", ""], ByteTokenizer())


def test_fingerprint_covers_sources_and_tokenizer() -> None:
    """Another source gives another fingerprint; the same gives the same."""
    assert fingerprint(["a"], ByteTokenizer()) == fingerprint(["a"], ByteTokenizer())
    assert fingerprint(["a"], ByteTokenizer()) != fingerprint(["b"], ByteTokenizer())


def test_every_token_is_predicted_once() -> None:
    """Samples overlap by one token, so that no token but the first is left out or predicted twice."""
    samples = Samples(np.arange(13, dtype=np.uint16), length=4)
    rows = samples.batch([0, 1, 2], torch.device("cpu")).tolist()

    assert [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [8, 9, 10, 11, 12]] == rows
    assert 3 == samples.training


@given(count=st.integers(2, 200), fraction=st.floats(0.01, 0.9), ranks=st.integers(1, 9))
def test_validation_samples_are_shared_out_evenly(count: int, fraction: float, ranks: int) -> None:
    """Every validation sample is measured by exactly one rank, and all ranks make the same number of passes."""
    samples = Samples(np.zeros(count * 4 + 1, dtype=np.uint16), 4, fraction)
    shares = [samples.validation_share(rank, ranks) for rank in range(ranks)]
    seen = sorted(index for share in shares for index in share if index is not None)

    assert list(range(samples.training, count)) == seen
    assert 1 == len({len(share) for share in shares})


def test_cursor_refuses_other_data() -> None:
    """A checkpoint of other data is not continued; the message says what differs."""
    saved = DataCursor(SampleOrder(100, 1), "aaaa", 16).state_dict()

    with pytest.raises(CheckpointError, match="fingerprint was aaaa, is bbbb"):
        DataCursor(SampleOrder(100, 1), "bbbb", 16).load_state_dict(saved)
    with pytest.raises(CheckpointError, match="sequence length was 16, is 32"):
        DataCursor(SampleOrder(100, 1), "aaaa", 32).load_state_dict(saved)


def test_cursor_continues_with_the_next_samples() -> None:
    """A restored cursor hands out exactly what the first one would have."""
    first = DataCursor(SampleOrder(100, 1), "a", 16)
    first.next_share(24, 0, 1)
    second = DataCursor(SampleOrder(100, 1), "a", 16)
    second.load_state_dict(first.state_dict())

    assert first.next_share(24, 0, 1) == second.next_share(24, 0, 1)
    assert 0.48 == pytest.approx(second.epoch)
