"""Sections of a recipe that say how a model is tuned: adapter, chat, preferences, rewards, teacher (pure).

Numbers that are left out are those of trl and peft at the version in ``constraints.txt``, unless said otherwise.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from hpctrain.recipe.schema_types import EnvName, MemorySize, Strict

Method = Literal["pretrain", "cpt", "sft", "dpo", "reward", "rlvr", "rlaif", "rlhf", "distill"]
"""What a run does to a model."""
TUNING: tuple[str, ...] = ("sft", "dpo", "reward", "rlvr", "rlaif", "rlhf", "distill")
"""Methods that start from ``model.path`` and run on trl's trainers."""
REINFORCED: tuple[str, ...] = ("rlvr", "rlaif", "rlhf")
"""Methods that learn from rewards of what the model itself writes."""


class Adapter(Strict):
    """Train a small addition to frozen weights, through peft."""

    kind: Literal["lora", "qlora", "dora"] = "lora"
    """``lora``: low-rank matrices beside the frozen weights; ``qlora``: the same, frozen weights in 4 bits (needs
    bitsandbytes and a GPU); ``dora``: direction by LoRA, length by a vector of its own."""
    rank: int = Field(default=16, ge=1, le=4096)
    """Inner size of the matrices."""
    alpha: float = Field(default=32.0, gt=0)
    """The addition is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the adapter's input that is dropped while training."""
    target_modules: Literal["all-linear"] | list[str] = "all-linear"
    """Layers that get one: every linear layer but the output, or names such as ``[q_proj, v_proj]``."""
    merge: bool = False
    """Add the adapter to the weights at the end, so that ``model/`` is a whole model; else it holds the adapter."""


class Chat(Strict):
    """How conversations become tokens."""

    template: str | None = None
    """A jinja file with a chat template (relative to the recipe); default: the tokenizer's own."""
    loss_on: Literal["completion", "all"] = "completion"
    """Tokens that are learned: what the assistant says, or everything."""
    packing: bool = False
    """Fill each sequence with several examples, so that no time goes into padding."""


class Preference(Strict):
    """How pairs of a better and a worse answer are learned (``dpo``)."""

    loss: Literal[
        "sigmoid", "ipo", "hinge", "robust", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
        "apo_zero", "apo_down", "discopop", "sigmoid_norm",
    ] = "sigmoid"
    """trl's name of the loss; ``sigmoid`` is that of the DPO paper (Rafailov et al. 2023)."""
    beta: float = Field(default=0.1, ge=0)
    """How closely the model is held to the one it starts from."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of pairs that are taken to be the wrong way round."""


class Generation(Strict):
    """How answers are written that are then rewarded."""

    algorithm: Literal["grpo", "dr_grpo", "dapo", "rloo"] = "grpo"
    """How rewards become gradients: GRPO (Shao et al. 2024), its variants without length or difficulty bias, or RLOO."""
    completions_per_prompt: int = Field(default=8, ge=2, le=4096)
    """Answers that are compared with one another."""
    max_new_tokens: int = Field(default=256, ge=1, le=2**20)
    """Longest answer, in tokens."""
    temperature: float = Field(default=1.0, gt=0, le=10)
    """Above 1 flattens the choice of the next token, below 1 sharpens it."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Choose from the most likely tokens that make up this share."""
    updates_per_generation: int = Field(default=1, ge=1, le=1024)
    """Optimizer steps on each set of answers."""
    beta: float = Field(default=0.0, ge=0)
    """Weight of the distance to the model it starts from; 0 keeps no copy of that model."""
    engine: Literal["auto", "transformers", "vllm"] = "auto"
    """``auto``: vLLM where it is installed and there is a GPU, else transformers."""
    placement: Literal["colocated", "separate"] = "colocated"
    """``colocated``: on the training GPUs; ``separate``: by a vLLM server on another node, which hpctrain starts
    (``server_gpus``) or which is there already (``server``)."""
    server_gpus: int | None = Field(default=None, ge=1, le=64)
    """For ``separate``: start the server beside this run, as a run of its own on so many GPUs of one node; it begins before
    this run does and ends with it."""
    server_command: list[str] | None = Field(default=None, min_length=1)
    """For ``server_gpus``: program and first arguments of the server, before those of ``trl vllm-serve`` (``--model``,
    ``--tensor-parallel-size``, ``--max-model-len``, ``--host``, ``--port``); default: trl's of this installation."""
    server: str | None = None
    """For ``separate``: where ``trl vllm-serve`` answers, such as ``http://gpu017:8000``."""
    gpu_memory_share: float = Field(default=0.3, gt=0, lt=1)
    """For colocated vLLM: share of a GPU's memory that it may take."""


class Reward(Strict):
    """One judgement of an answer; a run adds up all of its rewards, each times its weight."""

    kind: Literal["exact_match", "math", "code", "json_schema", "regex", "length", "function", "judge", "model"]
    """``exact_match``: equals the row's answer; ``math``: an expression of the same value; ``code``: passes the row's tests,
    in a process with limits; ``json_schema``: JSON that fits ``json_schema``; ``regex``: ``pattern`` is found; ``length``:
    between ``min_tokens`` and ``max_tokens``, and less the further away; ``function``: your own ``module:function``;
    ``judge``: a judge model's mark; ``model``: a reward model's score."""
    name: str = ""
    """In metrics; default: the kind, with a number where it is there twice."""
    weight: float = 1.0
    """Its share of the sum."""
    field: str = "answer"
    """For exact_match, math and code: the row's key with the right answer, or with the tests."""
    extract: str | None = None
    """A regular expression whose first group is the answer in the text; default: for math the last number or boxed
    expression, for code and json_schema the last fenced block, else the whole text without blanks around it."""
    pattern: str | None = None
    """For ``regex``."""
    json_schema: dict[str, Any] | None = None
    """For ``json_schema``."""
    min_tokens: int = Field(default=0, ge=0)
    """For ``length``."""
    max_tokens: int | None = Field(default=None, ge=1)
    """For ``length``."""
    function: str | None = None
    """For ``function``: ``module:function`` or ``file.py:function`` (relative to the recipe)."""
    path: str | None = None
    """For ``model``: directory of a reward model, as a ``reward`` run leaves it, or ``run:NAME``."""
    timeout_s: float = Field(default=5.0, gt=0, le=3600)
    """For code and function: longest time for one answer, or one batch of them; after that it counts 0."""
    memory: MemorySize = 512 * 2**20
    """For ``code``: memory of the process that runs it."""


class Endpoint(Strict):
    """A model behind an OpenAI-compatible HTTP interface."""

    url: str
    """Such as ``http://127.0.0.1:8000/v1``."""
    model: str
    """Its name there."""
    api_key_env: EnvName | None = None
    """Name of the environment variable with the key. Never the key itself."""
    timeout_s: float = Field(default=60.0, gt=0, le=3600)
    """Longest wait for one answer."""
    retries: int = Field(default=4, ge=0, le=100)
    """Further tries after an error or a timeout, each after twice the wait; then the run stops cleanly."""
    concurrency: int = Field(default=8, ge=1, le=1024)
    """Requests at once, over all ranks of a node."""
    temperature: float = Field(default=0.0, ge=0, le=10)
    """0: the most likely answer, the same each time."""
    max_new_tokens: int = Field(default=512, ge=1, le=2**20)
    """Longest answer, in tokens."""
    check: Literal["submit", "start"] = "submit"
    """When it is first asked one question: ``submit``: by the program that submits, and again before training;
    ``start``: only before training, for addresses that the login node cannot reach."""


class Judge(Endpoint):
    """A model that marks answers (``rlaif``, and ``evaluate`` with a judge)."""

    rubric: str = "Is the answer correct, helpful and clear?"
    """What is marked, in words."""
    scale: int = Field(default=10, ge=1, le=100)
    """Marks go from 0 to this; rewards are marks divided by it."""


class Teacher(Strict):
    """Whose answers are learned (``distill``). Exactly one of ``endpoint`` and ``path``."""

    endpoint: Endpoint | None = None
    """The teacher answers the prompts once, before training; the answers are kept and learned as in ``sft``."""
    path: str | None = None
    """Directory of a local teacher with the same vocabulary, or ``run:NAME``: its probabilities are learned, not only its
    words."""
    temperature: float = Field(default=1.0, gt=0, le=10)
    """Softens both distributions."""
    on_policy_share: float = Field(default=0.0, ge=0, le=1)
    """Share of batches that the student writes itself (generalised knowledge distillation, Agarwal et al. 2024)."""


class Suite(Strict):
    """One evaluation, as ``hpctrain evaluate --suite`` takes it too."""

    kind: Literal["perplexity", "accuracy", "preference", "reward", "harness", "judge", "function"]
    """``perplexity``: of held-out text or answers; ``accuracy``: right answers on a set; ``preference``: pairs put in
    the right order; ``reward``: the run's rewards on held-out prompts; ``harness``: tasks of lm-evaluation-harness;
    ``judge``: marks against a rubric, or pairwise against the base model; ``function``: your own
    ``module:function``."""
    name: str = ""
    """In tables; default: the kind."""
    paths: list[str] = []  # noqa: RUF012 - pydantic makes each instance a copy
    """Files of the set, as ``data.paths``; default: the run's own held-out rows."""
    tasks: list[str] = []  # noqa: RUF012 - pydantic makes each instance a copy
    """For ``harness``."""
    function: str | None = None
    """For ``function``."""
    match: Literal["auto", "exact", "contains", "number"] = "auto"
    """For ``accuracy``: ``exact``: the same words; ``contains``: the right answer is found in what was written; ``number``:
    the last number written has its value; ``auto``: ``number`` where the right answer is a number, else ``exact``."""
    pairwise: bool = False
    """For ``judge``: compare with the base model's answer instead of marking."""
    limit: int | None = Field(default=None, ge=1)
    """Rows at most."""
    max_new_tokens: int = Field(default=128, ge=1, le=2**20)
    """Longest answer that is asked for."""
    samples: int = Field(default=1, ge=1, le=1024)
    """For ``accuracy`` and ``reward``: answers to each row. 1: the most likely one; more: so many are drawn, and their mean
    counts (avg@k)."""
    temperature: float = Field(default=1.0, gt=0, le=10)
    """Of answers that are drawn, as in ``generation``."""


class Evaluate(Strict):
    """Evaluation at the end of the run, of the model before and after."""

    suites: list[Suite] = Field(min_length=1)
    """What is measured."""
    before: bool = True
    """Measure the model that training started from too, for the table of before and after."""
    spread: bool | None = None
    """Hold one copy of the model on the GPUs of a node (or of all nodes, where it takes those), each rank a share of every
    layer; default: only where one GPU is too small for it."""
