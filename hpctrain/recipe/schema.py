"""What a recipe may say, version 1 (pure; pydantic is the schema language).

A recipe is *data*: nothing in it is executed by a shell. Units are part of the value's meaning and are stated in
each field's description, which ``hpctrain recipes schema`` exports for editors. Combinations of fields are
checked in :mod:`hpctrain.recipe.check`, sizes in :mod:`hpctrain.recipe.memory`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from hpctrain.recipe.schema_checkpoint import Checkpoint
from hpctrain.recipe.schema_detection import Detection
from hpctrain.recipe.schema_method import (
    Adapter,
    Chat,
    Evaluate,
    Generation,
    Judge,
    Method,
    Preference,
    Reward,
    Teacher,
)
from hpctrain.recipe.schema_types import (
    Count,
    Duration,
    EnvName,
    MemorySize,
    RunName,
    SlurmExpression,
    SlurmWord,
    Strict,
    Text,
)

SCHEMA_VERSION = 1

class Model(Strict):
    """Which network is trained. Exactly one of ``config`` and ``path``."""

    config: dict[str, Any] | None = None
    """A transformers architecture, as in a ``config.json``: ``model_type`` plus its numbers. Weights start random."""
    path: str | None = None
    """A local model directory (relative to the recipe), ``run:NAME`` for what a run has left (NAME: the run's, or its
    recipe's for the newest one), or a hub id. ``pretrain`` takes its architecture, all other methods also its weights."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """transformers' ``attn_implementation``; ``auto`` lets transformers choose."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off, because that code runs with your rights."""


class Data(Strict):
    """What it is trained on. Text is tokenised once, joined with end-of-text marks, cut into blocks; the other formats are
    rows with keys of their own, described in docs/data.md.
    """

    source: Literal["files", "huggingface", "python-docs", "docstring-questions", "arithmetic"]
    """``files``: local text, jsonl or parquet; ``huggingface``: ``datasets.load_dataset``; the others are made from the
    running Python, everywhere without a download: ``python-docs``: its topics text; ``docstring-questions``: questions
    about the standard library answered by its docstrings; ``arithmetic``: sums with answers that can be verified."""
    format: Literal["auto", "text", "chat", "prompt_completion", "preference", "prompts"] = "auto"
    """What a row is: ``text``; ``chat``: ``messages``; ``prompt_completion``: ``prompt`` and ``completion``;
    ``preference``: ``prompt``, ``chosen``, ``rejected``; ``prompts``: ``prompt``, and ``answer`` where it is verified.
    ``auto``: what the method needs (for ``sft``: ``chat``, or ``prompt_completion`` where the first row has a
    completion)."""
    mode: Literal["shared", "copy", "stream"] = "shared"
    """``shared``: read where it lies; ``copy``: staged to each node's own disk before training, verified, removed by
    the epilog; ``stream``: read bit by bit while training, for sets that fit no disk."""
    copy_to: str | None = None
    """For ``copy``: a directory that means a disk of its own on every node; default: the node's temporary directory.
    What is copied is removed with the job."""
    paths: list[str] = []  # noqa: RUF012 - pydantic makes each instance a copy
    """For ``files``: files, directories or globs, relative to the recipe: ``.txt .md .jsonl .jsonl.gz .parquet``."""
    name: str | None = None
    """For ``huggingface``: local path or hub id of the data set."""
    subset: str | None = None
    """For ``huggingface``: configuration name."""
    split: str = "train"
    """For ``huggingface``: split, in datasets' slice syntax too (``train[:90%]``)."""
    text_field: str = "text"
    """Column or JSON key that holds the text."""
    rows: int | None = Field(default=None, ge=1, le=10**12)
    """Take only the first so many rows."""
    largest_number: int = Field(default=20, ge=1, le=10**9)
    """For ``arithmetic``: problems hold whole numbers up to this."""
    sequence_length: int = Field(default=1024, ge=8, le=2**27)
    """Tokens per sample."""
    validation_fraction: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the samples kept out of training, to measure loss on; taken from the end."""


class Tokenizer(Strict):
    """How text becomes numbers."""

    kind: Literal["auto", "bytes", "pretrained"] = "auto"
    """``auto``: the model's own where ``model.path`` brings one, else ``bytes``; ``bytes``: one token per UTF-8 byte plus
    end-of-text and padding (vocabulary 258); ``pretrained``: ``path``."""
    path: str | None = None
    """Local directory, ``run:NAME`` or hub id of a transformers tokenizer."""


class Parallelism(Strict):
    """How the model is spread over the ranks."""

    kind: Literal["ddp", "fsdp2", "hsdp"] = "ddp"
    """``ddp``: a full copy per rank; ``fsdp2``: parameters, gradients and optimizer sharded over all ranks;
    ``hsdp``: sharded inside groups of ``shard_size`` ranks, copied between groups."""
    shard_size: int | None = Field(default=None, ge=2, le=10**6)
    """For ``hsdp``: ranks per shard group; default: the ranks of one node."""


class Optimizer(Strict):
    """The optimizer and its numbers."""

    kind: Literal["adamw", "sgd"] = "adamw"
    """``adamw``: two float32 numbers of state per parameter; ``sgd``: one with momentum, none without."""
    learning_rate: float = Field(default=3e-4, gt=0)
    """Peak learning rate, after warm-up."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Share of each weight taken away per step, times the learning rate; not for norms and biases."""
    betas: Annotated[
        tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]], Field(strict=False)
    ] = (0.9, 0.95)
    """AdamW's two decay rates."""
    epsilon: float = Field(default=1e-8, gt=0)
    """AdamW's guard against division by zero."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """For ``sgd``."""


class LearningRateSchedule(Strict):
    """How the learning rate moves."""

    kind: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the way from the peak, after warm-up, to ``minimum_ratio`` of it at the last step."""
    warmup_steps: int = Field(default=0, ge=0, le=10**12)
    """Steps of linear rise from 0."""
    minimum_ratio: float = Field(default=0.1, ge=0, le=1)
    """Final learning rate as a share of the peak."""


class Training(Strict):
    """The training loop. Exactly one of ``steps``, ``tokens``, ``epochs``."""

    global_batch_size: int = Field(default=32, ge=1, le=10**9)
    """Samples per optimizer step over all ranks. Must divide by micro_batch_size x ranks."""
    micro_batch_size: int = Field(default=1, ge=1, le=10**9)
    """Samples per forward pass of one rank; the rest is gradient accumulation."""
    steps: Annotated[Count, Field(le=10**12)] | None = None
    """Optimizer steps."""
    tokens: Count | None = None
    """Train on about this many tokens (rounded up to whole steps)."""
    epochs: float | None = Field(default=None, gt=0, le=10**6)
    """Passes over the data (rounded down to whole steps)."""
    optimizer: Optimizer = Optimizer()
    schedule: LearningRateSchedule = LearningRateSchedule()
    clip_grad_norm: float = Field(default=1.0, ge=0)
    """Largest norm of the whole gradient; 0 switches clipping off."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """``bf16``: bfloat16 compute, float32 master weights and optimizer."""
    seed: int = Field(default=42, ge=0, lt=2**63)
    """Start of all random numbers: weights, data order, dropout."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""
    compile: bool = False
    """torch.compile the model."""
    parallelism: Parallelism = Parallelism()
    log_every_steps: int = Field(default=1, ge=1, le=10**12)
    """Steps between log lines; metrics.jsonl gets every step."""
    evaluate_every_steps: int = Field(default=0, ge=0, le=10**12)
    """Steps between validation losses; 0 measures only at the end. Needs data.validation_fraction."""
    deterministic: bool = True
    """Refuse kernels whose result depends on timing, so that a resumed run ends byte-equal."""


class Resources(Strict):
    """What Slurm is asked for."""

    nodes: int = Field(default=1, ge=1, le=10**5)
    """Nodes that train."""
    spares: int = Field(default=0, ge=0, le=10**5)
    """Nodes allocated beside them to take a dead one's place."""
    gpus_per_node: int = Field(default=0, ge=0, le=1024)
    """0 trains on CPUs."""
    gpu_type: SlurmWord | None = None
    """Slurm's GPU type, as in gpu:TYPE:N."""
    gpu_memory: MemorySize | None = None
    """Memory of one GPU; default: looked up from gpu_type. Used by the size check only."""
    ranks_per_node: int | None = Field(default=None, ge=1, le=4096)
    """Training processes per node; default: one per GPU, or one on CPU nodes."""
    cpus_per_node: int | None = Field(default=None, ge=1, le=10**5)
    """CPUs of each node for the job; default: the site's default, or the whole node with ``exclusive``."""
    memory_per_node: MemorySize | None = None
    """Host memory of each node; default: Slurm's default, or all of it with ``exclusive``."""
    time_limit: Duration | None = None
    """Longest run time of one start; the job continues in the next one. Default: the partition's."""
    partition: SlurmWord | None = None
    """Slurm partition; default: the cluster's."""
    account: SlurmWord | None = None
    """Slurm account the time is charged to; default: yours."""
    qos: SlurmWord | None = None
    """Slurm quality of service."""
    reservation: SlurmWord | None = None
    """Slurm reservation to run in."""
    constraint: SlurmExpression | None = None
    """Node features asked for, in Slurm's own syntax: ``ib&h100``."""
    exclusive: bool = False
    """Whole nodes, shared with nobody."""
    container: str | None = None
    """Image for the ranks: a pyxis name or .sqsh file, or a .sif file for apptainer."""
    container_runtime: Literal["pyxis", "apptainer"] | None = None
    """Default: apptainer for .sif, else pyxis."""
    container_mounts: list[str] = []  # noqa: RUF012 - pydantic makes each instance a copy
    """``/host/path[:/container/path[:ro]]``; the run directory is always mounted."""
    interface: SlurmWord | None = None
    """Network interface of the rendezvous and collectives (GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME), such as ``ib0``."""


class Resilience(Strict):
    """What happens when something goes wrong."""

    requeue: bool = True
    """Let the job be queued again: at the time limit, on preemption, after a node failure or a crash."""
    in_place: bool = True
    """Mend failures within the allocation where that is possible: ranks are started again on the same nodes from memory,
    or with a spare in a lost node's place. Off: every failure is one for the queue."""
    agent_silence: Duration = 8
    """A node whose agent has said nothing for so long counts as lost."""
    max_restarts: int = Field(default=20, ge=0, le=10**6)
    """Starts after failures, over the life of the job. Time-limit continuations and preemptions do not count."""
    max_restarts_without_progress: int = Field(default=2, ge=0, le=10**6)
    """Failures in a row without one new completed step; then the job stops with the cause."""
    restarts_per_window: int = Field(default=10, ge=1, le=10**6)
    """Starts after failures within ``restart_window``; then the job stops with the cause."""
    restart_window: Duration = 3600
    """Time in which ``restarts_per_window`` counts."""
    max_same_failure: int = Field(default=3, ge=1, le=10**6)
    """The same failure this many times in a row with no new step between is a bug that comes again: the job stops."""
    exclude_after: int = Field(default=2, ge=1, le=10**6)
    """Faults blamed on one node within ``exclude_window`` after which the job is kept from it, if nodes enough are left."""
    exclude_window: Duration = 86400
    """Time in which ``exclude_after`` counts."""
    exclude_for: Duration = 86400
    """How long the job is kept from such a node."""
    stop_before_limit: Duration = 120
    """Time before the limit at which ranks are told to save and stop."""
    stop_signal: Literal["none", "SIGTERM", "SIGUSR1", "SIGINT"] = "SIGTERM"
    """For ``command``: the signal that tells a script to save and stop. Our trainer needs none."""


class Tracking(Strict):
    """Where metrics go beside metrics.jsonl."""

    tensorboard: bool = False
    """Write TensorBoard event files into the run directory's ``tensorboard/``."""
    mlflow: bool = False
    """Write the run to MLflow, from a process of its own: to ``mlflow_uri``, else to where MLFLOW_TRACKING_URI says, else to
    files in ``mlruns/`` beside the run directories. Its server may be down: training goes on, and nothing is lost."""
    mlflow_uri: str | None = None
    """MLflow's tracking server, or a directory (relative to the recipe). Its credentials come from MLflow's own environment
    variables."""
    mlflow_experiment: str = "hpctrain"
    """MLflow's experiment."""


class Recipe(Strict):
    """A training run: what, on what, how, where. Either ``method`` with its sections, or ``command``."""

    version: Literal[1]
    """Version of this schema."""
    name: RunName
    """Short name; the run's directory and job name start with it."""
    description: str = ""
    """One or two sentences for people: what this run is for."""
    method: Method | None = None
    """``pretrain``: from random weights. All others start from ``model.path``: ``cpt``: go on with text; ``sft``: learn
    answers; ``dpo``: learn preferences; ``reward``: a model that marks answers; ``rlvr``, ``rlaif``, ``rlhf``: learn
    from rewards that are verified, given by a judge model, given by a reward model; ``distill``: learn from a
    teacher."""
    model: Model | None = None
    """Needed with ``method``."""
    data: Data | None = None
    """Needed with ``method``."""
    tokenizer: Tokenizer = Tokenizer()
    training: Training = Training()
    adapter: Adapter | None = None
    """Train an adapter instead of all weights: sft, dpo, reward, distill and the rl methods."""
    chat: Chat = Chat()
    preference: Preference = Preference()
    generation: Generation = Generation()
    rewards: list[Reward] = []  # noqa: RUF012 - pydantic makes each instance a copy
    """For the rl methods; the sum of all. ``rlaif`` has a ``judge`` reward and ``rlhf`` a ``model`` reward unless
    others are given."""
    judge: Judge | None = None
    """For ``judge`` rewards and suites."""
    teacher: Teacher | None = None
    """For ``distill``."""
    evaluate: Evaluate | None = None
    """Evaluate at the end of the run."""
    command: list[Text] | None = Field(default=None, min_length=1)
    """Instead of ``method``: a program and its arguments, started once per rank as torchrun would start it.
    A first word ending in .py is run with this environment's Python."""
    workdir: str | None = None
    """Directory the ranks start in; default: the recipe's own directory."""
    resources: Resources = Resources()
    checkpoint: Checkpoint = Checkpoint()
    resilience: Resilience = Resilience()
    detection: Detection = Detection()
    tracking: Tracking = Tracking()
    env: dict[EnvName, Text] = {}  # noqa: RUF012 - pydantic makes each instance a copy
    """Environment variables of the ranks. Not for secrets: they are stored in the run directory."""
