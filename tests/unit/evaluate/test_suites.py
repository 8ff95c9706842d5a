"""Suites on models whose answers are known, and whole evaluations with a folder to go on from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from hpctrain.checkpoint.ranks import Ranks
from hpctrain.errors import EndpointError, HpctrainError, MissingDependencyError, NotFoundError, RecipeError
from hpctrain.evaluate import run as runner
from hpctrain.evaluate.language_model import LanguageModel, Place
from hpctrain.evaluate.loading import load
from hpctrain.evaluate.run import Helpers, Order, Subject, evaluate
from hpctrain.evaluate.suites import accuracy, function, harness, judge, perplexity, preference, reward
from hpctrain.evaluate.task import SetRow, Task
from hpctrain.recipe.schema_method import Judge, Suite
from hpctrain.testing.openai_scripted import SCRIPTS
from hpctrain.testing.openai_server import OpenAiServer
from tests.unit.evaluate import tiny

CPU = Place(device="cpu", batch_size=4)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model to which all tokens are alike, another one, and a reward model."""
    folder = tmp_path_factory.mktemp("models")
    tiny.causal(folder / "uniform", uniform=True)
    tiny.causal(folder / "other", seed=3)
    tiny.reward(folder / "marks")
    return folder


@pytest.fixture(scope="module")
def uniform(models: Path) -> LanguageModel:
    """To this one all 258 tokens are alike."""
    return load(str(models / "uniform"), CPU)


class Answering:
    """A model that writes what it is told to, by prompt."""

    def __init__(self, model: LanguageModel, answers: Mapping[str, str]) -> None:
        self.codec, self.directory, self.is_reward, self.window = model.codec, model.directory, False, model.window
        self._answers = answers

    def generate(self, prompts: Sequence[Any], **_options: Any) -> list[str]:
        return [self._answers[prompt] for prompt in prompts]

    def negative_log_likelihoods(self, texts: Sequence[Any], _progress: Any) -> list[float]:
        assert not texts
        return []


def _task(model: Any, suite: dict[str, Any], rows: Sequence[Mapping[str, Any]], **more: Any) -> Task:
    placed = [SetRow(number, row, f"set.jsonl:{number + 1}") for number, row in enumerate(rows)]
    return Task(Suite.model_validate(suite), model, placed, **more)


def _values(measures: Sequence[Any]) -> dict[str, float | None]:
    return {one.name: one.value for one in measures}


def test_perplexity_of_a_uniform_model(uniform: LanguageModel) -> None:
    """A model to which all tokens are alike has the vocabulary's size as its perplexity, also over several windows."""
    rows = [{"text": "short"}, {"text": "a text that is longer than the window " * 9},
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "bc"}]},
            {"prompt": "two and two", "completion": " is four"}]
    records = perplexity.measure(_task(uniform, {"kind": "perplexity"}, rows))
    found = _values(perplexity.summarise(records))

    assert 258.0 == pytest.approx(found["perplexity"], rel=1e-4)
    assert [6, 343, 3, 9] == [record["tokens"] for record in records]
    assert [5, 342, 2, 8] == [record["size_bytes"] for record in records]


class Drawing(Answering):
    """A model whose answers to a prompt take turns when they are drawn."""

    def generate(self, prompts: Sequence[Any], *, temperature: float = 0.0, **_options: Any) -> list[str]:
        assert temperature == 0.5
        return [self._answers[prompt].split("|")[place % 2] for place, prompt in enumerate(prompts)]


def test_drawn_answers_count_by_their_mean(uniform: LanguageModel) -> None:
    """Accuracy and rewards of several answers to each row are means over them, each row counting once."""
    model = Drawing(uniform, {"1+1=": "2|3", "2+2=": "4|4"})
    rows: list[dict[str, Any]] = [{"prompt": "1+1=", "answer": "2"}, {"prompt": "2+2=", "answer": "4"}]
    drawn = {"samples": 4, "temperature": 0.5}

    records = accuracy.measure(_task(model, {"kind": "accuracy", **drawn}, rows))
    assert [0.5, 1.0] == [record["right"] for record in records]
    assert {"accuracy": 0.75} == _values(accuracy.summarise(records))

    def scorer(prompts: Any, answers: Any, columns: Any, lengths: Any) -> dict[str, list[float | None]]:
        assert 8 == len(prompts) == len(columns["answer"]) == len(lengths)
        return {"right": [float(a == b) for a, b in zip(answers, columns["answer"], strict=True)], "none": [None] * 8}

    records = reward.measure(_task(model, {"kind": "reward", **drawn}, rows, scorer=scorer, weights={"right": 2.0}))
    assert [(0.5, None), (1.0, None)] == [(one["rewards"]["right"], one["rewards"]["none"]) for one in records]
    assert 1.5 == _values(reward.summarise(records))["reward"]


def test_answers_are_drawn_from_a_fixed_seed(uniform: LanguageModel) -> None:
    """Drawn answers differ among themselves, are the same again, and leave the process's random numbers alone."""
    import torch

    state = torch.get_rng_state()
    once, again = (uniform.generate(["a"] * 4, max_new_tokens=8, temperature=1.0) for _ in range(2))
    assert once == again and len(set(once)) > 1
    assert torch.equal(state, torch.get_rng_state())


def test_accuracy_of_written_answers(uniform: LanguageModel) -> None:
    """Answers are compared with the row's, by value where it is a number."""
    model = Answering(uniform, {"1+1=": "it is 2", "capital?": "Lyon", "both": "b"})
    rows: list[dict[str, Any]] = [{"prompt": "1+1=", "answer": "2"}, {"prompt": "capital?", "answer": "Paris"},
                                  {"prompt": "both", "answer": ["a", "b"]}]
    records = accuracy.measure(_task(model, {"kind": "accuracy"}, rows))

    assert [True, False, True] == [record["right"] for record in records]
    assert {"accuracy": pytest.approx(2 / 3)} == _values(accuracy.summarise(records))


def test_accuracy_of_choices(uniform: LanguageModel) -> None:
    """With choices the most likely one counts: a uniform model takes the shortest, and none of equal length per byte."""
    rows: list[dict[str, Any]] = [{"prompt": "x", "choices": ["aa", "b", "ccc"], "answer": 1},
                                  {"prompt": "y", "choices": ["a", "bbbb"], "answer": "bbbb"}]
    records = accuracy.measure(_task(uniform, {"kind": "accuracy"}, rows))

    assert ["b", "a"] == [record["answer"] for record in records]
    found = _values(accuracy.summarise(records))
    assert (0.5, 0.5) == (found["accuracy"], found["accuracy_per_byte"])


def test_preferences_of_a_uniform_model_are_a_draw(uniform: LanguageModel) -> None:
    """Answers of one length are alike to it: half of the pairs; the shorter of two is the likelier, but not per token."""
    rows = [{"prompt": "q", "chosen": "yes", "rejected": "nah"},
            {"prompt": "q", "chosen": "a longer answer", "rejected": "no"}]
    records = preference.measure(_task(uniform, {"kind": "preference"}, rows))
    found = _values(preference.summarise(records))

    assert 0.25 == found["accuracy"]
    assert found["accuracy_per_token"] == pytest.approx(0.5, abs=0.5)
    assert "moved_towards_better" not in found


def test_preferences_against_another_model(models: Path, uniform: LanguageModel) -> None:
    """Compared with a first model it is also told how often this one has moved towards the better answer."""
    rows = [{"prompt": "q", "chosen": "yes", "rejected": "nah"}, {"prompt": "q", "chosen": "nah", "rejected": "yes"}]
    before = preference.measure(_task(uniform, {"kind": "preference"}, rows))
    other = load(str(models / "other"), CPU)
    after = preference.measure(_task(other, {"kind": "preference"}, rows, first={one["row"]: one for one in before}))

    assert 0.5 == _values(preference.summarise(after))["moved_towards_better"]


def test_preferences_of_a_reward_model(models: Path) -> None:
    """A reward model orders a pair by its marks: the same pair the other way round is the other verdict."""
    rows = [{"prompt": "q", "chosen": "yes", "rejected": "no way"}, {"prompt": "q", "chosen": "no way", "rejected": "yes"}]
    records = preference.measure(_task(load(str(models / "marks"), CPU), {"kind": "preference"}, rows))

    assert [0.5, 0.0] == [pytest.approx(one.value, abs=1e-6) for one in preference.summarise(records)]


def test_rewards_are_summed_by_weight(uniform: LanguageModel) -> None:
    """The run's rewards get prompts, answers, the rows' other keys and lengths; what does not apply adds nothing."""
    seen: dict[str, Any] = {}

    def scorer(
        prompts: Sequence[Any], answers: Sequence[str], columns: Mapping[str, Sequence[Any]], lengths: Sequence[int],
    ) -> Any:
        seen.update(prompts=list(prompts), columns=dict(columns), lengths=list(lengths))
        return {"right": [float(a == b) for a, b in zip(answers, columns["answer"], strict=True)], "short": [0.5, None]}

    model = Answering(uniform, {"a": "1", "b": "22"})
    rows = [{"prompt": "a", "answer": "1"}, {"prompt": "b", "answer": "3"}]
    records = reward.measure(_task(model, {"kind": "reward"}, rows, scorer=scorer, weights={"right": 2.0, "short": 1.0}))

    assert [2.5, 0.0] == [record["total"] for record in records]
    assert {"reward": 1.25, "right": 0.5, "short": 0.5} == _values(reward.summarise(records))
    assert {"prompts": ["a", "b"], "columns": {"answer": ["1", "3"]}, "lengths": [2, 3]} == seen
    with pytest.raises(RecipeError, match="no rewards"):
        reward.measure(_task(model, {"kind": "reward"}, rows))


def test_broken_rows_are_named(uniform: LanguageModel) -> None:
    """A row that a suite cannot use is told with file and line."""
    rows = [{"prompt": "q", "chosen": "a", "rejected": "b"}, {"prompt": "q"}]
    with pytest.raises(RecipeError, match=r"set.jsonl:2: this row has no 'chosen'"):
        preference.measure(_task(uniform, {"kind": "preference"}, rows))


def _judge(server: OpenAiServer) -> Judge:
    return Judge(url=server.url, model=server.name, api_key_env="EVALUATE_TEST_KEY", retries=0, timeout_s=10)


def test_marks_of_a_judge(uniform: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge behind a real server marks answers, and compares them with another model's in both orders."""
    monkeypatch.setenv("EVALUATE_TEST_KEY", "k")
    rows = [{"prompt": "What is 2 + 3?"}, {"prompt": "What is 4 + 4?"}, {"prompt": "What is 1 + 1?"}]
    model = Answering(uniform, {"What is 2 + 3?": "5", "What is 4 + 4?": "8", "What is 1 + 1?": "3"})
    with OpenAiServer(lambda question: SCRIPTS["judge"](question.messages), key="k") as server:
        marked = judge.measure(_task(model, {"kind": "judge"}, rows, judge=_judge(server)))
        first = {0: {"answer": "4"}, 1: {"answer": "8"}, 2: {"answer": "2"}}
        compared = judge.measure(_task(model, {"kind": "judge", "pairwise": True}, rows, judge=_judge(server), first=first))

    assert [1.0, 1.0, 0.0] == [record["mark"] for record in marked]
    assert {"mark": pytest.approx(2 / 3)} == _values(judge.summarise(marked))
    assert [1.0, 0.5, 0.0] == [record["win"] for record in compared]
    assert {"win_rate": 0.5} == _values(judge.summarise(compared))


def test_a_judge_that_is_down(uniform: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge that does not answer is one error after its tries, and so is one that nobody has named."""
    monkeypatch.setenv("EVALUATE_TEST_KEY", "k")
    model = Answering(uniform, {"a": "b"})
    with OpenAiServer(lambda _question: "", key="k") as server:
        gone = _judge(server)

    with pytest.raises(EndpointError):
        judge.measure(_task(model, {"kind": "judge"}, [{"prompt": "a"}], judge=gone))
    with pytest.raises(RecipeError, match="there is no judge"):
        judge.measure(_task(model, {"kind": "judge"}, [{"prompt": "a"}]))


METRICS = """
import math
def size(model, rows):
    return {"rows": len(rows), "-odd": 0.5, "wild": math.inf, "loss": 2}
def one(model, rows):
    return model.parameters
def broken(model, rows):
    raise KeyError("nothing here")
def words(model, rows):
    return "many"
"""


def test_own_functions(tmp_path: Path, uniform: LanguageModel) -> None:
    """A function of the user's gets the model and the rows; its numbers are told, its mistakes with their line."""
    (tmp_path / "metrics.py").write_text(METRICS)

    def measured(name: str) -> Any:
        suite = {"kind": "function", "function": f"{tmp_path}/metrics.py:{name}"}
        return function.measure_whole(_task(uniform, suite, [{"text": "x"}]))

    assert {"rows": 1.0, "odd": 0.5, "wild": None, "loss": 2.0} == _values(measured("size"))
    assert ["higher", "lower", "higher", "lower"] == [one.better for one in measured("size")]
    assert {"one": float(uniform.parameters)} == _values(measured("one"))
    for name, words in (("broken", r"metrics.py:8: .*KeyError: 'nothing here'"), ("words", "must return a number")):
        with pytest.raises(RecipeError, match=words):
            measured(name)
    with pytest.raises(NotFoundError, match="no function 'lost'"):
        measured("lost")
    with pytest.raises(NotFoundError, match="no module 'no_such_module_at_all'"):
        function.load_function("no_such_module_at_all:f")


def test_harness_results() -> None:
    """The harness's metrics become measures, each with its error and direction; filters are named."""
    results = {"results": {"piqa": {"alias": "piqa", "acc,none": 0.5, "acc_stderr,none": 0.1},
                           "gsm8k": {"exact_match,strict-match": 0.25, "exact_match_stderr,strict-match": "N/A"}},
               "higher_is_better": {"piqa": {"acc": True}, "gsm8k": {"exact_match": False}},
               "n-samples": {"piqa": {"effective": 20}}}

    found = harness.measures_of(results)

    assert [("piqa acc", 0.5, "higher", 0.1, 20), ("gsm8k exact_match (strict-match)", 0.25, "lower", None, 0)] == [
        (one.name, one.value, one.better, one.error, one.count) for one in found]


def test_harness_that_is_not_installed(uniform: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without lm-eval the suite says what to install."""
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda _name: None)

    with pytest.raises(MissingDependencyError, match="lm-eval") as caught:
        harness.measure_whole(_task(uniform, {"kind": "harness", "tasks": ["piqa"]}, []))
    assert "pip install" in caught.value.advice


HARNESS_TASK = """
task: tiny_sums
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{label}}}}"
metric_list:
  - metric: acc
"""


def test_a_task_of_the_harness(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task from a YAML file runs on a model of ours with the real harness, and a name it does not know is one error."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    data, task = tmp_path / "sums.jsonl", tmp_path / "sums.yaml"
    sums = [{"question": f"{number}+1=", "choices": ["a", "bbbbbbbb"], "label": number % 2} for number in range(4)]
    data.write_text("".join(json.dumps(row) + "\n" for row in sums))
    task.write_text(HARNESS_TASK.format(data=data))
    model = load(str(models / "uniform"), CPU)

    found = harness.measure_whole(_task(model, {"kind": "harness", "tasks": [str(task)]}, []))

    assert [("tiny_sums acc", 0.5, 4)] == [(one.name, one.value, one.count) for one in found]
    with pytest.raises(NotFoundError, match="no task 'no_such_task'"):
        harness.measure_whole(_task(model, {"kind": "harness", "tasks": ["no_such_task"]}, []))


# ---------------------------------------------------------------- whole evaluations


def _order(models: Path, folder: Path | None, rows: Path, *more: dict[str, Any]) -> Order:
    suites = [Suite.model_validate({"kind": "perplexity", "name": "perplexity", "paths": [str(rows)]}),
              *(Suite.model_validate(one) for one in more)]
    subjects = (Subject("before", str(models / "other")), Subject("after", str(models / "uniform")))
    return Order("t", subjects, suites, CPU, folder=folder)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A file of texts."""
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": f"text number {number}"}) + "\n" for number in range(6)))
    return file


def test_before_and_after(models: Path, tmp_path: Path, rows: Path) -> None:
    """Both models are measured on the same rows; JSON, page and records are left; what fails is told, the rest goes on."""
    folder = tmp_path / "results"
    folder.mkdir()
    broken = {"kind": "accuracy", "name": "accuracy", "paths": [str(tmp_path / "missing.jsonl")]}
    said: list[str] = []

    found = evaluate(_order(models, folder, rows, broken), Helpers(Ranks(), say=said.append))

    assert found is not None
    first, last = (model.suites[0].measures[0].value for model in found.models)
    assert first is not None
    assert 258.0 == pytest.approx(last, rel=1e-4)
    assert [("before", 4), ("after", 4)] == [(label, one.exit_code) for label, one in found.problems]
    assert found.to_json()["models"] == json.loads((folder / "evaluation.json").read_text())["models"]
    assert "258" in (folder / "evaluation.html").read_text()
    lines = (folder / "evaluation/after.perplexity.jsonl").read_text().splitlines()
    assert list(range(6)) == [json.loads(line)["row"] for line in lines]
    assert 4 == len(said)


def test_a_stopped_evaluation_goes_on(models: Path, tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was finished before the stop is not measured again, and the results are those of one that was not stopped."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    whole.mkdir()
    stopped.mkdir()
    calm = evaluate(_order(models, whole, rows), Helpers(Ranks()))
    beats: list[str] = []

    stopping = Helpers(Ranks(), beat=beats.append, stop=lambda: any("after" in beat for beat in beats))
    assert evaluate(_order(models, stopped, rows), stopping) is None
    loaded: list[str] = []
    real = runner.load

    def load_and_note(path: str, *more: Any, **options: Any) -> LanguageModel:
        loaded.append(Path(path).name)
        return real(path, *more, **options)

    monkeypatch.setattr(runner, "load", load_and_note)
    again = evaluate(_order(models, stopped, rows), Helpers(Ranks()))

    assert ["uniform"] == loaded
    assert calm is not None
    assert again is not None
    results = [[[measure.to_json() for suite in model.suites for measure in suite.measures] for model in found.models]
               for found in (calm, again)]
    assert results[0] == results[1]


def test_other_rows_are_measured_anew(models: Path, tmp_path: Path, rows: Path) -> None:
    """A result is taken over only for the same rows."""
    folder = tmp_path / "results"
    folder.mkdir()
    before = evaluate(_order(models, folder, rows), Helpers(Ranks()))
    rows.write_text(json.dumps({"text": "something else"}) + "\n")
    after = evaluate(_order(models, folder, rows), Helpers(Ranks()))

    assert before is not None
    assert after is not None
    assert (6, 1) == (before.models[0].suites[0].rows, after.models[0].suites[0].rows)


def test_a_model_that_cannot_be_loaded(models: Path, tmp_path: Path, rows: Path) -> None:
    """All its suites say why, and the other model is measured."""
    order = Order("t", (Subject("before", str(tmp_path / "nothing")), Subject("after", str(models / "other"))),
                  _order(models, None, rows).suites, CPU)
    found = evaluate(order, Helpers(Ranks()))

    assert found is not None
    assert "no such model directory" in found.models[0].suites[0].problem
    assert not found.models[1].suites[0].problem
    assert isinstance(HpctrainError("x"), Exception)
