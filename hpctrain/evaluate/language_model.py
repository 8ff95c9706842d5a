"""A model that is measured: it writes, it says how likely a text is, it marks answers (adapter over ``torch``).

Everything is in evaluation mode, and greedy or drawn from a fixed seed, so that the same model gives the same numbers; a
batch of another shape may differ in the last bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from hpctrain.errors import RecipeError
from hpctrain.evaluate.batching import batches
from hpctrain.evaluate.codec import Codec, Tools, prompt_tokens
from hpctrain.evaluate.examples import Prompt
from hpctrain.evaluate.hugging_face import generation
from hpctrain.evaluate.lockstep import Lockstep
from hpctrain.evaluate.model_directory import ModelDirectory

Progress = Callable[[int, int], None]
"""Told how many of how many rows are done; it may raise, which ends the measuring."""
_SEED = 20_260
"""Of answers that are drawn: any fixed number."""
NO_LIMIT = 4096
"""Tokens of a text where the architecture names no longest one."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where and how a model computes.

    Attributes:
        device: of torch; "" takes a GPU if there is one.
        precision: ``auto`` (as stored; on a CPU float32), ``fp32`` or ``bf16``.
        batch_size: rows at once at most.
        spread: one copy on many GPUs, for models that one does not hold: each rank has a share of every layer (FSDP2), or,
            of a single rank, layers go to all visible GPUs in turn (accelerate).
        local_world_size: ranks of each node.
        trust_remote_code: run Python code that comes with the model.
        sequence_length: predicted tokens of one text at most, 0 for as many as the architecture takes. A model is best at
            the length that it was trained on.
    """

    device: str = ""
    precision: str = "auto"
    batch_size: int = 16
    spread: bool = False
    local_world_size: int = 1
    trust_remote_code: bool = False
    sequence_length: int = 0


class LanguageModel:
    """A loaded model and its tokenizer.

    Attributes:
        directory: where it lies.
        codec: its tokenizer.
        parameters: how many numbers it has.
        longest: positions that the architecture has.
        window: predicted tokens of one text at most.
        model: transformers' object, for metrics of your own. Where it is spread over ranks, call it as a whole.
        lockstep: of the ranks that it is spread over.
    """

    def __init__(
        self, directory: ModelDirectory, codec: Codec, model: Any, place: Place, *, parameters: int,
        lockstep: Lockstep | None = None,
    ) -> None:
        self.directory, self.codec, self.model, self.lockstep = directory, codec, model, lockstep
        self.device = next(model.parameters()).device
        self.parameters = parameters
        self.longest = _longest(model.config)
        self.window = min(self.longest, place.sequence_length or self.longest)
        self._batch_size = place.batch_size

    @property
    def is_reward(self) -> bool:
        """It marks answers instead of writing them."""
        return self.directory.is_reward

    def fit(self, tokens: list[int], first: int) -> tuple[list[int], int]:
        """The end of a text that is too long; what is to be predicted is cut only where it alone is too long.

        Args:
            first: index of the first token that is predicted, 1 at least.
        """
        excess = len(tokens) - self.window - 1
        return (tokens, first) if excess <= 0 else (tokens[excess:], max(1, first - excess))

    @torch.no_grad()
    def negative_log_likelihoods(
        self, texts: Sequence[tuple[list[int], int]], progress: Progress | None = None,
    ) -> list[float]:
        """How surprising each text is: the sum over its tokens, in nats.

        Args:
            texts: from :meth:`fit`: tokens, and the index of the first one that is predicted.

        Raises:
            RecipeError: it is a reward model.
        """
        if self.is_reward:
            raise RecipeError("it is a reward model, which marks texts and does not predict them", where=self.directory.path)
        found = [0.0] * len(texts)
        done = 0
        for batch in batches([len(tokens) for tokens, _ in texts], self._batch_size):
            inputs = self._padded([texts[index][0][:-1] for index in batch], left=False)
            logits = self.model(**inputs, use_cache=False).logits
            for row, index in enumerate(batch):
                tokens, first = texts[index]
                targets = torch.tensor(tokens[first:], device=logits.device)
                rows = logits[row, first - 1:len(tokens) - 1].float()
                found[index] = float(cross_entropy(rows, targets, reduction="sum"))
            done += len(batch)
            if progress is not None:
                progress(done, len(texts))
        return found

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, tools: Sequence[Tools] | None = None,
        progress: Progress | None = None, temperature: float = 0.0,
    ) -> list[str]:
        """What the model writes after each prompt, up to its end of text.

        Args:
            max_new_tokens: of one answer at most; a prompt that leaves less room than that loses its beginning.
            tools: definitions for the chat template, by prompt.
            temperature: 0 takes the most likely token each time; else tokens are drawn, the same each time.

        Raises:
            RecipeError: it is a reward model; or prompts are conversations and there is no chat template.
        """
        if self.is_reward:
            raise RecipeError("it is a reward model, which marks answers and writes none", where=self.directory.path)
        room = max(1, self.longest - max_new_tokens)
        asked = [prompt_tokens(self.codec, prompt, tools[index] if tools else None)[-room:]
                 for index, prompt in enumerate(prompts)]
        answers = [""] * len(asked)
        done = 0
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(_SEED)
            for batch in batches([len(tokens) + max_new_tokens for tokens in asked], self._batch_size):
                inputs = self._padded([asked[index] for index in batch], left=True)
                width = inputs["input_ids"].shape[1]
                most = min(max_new_tokens, max(1, self.longest - width))
                options = generation(max_new_tokens=most, ends=sorted(self._ends), padding=self.codec.padding,
                                     temperature=temperature)
                written = self.model.generate(**inputs, generation_config=options)[:, width:].tolist()
                for tokens, index in zip(written, batch, strict=True):
                    answers[index] = self.codec.decode(_until_end(tokens, self._ends))
                done += len(batch)
                if progress is not None:
                    progress(done, len(asked))
        return answers

    @torch.no_grad()
    def scores(self, texts: Sequence[list[int]], progress: Progress | None = None) -> list[float]:
        """A reward model's mark of each text; unbounded, only comparable among its own.

        Raises:
            RecipeError: it is not a reward model.
        """
        if not self.is_reward:
            raise RecipeError("it is no reward model (a sequence classifier with one label)", where=self.directory.path)
        found = [0.0] * len(texts)
        done = 0
        for batch in batches([len(tokens) for tokens in texts], self._batch_size):
            inputs = self._padded([texts[index][-self.longest:] for index in batch], left=False)
            marks = self.model(**inputs).logits[:, 0].float().tolist()
            for mark, index in zip(marks, batch, strict=True):
                found[index] = mark
            done += len(batch)
            if progress is not None:
                progress(done, len(texts))
        return found

    @property
    def _ends(self) -> set[int]:
        """Tokens that end an answer: the tokenizer's, and those that the model's own settings name."""
        settings = getattr(self.model, "generation_config", None)
        own = getattr(settings, "eos_token_id", None)
        return {self.codec.end, *(own if isinstance(own, list) else [] if own is None else [int(own)])}

    def _padded(self, rows: Sequence[list[int]], *, left: bool) -> dict[str, torch.Tensor]:
        width = max(1, *(len(row) for row in rows))
        ids, mask = [], []
        for row in rows:
            fill, ones = [self.codec.padding] * (width - len(row)), [1] * len(row)
            zeros = [0] * len(fill)
            ids.append(fill + row if left else row + fill)
            mask.append(zeros + ones if left else ones + zeros)
        return {"input_ids": torch.tensor(ids, device=self.device), "attention_mask": torch.tensor(mask, device=self.device)}


def _longest(config: Any) -> int:
    """Tokens of one text at most, by the names that architectures use."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length"):
        value = getattr(text, name, None)
        if isinstance(value, int) and value > 1:
            return value
    return NO_LIMIT


def _until_end(tokens: Sequence[int], ends: set[int]) -> list[int]:
    found = next((index for index, token in enumerate(tokens) if token in ends), len(tokens))
    return list(tokens[:found])
