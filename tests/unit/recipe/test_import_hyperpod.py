"""HyperPod's recipes become ours, and every key that is not carried over is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hpctrain.cli.main import invoke
from hpctrain.errors import RecipeError
from hpctrain.recipe.check import check
from hpctrain.recipe.import_hyperpod import Imported, import_recipe
from hpctrain.recipe.node import Node, to_plain, walk
from hpctrain.recipe.parse import parse_document
from hpctrain.recipe.schema import Recipe

LLMFT = """\
display_name: Some model, answers
version: 2.2.4
instance_types: [ml.p5.48xlarge]
run:
  name: some model
  model_type: llm_finetuning_aws
  results_dir: ${base_results_dir}/${.name}
  hf_access_token: null
trainer: {devices: 8, num_nodes: 2}
training_config:
  mlflow: {tracking_uri: ""}
  model_config:
    model_name_or_path: meta-llama/Llama-3.1-8B-Instruct
    attn_implementation: sdpa
    chat_template_key: llama
    peft_config: {peft_type: lora, target_modules: all-linear, r: 8, lora_alpha: 16, lora_dropout: 0.05, bias: none}
  datasets:
    train_data: {name: "", file_path: /data/chats.jsonl, limit: null}
    train_val_split_ratio: 0.9
    preprocessor_cfgs:
    - type: TrainingSFTSampleConverter
  training_args:
    trainer_type: sft
    seed: 7
    learning_rate: 0.0001
    lr_warmup_ratio: 0.1
    adam_betas: [0.9, 0.95]
    lr_scheduler: cosine
    gradient_clipping: true
    gradient_clipping_threshold: 0.5
    gradient_checkpointing: true
    micro_train_batch_size: 2
    train_batch_size: 40
    eval_steps: 0
    save_steps: 0
    max_epochs: 5
    max_len: 4096
    max_ckpt_num: 3
    use_tensorboard: logs
    use_wandb: null
    merge_weights: true
    packing_samples: true
    strategy:
      fsdp_config: {sharding_strategy: HYBRID_SHARD, sync_module_states: true}
elastic_policy: {is_elastic: true, min_nodes: 1}
"""
VERL = """\
display_name: Some model GRPO RLVR
run: {model_type: verl, name: verl-grpo}
trainer: {devices: 8, num_nodes: 1}
training_config:
  actor_rollout_ref:
    actor:
      grad_clip: 1.0
      use_kl_loss: true
      kl_loss_coef: 0.001
      optim: {lr: 1.0e-05, weight_decay: 0.01, warmup_style: constant, lr_warmup_steps: -1}
      ppo_epochs: 1
      ppo_micro_batch_size_per_gpu: 2
      strategy: fsdp2
    model: {path: Qwen/Qwen3-8B, lora_rank: 32, lora_alpha: 64, target_modules: all-linear,
            enable_gradient_checkpointing: true}
    rollout: {n: 8, name: vllm, response_length: 1024, temperature: 1.0, top_p: 1, gpu_memory_utilization: 0.6, top_k: -1}
  algorithm: {adv_estimator: grpo, gamma: 1.0}
  critic: {cliprange_value: 0.5}
  custom_reward_function: {path: /code/marks.py, name: marks, lambda_arn: ""}
  data: {max_prompt_length: 512, max_response_length: 1024, train_batch_size: 128, train_files: [/data/p.parquet],
         shuffle: false}
  trainer: {nnodes: 1, n_gpus_per_node: 8, save_freq: 20, test_freq: 5, total_epochs: 2, merge_lora_on_final_save: true}
"""


def imported(text: str) -> tuple[Imported, Recipe]:
    """The import, and the recipe as our schema reads it back from the text."""
    found = import_recipe(text, "theirs.yaml")
    return found, Recipe.model_validate(to_plain(parse_document(found.text, "ours.yaml")))


def changed(text: str, old: str, new: str) -> str:
    """The text with one thing replaced, which must be there."""
    assert old in text
    return text.replace(old, new)


def test_fine_tuning_is_carried_over() -> None:
    """Model, adapter, data, numbers and layout of a fine-tuning recipe stand in ours."""
    found, recipe = imported(LLMFT)

    assert (recipe.method, recipe.name) == ("sft", "some-model")
    assert recipe.model is not None and recipe.model.path == "meta-llama/Llama-3.1-8B-Instruct"
    assert recipe.adapter is not None and recipe.adapter.merge
    assert (recipe.adapter.rank, recipe.adapter.alpha) == (8, 16.0)
    assert recipe.data is not None and recipe.data.paths == ["/data/chats.jsonl"]
    assert (recipe.data.sequence_length, recipe.data.validation_fraction) == (4096, 0.1)
    training = recipe.training
    assert (training.epochs, training.seed, training.clip_grad_norm) == (5, 7, 0.5)
    assert (training.optimizer.learning_rate, training.optimizer.betas) == (1e-4, (0.9, 0.95))
    assert (training.parallelism.kind, training.activation_checkpointing) == ("fsdp2", True)
    assert any("fsdp2, not hsdp" in note for note in found.notes)
    assert (recipe.resources.nodes, recipe.resources.gpus_per_node, recipe.checkpoint.keep_last) == (2, 8, 3)
    assert recipe.chat.packing and recipe.tracking.tensorboard
    assert training.global_batch_size == 64 and any("40 do not divide by 32" in note for note in found.notes)


def test_every_key_is_accounted_for() -> None:
    """Each value of theirs that says something is either carried over or listed with its line and a reason, never both."""
    for text in (LLMFT, VERL):
        found = import_recipe(text, "theirs.yaml")
        left = {item.key: item for item in found.left_out}
        assert not set(left) & set(found.carried)
        for path, node in walk(parse_document(text, "theirs.yaml")):
            key = ".".join(str(part) for part in path if isinstance(part, str))
            if isinstance(node.value, dict) or node.value in (None, "", []) or _inside_list(path, node):
                continue
            assert any(key == other or other.startswith(f"{key}[") or key.startswith(f"{other}.")
                       for other in [*left, *found.carried]), key
        assert all(item.reason and item.where.startswith("theirs.yaml:") for item in found.left_out)


def _inside_list(path: tuple[Any, ...], node: Node) -> bool:
    return any(isinstance(part, int) for part in path) or isinstance(node.value, list)


def test_reasons_say_why() -> None:
    """What most people would look for has a reason of its own."""
    left = {item.key: item.reason for item in import_recipe(LLMFT, "theirs.yaml").left_out}

    assert "saves by itself" in left["training_config.training_args.save_steps"]
    assert "warmup_steps" in left["training_config.training_args.lr_warmup_ratio"]
    assert "their launcher" in left["run.results_dir"] or "root" in left["run.results_dir"]
    assert "number of nodes" in left["elastic_policy.is_elastic"]


def test_preferences_are_carried_over() -> None:
    """A DPO recipe brings its loss and beta; a loss that trl does not have is left out."""
    text = changed(LLMFT, "trainer_type: sft", "trainer_type: dpo\n    beta: 0.01\n    loss_type: sigmoid")
    recipe = imported(text)[1]
    assert (recipe.method, recipe.preference.beta, recipe.preference.loss) == ("dpo", 0.01, "sigmoid")

    found, recipe = imported(changed(text, "loss_type: sigmoid", "loss_type: secret"))
    assert recipe.preference.loss == "sigmoid"
    assert "trl has no loss" in {item.key: item.reason for item in found.left_out}["training_config.training_args.loss_type"]


@pytest.mark.parametrize(("old", "new", "kind"), [
    ("peft_type: lora", "peft_type: qlora_4bit", "qlora"), ("bias: none", "bias: none, use_dora: true", "dora"),
    ("peft_type: lora", "peft_type: null", ""), ("peft_type: lora", "peft_type: prefix", ""),
])
def test_adapters_are_told_apart(old: str, new: str, kind: str) -> None:
    """Four-bit and DoRA adapters are known, none is none, and a kind that we lack is listed."""
    found, recipe = imported(changed(LLMFT, old, new))

    assert (recipe.adapter.kind if recipe.adapter else "") == kind
    left = {item.key for item in found.left_out}
    assert ("training_config.model_config.peft_config.peft_type" in left) == (new == "peft_type: prefix")


def test_reinforcement_is_carried_over() -> None:
    """A GRPO recipe of VERL brings rollout, rewards and batch, counted in answers."""
    found, recipe = imported(VERL)

    assert (recipe.method, recipe.generation.completions_per_prompt, recipe.generation.max_new_tokens) == ("rlvr", 8, 1024)
    assert (recipe.generation.engine, recipe.generation.beta) == ("auto", 0.001)
    rollout = "training_config.actor_rollout_ref.rollout.name"
    assert "vLLM takes its weights" in {item.key: item.reason for item in found.left_out}[rollout]
    assert recipe.training.global_batch_size == 1024 and any("128 prompts x 8" in note for note in found.notes)
    assert recipe.data is not None and recipe.data.sequence_length == 1536
    assert [reward.function for reward in recipe.rewards] == ["/code/marks.py:marks"]
    assert recipe.checkpoint.every_steps == 20
    assert "no critic" in {item.key: item.reason for item in found.left_out}["training_config.critic.cliprange_value"]


def test_vllm_is_carried_over_where_ranks_are_whole() -> None:
    """Without a sharding strategy vLLM writes the answers, with the memory that it had."""
    _, recipe = imported(changed(VERL, "strategy: fsdp2", "strategy: null"))

    assert (recipe.generation.engine, recipe.generation.gpu_memory_share) == ("vllm", 0.6)
    assert [] == check(recipe)


@pytest.mark.parametrize(("text", "old", "new"), [
    (LLMFT, "seed: 7", "seed: 8"), (LLMFT, "bias: none", "bias: none, use_dora: true"),
    (LLMFT, "peft_type: lora", "peft_type: qlora_4bit"), (LLMFT, "peft_type: lora", "peft_type: null"),
    (LLMFT, "eval_steps: 0", "eval_steps: 10"), (LLMFT, "train_val_split_ratio: 0.9", "limit: 1"),
    (VERL, "n: 8", "n: 4"), (VERL, "RLVR", "RLAIF"), (VERL, "strategy: fsdp2", "strategy: megatron"),
])
def test_what_was_imported_is_accepted(text: str, old: str, new: str) -> None:
    """Sections that are refused together are not written together, whatever their recipe says."""
    found, recipe = imported(changed(text, old, new))

    assert [] == check(recipe)
    assert "training_config.trainer.test_freq" in {item.key for item in found.left_out} or text is LLMFT


def test_a_judge_makes_it_rlaif() -> None:
    """A recipe that is called RLAIF gets a judge, whose address is marked as the user's to set."""
    found, recipe = imported(changed(VERL, "RLVR", "RLAIF"))

    assert recipe.method == "rlaif" and recipe.judge is not None and recipe.rewards == []
    assert "# <- yours" in found.text and any(note.startswith("judge.url") for note in found.notes)


def test_what_is_the_users_is_marked() -> None:
    """Data that their recipe leaves empty, or that lies in a store, is a placeholder with a mark."""
    for old, new in (("/data/chats.jsonl", '""'), ("/data/chats.jsonl", "s3://bucket/chats.jsonl")):
        found, recipe = imported(changed(LLMFT, old, new))
        assert recipe.data is not None and recipe.data.paths == ["/path/to/your/data.jsonl"]
        assert any(note.startswith("data.paths is yours") for note in found.notes)


@pytest.mark.parametrize(("old", "new", "words"), [
    ("llm_finetuning_aws", "nova", "nova"), ("trainer_type: sft", "trainer_type: ppo", "only sft and dpo"),
    ("  model_type: llm_finetuning_aws\n", "", "no run.model_type"), ("trainer: {", "trainer: [", "YAML"),
])
def test_what_cannot_be_carried_over_is_refused(old: str, new: str, words: str) -> None:
    """Another engine, another kind of training, or no YAML is one error that says so."""
    with pytest.raises(RecipeError, match=words):
        import_recipe(changed(LLMFT, old, new), "theirs.yaml")


def test_a_leaf_is_told_to_be_composed() -> None:
    """A file that only names others says what to do."""
    with pytest.raises(RecipeError) as error:
        import_recipe("defaults: [/hydra_config/x]\ntrainer: {devices: 4}\n", "leaf.yaml")
    assert "compose it first" in error.value.advice


def test_the_command_writes_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    """The recipe goes to standard output or into a new file, what was left out to standard error; JSON holds both."""
    monkeypatch.chdir(tmp_path)
    Path("theirs.yaml").write_text(LLMFT)
    assert invoke(["import", "hyperpod", "theirs.yaml"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("# Imported from theirs.yaml") and "not carried over: theirs.yaml:" in captured.err

    assert invoke(["import", "hyperpod", "theirs.yaml", "--to", "mine.yaml", "--dry-run"]) == 0
    assert not Path("mine.yaml").exists()
    assert invoke(["import", "hyperpod", "theirs.yaml", "--to", "mine.yaml"]) == 0
    assert Path("mine.yaml").read_text() == captured.out
    assert invoke(["import", "hyperpod", "theirs.yaml", "--to", "mine.yaml"]) == 3
    capsys.readouterr()
    assert invoke(["import", "hyperpod", "theirs.yaml", "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)["import"]
    assert document["recipe"]["method"] == "sft" and document["not_carried"] and document["carried"]
    assert invoke(["import", "hyperpod", "none.yaml"]) == 4


@pytest.mark.parametrize(("content", "code", "words"), [
    (None, 4, "theirs.yaml: no such file"), ("", 3, "theirs.yaml: is a directory"), (" \n", 3, "the file is empty"),
    ("hello", 3, "theirs.yaml:1: a recipe is a mapping"), ("a: [1", 3, "theirs.yaml:1: not valid YAML"),
    ("a: 1", 3, "there is no run.model_type"),
])
def test_another_file_is_one_error_that_says_what_is_wanted(
    content: str | None, code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A file that is missing, a directory or no recipe of theirs is told what to give, not where our own recipes are."""
    monkeypatch.chdir(tmp_path)
    if content:
        Path("theirs.yaml").write_text(content)
    elif content is not None:
        Path("theirs.yaml").mkdir()

    assert invoke(["import", "hyperpod", "theirs.yaml"]) == code
    said = capsys.readouterr().err
    assert words in said and "composed recipe of aws/sagemaker-hyperpod-recipes" in said and "Traceback" not in said
