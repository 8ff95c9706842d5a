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

from hpctrain.checkpoint.ranks import Ranks
from hpctrain.errors import HpctrainError, RecipeError, first_line
from hpctrain.evaluate.batching import batches
from hpctrain.evaluate.codec import Codec, Tools, codec_of, prompt_tokens
from hpctrain.evaluate.examples import Prompt
from hpctrain.evaluate.hugging_face import generation, load_model, load_sharded, require_spread
from hpctrain.evaluate.lockstep import Lockstep
from hpctrain.evaluate.model_directory import ModelDirectory, inspect
from hpctrain.evaluate.spread import ranks_of_a_copy

Progress = Callable[[int, int], None]
"""Told how many of how many rows are done; it may raise, which ends the measuring."""
_SEED = 20_260
"""Of answers that are drawn: any fixed number."""
_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
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


def load(path: str, place: Place, *, chat_template: str = "", ranks: Ranks | None = None) -> LanguageModel:
    """Load a model directory, or an adapter and the model that it is for.

    Args:
        chat_template: for a tokenizer that has none; so a model before training reads chats as the one after it does.
        ranks: that load it together; they share one copy where the place says ``spread``.

    Raises:
        NotFoundError: a part of it is missing.
        MissingDependencyError: peft is not installed and it is an adapter.
        HpctrainError: transformers cannot load it, or it does not fit into memory.
    """
    shared = ranks if place.spread and ranks is not None and ranks.world_size > 1 else None
    if shared is not None:
        return _load_shared(path, place, chat_template, shared)
    directory = inspect(path)
    codec = codec_of(directory, chat_template, trust_remote_code=place.trust_remote_code)
    device = device_of(place)
    stored = torch.float32 if device.type == "cpu" and not place.spread else None
    model = load_model(directory, device=device, dtype=_PRECISIONS.get(place.precision, stored), spread=place.spread,
                       trust_remote_code=place.trust_remote_code)
    _can_pad(model, directory, codec)
    return LanguageModel(directory, codec, model, place, parameters=sum(one.numel() for one in model.parameters()))


def _load_shared(path: str, place: Place, chat_template: str, ranks: Ranks) -> LanguageModel:
    """One copy for several ranks. What each looks at by itself is agreed upon before any rank waits for another."""
    problem: HpctrainError | None = None
    try:
        directory = inspect(path)
        codec = codec_of(directory, chat_template, trust_remote_code=place.trust_remote_code)
        device = device_of(place)
    except HpctrainError as error:
        problem = error
    if told := ranks.first_error(str(problem) if problem is not None else ""):
        raise problem or HpctrainError(f"another rank cannot load it: {told}")
    copy = ranks_of_a_copy(
        ranks.broadcast(directory.weights_bytes), min(ranks.everyone(memory_of(device))), world_size=ranks.world_size,
        local_world_size=place.local_world_size)
    stored = torch.float32 if device.type == "cpu" else None
    model, parameters = load_sharded(directory, device=device, dtype=_PRECISIONS.get(place.precision, stored),
                                     trust_remote_code=place.trust_remote_code, ranks=ranks, ranks_of_a_copy=copy)
    _can_pad(model, directory, codec)
    _try(model, codec, device, ranks, directory)
    lockstep = Lockstep(model, ranks.group, codec.padding)
    return LanguageModel(directory, codec, model, place, parameters=parameters, lockstep=lockstep)


@torch.no_grad()
def _try(model: Any, codec: Codec, device: torch.device, ranks: Ranks, directory: ModelDirectory) -> None:
    """One token through the model: an architecture that cannot be spread fails here, on all ranks alike.

    Raises:
        HpctrainError: it cannot.
    """
    token = torch.tensor([[codec.padding]], device=device)
    problem = ""
    try:
        model(input_ids=token, attention_mask=torch.ones_like(token), use_cache=False)
    except Exception as error:  # noqa: BLE001 - each architecture breaks in its own way
        problem = first_line(error)
    require_spread(ranks, problem, directory)
    model.reshard()  # what FSDP2 keeps gathered after a pass, expecting a backward one


def _can_pad(model: Any, directory: ModelDirectory, codec: Codec) -> None:
    if directory.is_reward and getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = codec.padding


def memory_of(device: torch.device) -> int:
    """Bytes of a GPU's memory; 0 of a CPU."""
    return int(torch.cuda.get_device_properties(device).total_memory) if device.type == "cuda" else 0


def free_memory() -> None:
    """Give back what models that nobody holds any more have taken."""
    import gc

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def device_of(place: Place) -> torch.device:
    """The device that a place means.

    Raises:
        HpctrainError: a GPU is asked for and there is none.
    """
    if place.device and not place.device.startswith("cuda"):
        return torch.device(place.device)
    if torch.cuda.is_available():
        return torch.device(place.device) if ":" in place.device else torch.device("cuda", torch.cuda.current_device())
    if place.device:
        why = "" if torch.version.cuda else "; this torch is a build without CUDA"
        raise HpctrainError(f"there is no GPU here{why}", hint="choose --device cpu")
    return torch.device("cpu")


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
