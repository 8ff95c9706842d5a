"""The byte tokenizer in transformers' form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hpctrain.train.tokenizers import ByteTokenizer

pytest.importorskip("transformers")

TEXTS = ("plain", "  blanks \n\tand lines\r\n", "Grüße, 你好, 👋", "\x00\x01\x7f\u0080\u00ad", "a" * 300)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bytes")
    ByteTokenizer().save(folder)
    # Beside a model, whose architecture must not change which tokenizer is loaded.
    (folder / "config.json").write_text('{"model_type": "llama", "vocab_size": 258}')
    return folder


def test_numbers_are_those_of_pretraining(saved: Path) -> None:
    """What AutoTokenizer loads from a model directory makes the numbers that the model was trained on, and text again."""
    from transformers import AutoTokenizer

    loaded, ours = AutoTokenizer.from_pretrained(saved), ByteTokenizer()
    assert (258, 256, 257) == (len(loaded), loaded.eos_token_id, loaded.pad_token_id)
    for text in TEXTS:
        expected = next(iter(ours.encode([text])))
        assert np.array_equal(expected[:-1], loaded(text)["input_ids"]), text
        assert text == loaded.decode(loaded(text)["input_ids"]), text


def test_each_turn_ends_with_end_of_text(saved: Path) -> None:
    """The chat template writes every turn with the one token that closes it, and asks for an answer with the same words."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(saved)
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hé?"}]
    talk = [*asked, {"role": "assistant", "content": "Ho."}]
    ids = tokenizer.apply_chat_template(talk, tokenize=True, return_dict=True)["input_ids"]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]

    assert "system: Be brief.<|endoftext|>user: Hé?<|endoftext|>assistant: Ho.<|endoftext|>" == tokenizer.decode(ids)
    assert 3 == ids.count(256)
    assert prompt == ids[: len(prompt)]
