"""How the ends of ranks become one word per node, and which of them is the cause."""

from __future__ import annotations

import json

import pytest

from hpctrain.agent.error_file import explain
from hpctrain.agent.rank_result import NodeOutcome, RankExit, first_failure, outcome_of


def ended(*codes: int) -> list[RankExit]:
    return [RankExit(rank, "n1", code, float(rank)) for rank, code in enumerate(codes)]


@pytest.mark.parametrize(("codes", "trainer", "stop", "outcome"), [
    ((0, 0), True, False, NodeOutcome.DONE),
    ((75, 75), True, False, NodeOutcome.STOPPED),
    ((0, 75), True, True, NodeOutcome.STOPPED),
    ((0, 1), True, True, NodeOutcome.FAILED),
    ((0, -15), True, True, NodeOutcome.FAILED),
    ((0, 0), False, True, NodeOutcome.STOPPED),
    ((-15, 143), False, True, NodeOutcome.STOPPED),
    ((75, 0), False, False, NodeOutcome.FAILED),
    ((0, 0), False, False, NodeOutcome.DONE),
])
def test_outcome(codes: tuple[int, ...], trainer: bool, stop: bool, outcome: NodeOutcome) -> None:
    """75 means something from our trainer only; a script that was asked to stop may end as it likes."""
    assert outcome_of(ended(*codes), is_trainer=trainer, stop_requested=stop, aborted=False) is outcome


def test_first_failure_is_the_cause() -> None:
    """Of failures on several nodes the earliest is taken; without a failure there is no cause."""
    early, late = RankExit(5, "n2", 1, 10.0), RankExit(0, "n1", 1, 12.0)

    assert first_failure([late, early]) == early
    assert first_failure([]) is None


def test_of_failures_that_come_together_the_killed_rank_is_the_cause() -> None:
    """A rank that lost its connection to a killed one may be noticed a moment earlier; later deaths do not count."""
    lost, killed, late = RankExit(0, "n1", 1, 10.0), RankExit(3, "n2", -9, 10.2), RankExit(4, "n2", -11, 15.0)

    assert killed == first_failure([lost, killed, late])
    assert lost == first_failure([lost, late])


def test_an_end_survives_a_message() -> None:
    """What an agent says of a rank's end the coordinator reads back unchanged."""
    end = RankExit(0, "n1", -9, 1.5, "m", "t", ("a", "b"), by_agent=True)

    assert end == RankExit.from_json(json.loads(json.dumps(end.to_json())))


def test_torchs_error_file_is_understood() -> None:
    """Message and traceback of torchrun's error file win over the output."""
    text = '{"message": {"message": "ValueError: boom", "extraInfo": {"py_callstack": "Traceback...", "timestamp": "1"}}}'
    assert explain(text, ["other"]) == ("ValueError: boom", "Traceback...")
    assert explain('{"message": "plain"}', []) == ("plain", "")


def test_traceback_is_found_in_the_output() -> None:
    """Without an error file the last traceback of the output is the explanation, without what follows it."""
    tail = ["noise", "Traceback (most recent call last):", '  File "a.py", line 1', "KeyError: 'x'", "bye"]
    assert explain("not json", tail) == ("KeyError: 'x'", "\n".join(tail[1:4]))


def test_last_words_are_better_than_nothing() -> None:
    """A program that dies without a traceback is quoted with its last line; one that was killed from outside is not."""
    assert explain("", ["Segmentation fault", ""]) == ("Segmentation fault", "")
    assert explain("", ["step 5/10  loss 2.1"], killed=True) == ("", "")
    assert explain("", ["Traceback (most recent call last):", "KeyError: 'x'"], killed=True)[0] == "KeyError: 'x'"
    assert explain("", []) == ("", "")


def test_traceback_that_torch_marked_with_its_rank_is_read_whole() -> None:
    """A traceback whose lines torch marked with "[rank2]: " gives the message and traceback of the error itself."""
    tail = [
        "step 3", "[rank2]: Traceback (most recent call last):", '[rank2]:   File "a.py", line 1, in <module>',
        "[rank2]:     main()", "[rank2]: ValueError: shapes differ", "[W1121 torch] a warning at exit",
    ]

    message, traceback = explain("", tail)

    assert "ValueError: shapes differ" == message
    assert ["Traceback (most recent call last):", '  File "a.py", line 1, in <module>'] == traceback.splitlines()[:2]
    assert "[rank2]" not in traceback
