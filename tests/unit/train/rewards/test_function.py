"""A user's function behind a process: what it returns, and every way in which it can fail."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpctrain.errors import RecipeError
from hpctrain.train.rewards.batch import Batch
from hpctrain.train.rewards.function import MOST_TIMEOUTS, FunctionReward

BATCH = Batch(["a", "b"], ["xx", "xxxx"], {"answer": ["2", "4"]})
OPEN: list[FunctionReward] = []


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """Processes of a test end with it."""
    yield
    while OPEN:
        OPEN.pop().close()


def reward(tmp_path: Path, body: str, timeout_s: float = 20.0) -> FunctionReward:
    file = tmp_path / "mine.py"
    file.write_text(textwrap.dedent(body))
    made = FunctionReward(f"{file}:f", name="mine", timeout_s=timeout_s, directory=str(tmp_path))
    OPEN.append(made)
    return made


def test_numbers_come_back(tmp_path: Path) -> None:
    """The function gets prompts, completions and the columns it asks for; what it prints is not in the way."""
    mine = reward(tmp_path, """
        def f(prompts, completions, answer):
            print("thinking")
            return [float(len(text) == int(wanted)) for text, wanted in zip(completions, answer)]
    """)

    assert mine(BATCH) == [1.0, 1.0]
    assert mine(Batch(["a"], ["x"], {"answer": ["2"], "other": [1]})) == [0.0]


def test_a_module_of_the_working_directory(tmp_path: Path) -> None:
    """``module:function`` is looked for where the run works; None means that it does not apply."""
    (tmp_path / "rules.py").write_text("def g(completions, **columns):\n    return [None for _ in completions]\n")
    mine = FunctionReward("rules:g", name="mine", timeout_s=20, directory=str(tmp_path))
    OPEN.append(mine)

    assert mine(BATCH) == [None, None]


@pytest.mark.parametrize(("body", "message", "where"), [
    ("def f(completions, **k):\n    return [1 / 0 for _ in completions]\n",
     "raised: ZeroDivisionError: division by zero", "mine.py:2"),
    ("def f(completions, **k):\n    return [1.0]\n", "returned 1 values, where 2 were expected", "mine"),
    ("def f(completions, **k):\n    return None\n", "returned a NoneType", "mine"),
    ("def f(completions, **k):\n    return [float('nan'), 1]\n", "returned nan for completion 0", "mine"),
    ("def f(completions, **k):\n    return ['good', 1]\n", "returned 'good' for completion 0", "mine"),
    ("import os\ndef f(completions, **k):\n    os._exit(3)\n", "ended its process (exit status 3)", "mine"),
    ("import os\ndef f(completions, **k):\n    os.kill(os.getpid(), 9)\n", "ended its process (signal SIGKILL)", "mine"),
])
def test_a_call_that_fails_is_one_error(tmp_path: Path, body: str, message: str, where: str) -> None:
    """Whatever goes wrong in a call is one error that names the function, what it did and, where there is one, its line."""
    mine = reward(tmp_path, body)

    with pytest.raises(RecipeError) as caught:
        mine(BATCH)
    assert message in caught.value.message
    assert "mine.py:f" in caught.value.message
    assert where in caught.value.where


@pytest.mark.parametrize(("body", "message", "where"), [
    ("def f(:\n", "cannot be imported: SyntaxError", "mine.py:1"),
    ("import nothing_like_it\n", "ModuleNotFoundError", "mine.py:1"),
    ("x = 1\n", "AttributeError", ""), ("f = 3\n", "f is a int, no function", ""),
    ("import os\nos._exit(1)\n", "ended its process", ""),
])
def test_a_function_that_cannot_be_imported(tmp_path: Path, body: str, message: str, where: str) -> None:
    """It is refused before training, with the place."""
    with pytest.raises(RecipeError) as caught:
        reward(tmp_path, body)
    assert message in caught.value.message
    assert where in caught.value.where


def test_a_function_that_never_returns(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It is ended, counts 0 with the line where it was, works again for the next batch, and stops the run at the third."""
    mine = reward(tmp_path, """
        def f(completions, **columns):
            while "slow" in completions[0]:
                pass
            return [1.0] * len(completions)
    """, timeout_s=0.5)
    slow: Any = Batch(["a"], ["slow"])

    assert mine(slow) == [0.0]
    assert "mine.py:3" in capfd.readouterr().err
    assert mine(BATCH) == [1.0, 1.0]
    for _ in range(MOST_TIMEOUTS - 1):
        assert mine(slow) == [0.0]
    with pytest.raises(RecipeError, match="3 times in a row: it does not seem to return"):
        mine(slow)
