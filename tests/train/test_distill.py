"""Distillation: a teacher is asked once for each answer, whatever is killed; a local teacher's student ends byte-equal."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from hpctrain.testing.openai_question import Question
from hpctrain.testing.openai_server import OpenAiServer
from tests.train.ranks import WarmRanks, event_kinds, final_weights, logs, metric_lines
from tests.train.tuning import make_model, modules, tuning_recipe

pytest.importorskip("trl")
pytest.importorskip("peft")

KEY = {"TEACHER_KEY": "secret"}
ROWS = 40
COUNTING = "tests.train.targets:count_models_before_the_evaluation"


def asked(place: Path, url: str, **more: Any) -> dict[str, Any]:
    """A recipe whose teacher is behind an endpoint, with rows of questions."""
    rows = place / "distill.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"{number} + 1 = "}) + "\n" for number in range(ROWS)))
    endpoint = {"url": url, "model": "local", "api_key_env": "TEACHER_KEY", "concurrency": 2, "retries": 1, **more}
    return tuning_recipe("distill", place, teacher={"endpoint": endpoint}, training={"steps": 4})


class Teacher:
    """Says one more than the number that a question begins with; after so many answers it is silent until it may go on."""

    def __init__(self, answers: int) -> None:
        self._lock, self._left, self.go_on = threading.Lock(), answers, threading.Event()

    def __call__(self, question: Question) -> str:
        with self._lock:
            self._left -= 1
            silent = self._left < 0
        if silent:
            self.go_on.wait(120)
        return str(int(str(question.messages[-1]["content"]).split()[0]) + 1)


@pytest.mark.slow
def test_a_killed_run_asks_only_for_what_is_missing(trainers: WarmRanks, tmp_path: Path) -> None:
    """SIGKILL while the teacher answers loses only what was on its way, and the student is that of a calm run."""
    calm, stormy, imports = tmp_path / "calm", tmp_path / "stormy", modules("distill")
    teacher = Teacher(ROWS + 10)
    with OpenAiServer(teacher, key="secret") as server:
        recipe = asked(tmp_path, server.url)
        assert [0, 0] == trainers.finish(calm, recipe, ranks=2, modules=imports, **KEY), logs(calm)
        assert ROWS == server.requests

        first = trainers.start(stormy, recipe, ranks=2, modules=imports, **KEY)
        first.wait_until(lambda beat: str(beat.get("detail", "")).startswith("10 of 40"), timeout_s=120)
        first.kill()
        first.wait()
        teacher.go_on.set()
        before, answers = server.requests, stormy / "cache/teacher/answers.jsonl"
        assert 10 == len(answers.read_text().splitlines())
        assert [0, 0] == trainers.finish(stormy, recipe, ranks=2, modules=imports, **KEY), logs(stormy)
        assert ROWS == len({json.loads(line)["key"] for line in answers.read_text().splitlines()})
        assert ROWS - 10 <= server.requests - before <= ROWS - 8  # two of the first start may have come late
    # Everything is there: a further start needs no teacher.
    assert [0, 0] == trainers.finish(stormy, recipe, ranks=2, modules=imports, **KEY), logs(stormy)

    assert final_weights(calm) == final_weights(stormy)
    (rows,) = (stormy / "cache").glob("taught-*.jsonl")
    assert [str(number + 1) for number in range(ROWS)] == [
        json.loads(line)["completion"] for line in rows.read_text().splitlines()]


@pytest.mark.slow
def test_a_teacher_that_is_down_ends_all_ranks_with_one_code(trainers: WarmRanks, tmp_path: Path) -> None:
    """After all tries every rank ends with the code of an endpoint's error, and rank 0 names address and reason."""
    run = tmp_path / "run"
    recipe = asked(tmp_path, "http://127.0.0.1:9/v1")
    assert [19, 19] == trainers.finish(run, recipe, ranks=2, modules=modules("distill"), **KEY), logs(run)

    said = (run / "log-0").read_text()
    assert "error: http://127.0.0.1:9/v1: nothing listens at that address" in said
    assert "secret" not in said


@pytest.mark.slow
def test_a_stop_while_the_teacher_answers_keeps_what_it_said(trainers: WarmRanks, tmp_path: Path) -> None:
    """Asked to stop, the run ends with the code for 'start me again' before all answers are there."""
    run, imports, teacher = tmp_path / "run", modules("distill"), Teacher(10)
    with OpenAiServer(teacher, key="secret") as server:
        start = trainers.start(run, asked(tmp_path, server.url), ranks=2, modules=imports, **KEY)
        start.wait_until(lambda beat: str(beat.get("detail", "")).startswith("10 of 40"), timeout_s=120)
        (run / "stop").touch()
        assert [75, 75] == start.wait(), logs(run)
        teacher.go_on.set()

    assert 10 == len((run / "cache/teacher/answers.jsonl").read_text().splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("share", [
    pytest.param(0.0, marks=pytest.mark.long, id="given answers"), pytest.param(0.5, id="half by the student"),
])
def test_a_local_teachers_student_ends_byte_equal(trainers: WarmRanks, tmp_path: Path, share: float) -> None:
    """SIGKILL of all ranks in a step changes no byte of the end, also where the student writes half of the batches."""
    make_model(tmp_path / "teacher", hidden_size=48)
    rows = tmp_path / "distill.jsonl"
    rows.write_text("".join(json.dumps({
        "prompt": [{"role": "user", "content": f"{number}?"}], "completion": [{"role": "assistant", "content": str(number)}],
    }) + "\n" for number in range(ROWS)))
    recipe = tuning_recipe(
        "distill", tmp_path, teacher={"path": str(tmp_path / "teacher"), "on_policy_share": share, "temperature": 2.0},
        generation={"max_new_tokens": 4}, data={"format": "prompt_completion"})
    calm, stormy, imports = tmp_path / "calm", tmp_path / "stormy", modules("distill")
    assert [0] * 4 == trainers.finish(calm, recipe, modules=imports), logs(calm)

    first = trainers.start(stormy, recipe, modules=imports, TEST_SLOW_S="0.05")
    first.wait_until(lambda beat: beat.get("step", 0) >= 7, timeout_s=120)
    first.kill()
    first.wait()
    assert [0] * 4 == trainers.finish(stormy, recipe, modules=imports), logs(stormy)

    assert "checkpoint.restored" in event_kinds(stormy)
    assert losses(calm) == losses(stormy)
    assert final_weights(calm) == final_weights(stormy)


@pytest.mark.slow
def test_the_teacher_is_gone_when_the_student_is_measured(trainers: WarmRanks, tmp_path: Path) -> None:
    """The evaluation at the end has the memory that student, teacher and optimizer took."""
    make_model(tmp_path / "teacher", hidden_size=48)
    rows = tmp_path / "distill.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"{number}?", "completion": "1"}) + "\n" for number in range(ROWS)))
    recipe = tuning_recipe("distill", tmp_path, teacher={"path": str(tmp_path / "teacher")}, training={"steps": 2},
                           data={"format": "prompt_completion"})
    run = tmp_path / "run"

    assert [0] == trainers.finish(run, recipe, ranks=1, modules=modules("distill"), target=COUNTING), logs(run)
    assert "" == (run / "models").read_text()


@pytest.mark.slow
def test_a_teacher_with_other_tokens_is_refused(trainers: WarmRanks, tmp_path: Path) -> None:
    """Probabilities over other tokens cannot be compared: the recipe's code, with the way to use such a teacher."""
    make_model(tmp_path / "teacher", vocab_size=300)
    rows = tmp_path / "distill.jsonl"
    rows.write_text((json.dumps({"prompt": "1?", "completion": "1"}) + "\n") * ROWS)
    recipe = tuning_recipe("distill", tmp_path, teacher={"path": str(tmp_path / "teacher")},
                           data={"format": "prompt_completion", "validation_fraction": 0.0},
                           training={"evaluate_every_steps": 0})
    run = tmp_path / "run"

    assert [3] == trainers.finish(run, recipe, ranks=1, modules=modules("distill")), logs(run)
    assert "teacher.path: the student's output has 258 numbers and the teacher's 300" in (run / "log-0").read_text()


def losses(run_dir: Path) -> dict[int, list[Any]]:
    """Loss, gradient and validation of each step; of steps that were done twice the later."""
    return {line["step"]: [line["loss"], line["grad_norm"], line.get("validation_loss")] for line in metric_lines(run_dir)}
