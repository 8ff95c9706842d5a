"""One model on several ranks, measured: the numbers are those of ranks that each hold all of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks.catalogue_toys import kinds, make_base
from hpctrain.evaluate.run import MOST_TRIES
from hpctrain.watchdog.budget import BudgetLimits
from tests.train.ranks import WarmRanks, event_kinds, logs, make_recipe
from tests.unit.evaluate import tiny
from tests.unit.evaluate.test_suites import HARNESS_TASK

MEASURE, BROKEN = "tests.train.test_spread:measure", "tests.train.test_spread:measure_with_full_memory"
ROWS = 7
"""No multiple of the ranks: some have one more than others."""


def measure(args: list[str]) -> int:
    """One rank: measure, spread and not, and write what came of it; the suites and subjects are in TEST_ORDER."""
    del args
    import torch.distributed as dist

    dist.init_process_group("gloo")
    from hpctrain.checkpoint.ranks import Ranks
    from hpctrain.evaluate.language_model import Place
    from hpctrain.evaluate.run import Helpers, Order, Subject, evaluate
    from hpctrain.recipe.schema_method import Suite

    asked, ranks = json.loads(os.environ["TEST_ORDER"]), Ranks()
    suites = tuple(Suite.model_validate(one) for one in asked["suites"])
    subjects = tuple(Subject(f"m{number}", path) for number, path in enumerate(asked["models"]))
    for name, spread in (("whole", False), ("spread", True)):
        place = Place(device="cpu", batch_size=2, spread=spread, local_world_size=asked["local"])
        folder = Path(os.environ["HPCTRAIN_RUN_DIR"]) / name
        folder.mkdir(exist_ok=True)
        assert evaluate(Order("t", subjects, suites, place, folder=folder), Helpers(ranks)) is not None
    return 0


def share_of(model: Any, rows: Any) -> float:
    """A metric: the share of all parameters that this rank holds."""
    del rows
    mine = [getattr(one, "to_local", lambda one=one: one)() for one in model.model.parameters()]
    return float(sum(one.numel() for one in mine) / model.parameters)


def measure_with_full_memory(args: list[str]) -> int:
    """The trainer; on rank 1 the memory is full in the middle of a forward pass of what is measured."""
    if os.environ["RANK"] == "1":
        from hpctrain.evaluate import hugging_face, loading

        load = hugging_face.load_sharded

        def load_with_little_memory(*where: Any, **how: Any) -> Any:
            import torch

            model, parameters = load(*where, **how)

            def full(_: Any, inputs: Any) -> None:
                if inputs[0].shape[1] > 1:  # not when it is tried with a single token
                    raise torch.OutOfMemoryError("CUDA out of memory")

            model.lm_head.register_forward_pre_hook(full)
            return model, parameters

        vars(loading)["load_sharded"] = load_with_little_memory
    from hpctrain.train.__main__ import main

    return main(args)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Rows that every kind of suite can use."""
    file = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"{'word ' * number}{number} + 1 =", "answer": str(number + 1), "completion": f" {number + 1}",
             "chosen": f" {number + 1}", "rejected": " none at all"} for number in range(ROWS)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def _found(folder: Path) -> list[Any]:
    values = json.loads((folder / "evaluation.json").read_text())
    keys = ("name", "problem", "measures", "samples")
    return [[model["parameters"], [[one[key] for key in keys] for one in model["suites"]]] for model in values["models"]]


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "local"), [(3, 3), (4, 2)])
def test_numbers_are_those_of_whole_models(
    trainers: WarmRanks, tmp_path: Path, texts: Path, ranks: int, local: int,
) -> None:
    """Likelihoods, answers, pairs and a metric of one's own are the same to the last bit, with uneven rows."""
    paths = [str(texts)]
    suites = [{"kind": "perplexity", "paths": paths}, {"kind": "accuracy", "paths": paths, "max_new_tokens": 9},
              {"kind": "accuracy", "name": "drawn", "paths": paths, "max_new_tokens": 5, "samples": 2},
              {"kind": "preference", "paths": paths}]
    models = [str(tiny.causal(tmp_path / "a")), str(tiny.causal(tmp_path / "b", seed=3))]
    order = json.dumps({"suites": suites, "models": models, "local": local})
    run = tmp_path / "run"

    assert [0] * ranks == trainers.finish(run, {}, ranks, target=MEASURE, TEST_ORDER=order), logs(run)

    assert _found(run / "whole") == _found(run / "spread")
    assert [] == [problem for _, found in _found(run / "spread") for _, problem, _, _ in found if problem]


@pytest.mark.slow
def test_every_architecture_of_the_catalogue(trainers: WarmRanks, tmp_path: Path, texts: Path) -> None:
    """Experts, tied embeddings, latent attention: each is spread, and finds what the whole model finds."""
    paths, models = [str(texts)], {kind: tmp_path / kind for kind in kinds()}
    suites = [{"kind": "perplexity", "paths": paths}, {"kind": "accuracy", "paths": paths, "max_new_tokens": 4}]
    for kind, folder in models.items():
        make_base(kind, folder)
    order, run = json.dumps({"suites": suites, "models": list(map(str, models.values())), "local": 2}), tmp_path / "run"

    assert [0, 0] == trainers.finish(run, {}, 2, target=MEASURE, TEST_ORDER=order), logs(run)

    for kind, whole, spread in zip(models, _found(run / "whole"), _found(run / "spread"), strict=True):
        assert whole == spread, kind
        assert [] == [problem for _, problem, _, _ in spread[1] if problem], kind


@pytest.mark.slow
def test_a_rank_holds_a_share_only(trainers: WarmRanks, tmp_path: Path, texts: Path) -> None:
    """Each of two ranks holds half of a model that marks, and of one with tied embeddings and an adapter merged into it."""
    suites = [{"kind": "function", "function": f"{Path(__file__)}:share_of", "paths": [str(texts)]},
              {"kind": "preference", "paths": [str(texts)]}]
    models = [str(tiny.reward(tmp_path / "marks")), str(_adapter(tmp_path))]
    order = json.dumps({"suites": suites, "models": models, "local": 2})
    run = tmp_path / "run"

    assert [0, 0] == trainers.finish(run, {}, 2, target=MEASURE, TEST_ORDER=order), logs(run)

    for (size, whole), (same_size, spread) in zip(_found(run / "whole"), _found(run / "spread"), strict=True):
        assert size == same_size
        assert 1.0 == whole[0][2][0]["value"]
        # A little more than half of what is tied: its embeddings are then there twice.
        assert 0.5 == pytest.approx(spread[0][2][0]["value"], abs=0.1), spread[0]
        assert not spread[1][1], spread[1]
        assert whole[1][2][0]["value"] == spread[1][2][0]["value"]


def _adapter(tmp_path: Path) -> Path:
    """An adapter that does something, for a model whose embeddings are tied."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    base, folder = tmp_path / "tied", tmp_path / "adapter"
    torch.manual_seed(5)
    LlamaForCausalLM(tiny.config(tie_word_embeddings=True, initializer_range=0.3)).save_pretrained(base)
    tiny.tokenizer().save_pretrained(base)
    tuned: Any = get_peft_model(LlamaForCausalLM.from_pretrained(base), LoraConfig(target_modules=["q_proj", "down_proj"]))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    tuned.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_an_architecture_that_cannot_be_spread(trainers: WarmRanks, tmp_path: Path, texts: Path) -> None:
    """It is one error of its suites, with its reason, and no rank ends by it."""
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=tiny.VOCABULARY, hidden_size=16, num_hidden_layers=1, state_size=4)
    MambaForCausalLM(config).save_pretrained(tmp_path / "mamba")
    tiny.tokenizer().save_pretrained(tmp_path / "mamba")
    suites = [{"kind": "perplexity", "paths": [str(texts)]}]
    order, run = json.dumps({"suites": suites, "models": [str(tmp_path / "mamba")], "local": 2}), tmp_path / "run"

    assert [0, 0] == trainers.finish(run, {}, 2, target=MEASURE, TEST_ORDER=order), logs(run)

    assert "" == _found(run / "whole")[0][1][0][1]
    assert "this architecture cannot be spread over ranks" in _found(run / "spread")[0][1][0][1]


@pytest.mark.slow
def test_the_harness_asks_a_spread_model(trainers: WarmRanks, tmp_path: Path) -> None:
    """A task of lm-evaluation-harness runs on the first rank while the others compute along."""
    task, data = tmp_path / "sums.yaml", tmp_path / "sums.jsonl"
    sums = [{"question": f"{number}+1=", "choices": ["a", "bbbbbbbb"], "label": number % 2} for number in range(4)]
    data.write_text("".join(json.dumps(row) + "\n" for row in sums))
    task.write_text(HARNESS_TASK.format(data=data))
    models = [str(tiny.causal(tmp_path / "uniform", uniform=True))]
    order = json.dumps({"suites": [{"kind": "harness", "tasks": [str(task)]}], "models": models, "local": 2})
    run, env = tmp_path / "run", {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}

    assert [0, 0] == trainers.finish(run, {}, 2, target=MEASURE, TEST_ORDER=order, **env), logs(run)

    assert _found(run / "whole") == _found(run / "spread")
    assert [0.5] == [measure["value"] for measure in _found(run / "spread")[0][1][0][2][:1]]


@pytest.mark.slow
def test_a_run_measures_its_sharded_model(trainers: WarmRanks, tmp_path: Path) -> None:
    """A recipe with ``spread: true`` measures at its end on the ranks that trained, and finds what whole models find."""
    found = {}
    for spread in (False, True):
        run = tmp_path / f"spread-{spread}"
        evaluate = {"suites": [{"kind": "perplexity"}], "spread": spread}
        recipe = make_recipe(evaluate=evaluate, data__validation_fraction=0.01, training__steps=4,
                             training__parallelism={"kind": "fsdp2"})
        assert [0, 0] == trainers.finish(run, recipe, 2), logs(run)
        found[spread] = _found(run)

    assert found[False] == found[True]


@pytest.mark.slow
def test_memory_that_is_full_in_the_middle_of_a_pass(trainers: WarmRanks, tmp_path: Path) -> None:
    """The ranks end instead of waiting for each other, and after two such starts the run is done without the suite: before
    its recovery gives up for having seen the same failure too often.
    """
    assert MOST_TRIES < BudgetLimits().max_same_failure
    assert MOST_TRIES <= BudgetLimits().max_restarts_without_progress
    run, evaluate = tmp_path / "run", {"suites": [{"kind": "perplexity"}], "spread": True}
    recipe = make_recipe(evaluate=evaluate, data__validation_fraction=0.01, training__steps=2)
    for _ in range(MOST_TRIES):
        start = trainers.start(run, recipe, 2, target=BROKEN)
        codes = start.wait()
        assert codes[1] not in (0, 75), logs(run)

    assert [0, 0] == trainers.finish(run, recipe, 2, target=BROKEN), logs(run)

    ((_, ((_, problem, _, _),)),) = _found(run)
    assert f"its ranks ended {MOST_TRIES} times" in problem
    assert "evaluation.failed" in event_kinds(run)
    assert (run / "model/model.safetensors").is_file()
