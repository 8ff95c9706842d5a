"""Reward from a reward model, as a ``reward`` run leaves it (adapter over ``transformers``)."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoTokenizer

from hpctrain.errors import HpctrainError, RecipeError, first_line
from hpctrain.train.rewards.batch import Batch, Turn, text_of
from hpctrain.train.tune.model import load_for_use

_AT_ONCE = 16
"""Answers per forward pass."""


class ModelReward:
    """A sequence classifier with one output, in evaluation mode: it draws no random numbers.

    Args:
        path: its directory, or a hub id; an adapter is put on the model it belongs to.
        name: of the reward, for messages.
        device: where it computes.

    Raises:
        RecipeError: the directory is incomplete, or no model with a single score.
    """

    def __init__(self, path: str, *, name: str, device: str = "cpu", dtype: str = "float32") -> None:
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(path)
            model = load_for_use(path, dtype=getattr(torch, dtype), reward=True)
        except (OSError, ValueError, KeyError, HpctrainError) as error:
            raise RecipeError(f"the reward model cannot be loaded: {first_line(error)}", where=path,
                              hint=f"reward {name!r} needs a directory as 'method: reward' leaves it in RUN/model") from None
        if model.config.num_labels != 1:
            raise RecipeError(f"the reward model gives {model.config.num_labels} numbers per answer, not one score",
                              where=path)
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        # It takes the score at the last token that is not padding, and so must know which that is.
        model.config.get_text_config().pad_token_id = self._tokenizer.pad_token_id
        self._model: Any = model.to(device).eval().requires_grad_(False)
        self._device = device

    def __call__(self, batch: Batch) -> list[float | None]:
        """One score per answer; higher is better, and only differences mean something."""
        texts = [self._text(prompt, answer) for prompt, answer in zip(batch.prompts, batch.completions, strict=True)]
        scores: list[float | None] = []
        for begin in range(0, len(texts), _AT_ONCE):
            scores += self._scores(texts[begin:begin + _AT_ONCE])
        return scores

    def close(self) -> None:
        """Let go of the model."""
        self._model = None

    @torch.inference_mode()
    def _scores(self, texts: list[str]) -> list[float]:
        inputs = self._tokenizer(texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False)
        values = {name: inputs[name].to(self._device) for name in ("input_ids", "attention_mask")}
        return [float(score) for score in self._model(**values).logits[:, 0].float().tolist()]

    def _text(self, prompt: Turn, answer: Turn) -> str:
        """As the reward model's own training saw it."""
        if isinstance(prompt, str):
            return prompt + text_of(answer) + (self._tokenizer.eos_token or "")
        messages = [*prompt, {"role": "assistant", "content": text_of(answer)}]
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False))
