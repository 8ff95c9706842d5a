"""Packed rows are learned as the same rows alone: none sees another one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from hpctrain.recipe.schema import Recipe  # noqa: E402 - after the check that torch is there
from hpctrain.train.byte_tokenizer import byte_tokenizer  # noqa: E402
from hpctrain.train.tune.arguments import common_arguments  # noqa: E402
from hpctrain.train.tune.row_files import write_rows  # noqa: E402
from hpctrain.train.tune.sft import encoding, make  # noqa: E402
from tests.train.tuning import make_model, make_rows  # noqa: E402

LENGTH = 128


def trainer_of(place: Path, attention: str, *, packing: bool) -> tuple[Any, list[dict[str, Any]]]:
    """The trainer that a recipe gets, on one rank, and its rows."""
    from datasets import load_from_disk
    from transformers import AutoModelForCausalLM

    recipe = Recipe.model_validate({
        "version": 1, "name": "t", "method": "sft", "model": {"path": str(place / "base")},
        "data": {"source": "files", "paths": [str(place / "rows.jsonl")], "sequence_length": LENGTH},
        "chat": {"packing": packing}, "training": {"steps": 1, "precision": "fp32"},
    })
    assert recipe.data is not None
    tokenizer, folder = byte_tokenizer(), place / f"rows-{packing}"
    write_rows("sft", recipe.data, encoding(recipe, recipe.data, tokenizer), folder, lambda _: None)
    rows = load_from_disk(str(folder / "training"))
    context: Any = SimpleNamespace(
        recipe=recipe, training=recipe.training, data=recipe.data, tokenizer=tokenizer, train_rows=rows, eval_rows=None,
        peft_config=None, mesh=None, steps=1, seed=1, run_dir=SimpleNamespace(cache=place),
        place=SimpleNamespace(device=torch.device("cpu"), world_size=1),
        batch=SimpleNamespace(micro_batch_size=1, accumulation=1),
        model=AutoModelForCausalLM.from_pretrained(place / "base", attn_implementation=attention),
    )
    return make(context, common_arguments(context), []), list(rows)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_rows_do_not_see_one_another(tmp_path: Path, attention: str) -> None:
    """The loss of packed sequences is that of their rows alone, token for token; so are the outputs of each row."""
    make_model(tmp_path / "base", attention_dropout=0.0)
    make_rows(tmp_path / "rows.jsonl", "sft", 12)
    packer, packed = trainer_of(tmp_path, attention, packing=True)
    single, alone = trainer_of(tmp_path, attention, packing=False)
    assert len(packed) < len(alone) == sum(len(sequence["seq_lengths"]) for sequence in packed)

    def outputs(trainer: Any, batches: list[list[dict[str, Any]]]) -> tuple[dict[tuple[int, ...], Any], float]:
        """Of each row, by its tokens; and the sum of the losses of all tokens."""
        found, total, model = {}, 0.0, trainer.model.eval()
        for rows in batches:
            batch = trainer.data_collator([dict(row) for row in rows])
            with torch.no_grad():
                loss, answer = trainer.compute_loss(model, dict(batch), return_outputs=True)
            total += float(loss) * int((batch["labels"][:, 1:] != -100).sum())
            lengths = [length for row in rows for length in row.get("seq_lengths") or [len(row["input_ids"])]]
            for tokens, logits in zip(batch["input_ids"][0].split(lengths), answer.logits[0].split(lengths), strict=True):
                found[tuple(tokens.tolist())] = logits
        return found, total

    together, loss_together = outputs(packer, [packed[at:at + 2] for at in range(0, len(packed), 2)])
    apart, loss_apart = outputs(single, [[row] for row in alone])
    assert set(together) == set(apart)
    for tokens, logits in apart.items():
        assert torch.allclose(together[tokens], logits, atol=1e-5), len(tokens)
    assert abs(loss_together - loss_apart) < 1e-3 * loss_apart
