"""Promises, and whether they were kept."""

from __future__ import annotations

import json

import pytest

from hpctrain.drill.catalogue import KINDS, UNHARMED, Place, Promise, kind_named
from hpctrain.drill.judge import Judgement, Seen, judge, settled
from hpctrain.drill.report import catalogue, lines, promised, summary, verdict
from hpctrain.drill.run import choose
from hpctrain.errors import NotFoundError
from hpctrain.jobs.incident import CANCELLED, OPEN, OVERTAKEN, RECOVERED, STOPPED, Incident
from tests.unit.drill import guide

R1 = Promise(RECOVERED, ("R1",), ("rank",), 1.2)
R3 = Promise(RECOVERED, ("R3",), ("node",), 20.0)


def incident(
    rung: str = "R1", outcome: str = RECOVERED, *, cause: str = "rank", took: float = 1.0, **more: object,
) -> Incident:
    mended = 100.0 + took if outcome == RECOVERED else None
    ended = mended if outcome != OPEN else None
    return Incident(1, cause, rung, 100.0, mended_time=mended, ended_time=ended, outcome=outcome, **more)  # type: ignore[arg-type]


def test_a_kept_promise() -> None:
    """The promised rung, in time, under the promised name."""
    judged = judge(R1, Seen(100.0, [incident()]))

    assert (True, False, "R1", 1.0, ()) == (judged.kept, judged.late, judged.rung, judged.total_s, judged.problems)


def test_a_higher_rung_breaks_a_promise_and_a_lower_one_keeps_it() -> None:
    """R3 where R1 was promised is no recovery in place; R1 where R3 was promised is better than that."""
    worse, better = judge(R1, Seen(100.0, [incident("R3")])), judge(R3, Seen(100.0, [incident("R1", cause="node")]))

    assert not worse.kept
    assert "R3 was needed, R1 was promised" in worse.problems
    assert better.kept


def test_the_queue_is_not_held_against_a_promise() -> None:
    """Slurm's time in the queue is no part of the promised time."""
    judged = judge(R3, Seen(100.0, [incident("R3", cause="node", took=50.0, phases={"queue": 35.0})]))

    assert (True, False, 15.0, 35.0) == (judged.kept, judged.late, judged.total_s, judged.queue_s)
    assert "35s in the queue" in judged.happened


def test_too_late_is_said() -> None:
    """A kept promise may be late; the clock is the drill's own, which knows when the fault was caused."""
    judged = judge(R1, Seen(98.0, [incident()]))

    assert (True, True, 3.0) == (judged.kept, judged.late, judged.total_s)
    assert ("kept, but late", "kept") == (verdict(judged, any_time=False), verdict(judged, any_time=True))


@pytest.mark.parametrize(("outcome", "words"), [(OPEN, "has not come back"), (STOPPED, "was stopped"),
                                                (CANCELLED, "was cancelled"), (OVERTAKEN, "next failure")])
def test_what_did_not_come_back_breaks_a_promise(outcome: str, words: str) -> None:
    """Each way of not coming back is named."""
    judged = judge(R1, Seen(100.0, [incident(outcome=outcome)], waited_s=60))

    assert not judged.kept
    assert words in judged.problems[0]


def test_a_wrong_name_breaks_a_promise() -> None:
    """A hang that is recorded as something else would send people the wrong way."""
    judged = judge(Promise(RECOVERED, ("R1",), ("hang",)), Seen(100.0, [incident(cause="node")]))

    assert not judged.kept
    assert "recorded as 'node', not as 'hang'" in judged.problems[0]


def test_a_fault_that_nobody_noticed_breaks_a_promise() -> None:
    """Nothing recorded, nothing recovered."""
    assert not judge(R1, Seen(100.0, waited_s=60)).kept


def test_an_unharmed_job_goes_on() -> None:
    """New steps and no incident; an incident, no step, or a missing event break it."""
    promise = Promise(UNHARMED, expects=("checkpoint.recovered",))
    kinds = frozenset({"checkpoint.recovered"})

    assert judge(promise, Seen(100.0, kinds=kinds, steps=5)).kept
    assert judge(promise, Seen(100.0, kinds=kinds, steps=None)).kept
    assert not judge(promise, Seen(100.0, kinds=kinds, steps=0, waited_s=9)).kept
    assert not judge(promise, Seen(100.0, steps=5)).kept
    assert not judge(promise, Seen(100.0, [incident()], kinds, steps=5)).kept
    assert not judge(promise, Seen(100.0, kinds=kinds, steps=5, state="failed")).kept


def test_a_cancelled_job_stays_cancelled() -> None:
    """Anything but cancelled breaks that promise."""
    promise = Promise(CANCELLED)

    assert judge(promise, Seen(100.0, state="cancelled")).kept
    assert not judge(promise, Seen(100.0, state="running")).kept


def test_when_to_stop_watching() -> None:
    """As soon as it is decided, and not before: an overtaken or open incident is not the end."""
    assert settled(R1, Seen(100.0, [incident()]), steps_wanted=5)
    assert not settled(R1, Seen(100.0, [incident(outcome=OPEN)]), steps_wanted=5)
    assert not settled(R1, Seen(100.0), steps_wanted=5)
    assert settled(R1, Seen(100.0, state="failed"), steps_wanted=5)
    unharmed = Promise(UNHARMED)
    assert not settled(unharmed, Seen(100.0, steps=4), steps_wanted=5)
    assert settled(unharmed, Seen(100.0, steps=5), steps_wanted=5)
    assert not settled(unharmed, Seen(100.0, [incident(outcome=OPEN)], steps=9), steps_wanted=5)


def test_promises_depend_on_the_place() -> None:
    """A lost node is R2 with a spare and R3 without; a script of the user's own is promised no time."""
    kill = kind_named("kill-node")

    assert ("R2",) == kill.promise(Place(spares=1)).rungs
    assert ("R3",) == kill.promise(Place(spares=0)).rungs
    assert 1.2 == kind_named("kill-rank").promise(Place()).within_s
    assert kind_named("kill-rank").promise(Place(is_trainer=False)).within_s is None


def test_every_kind_promises_something() -> None:
    """Each kind says what it does, what is promised and in what words, in every place."""
    for kind in KINDS.values():
        for place in (Place(), Place(spares=2), Place(is_trainer=False, peers=False)):
            promise = kind.promise(place)
            assert kind.what and promise.words
            assert promise.rungs or promise.outcome in (UNHARMED, CANCELLED)
            assert promised(promise)
    with pytest.raises(NotFoundError, match="no drill 'kill-moon'"):
        kind_named("kill-moon")


def test_a_random_series_is_the_same_for_the_same_seed() -> None:
    """Kinds, moments and victims follow from the seed."""
    able = [kind for kind in KINDS.values() if kind.random]

    assert choose(able, 50, 7) == choose(able, 50, 7)
    assert choose(able, 50, 7) != choose(able, 50, 8)
    assert {kind.name for kind, _, _ in choose(able, 500, 1)} == {kind.name for kind in able}


def test_reports_are_lines_for_people_and_json() -> None:
    """Promise, event and verdict stand below each other; a series is summed up by kind."""
    kind, judged = kind_named("kill-rank"), judge(R1, Seen(100.0, [incident("R3", took=9.0)]))
    text = "\n".join(lines(kind, R1, judged, any_time=False))

    assert "promised  R1 within 1.2s" in text
    assert "verdict   broken" in text
    assert "R3 was needed" in text
    good = judge(R1, Seen(100.0, [incident()]))
    table = summary([(kind, judged), (kind, good)], any_time=False)
    assert "2 drills, 1 broken promise" == table[-1]
    assert "every promise kept" in summary([(kind, good)], any_time=False)[-1]
    json.dumps(judged.to_json(), allow_nan=False)
    assert isinstance(judged, Judgement)


def test_the_list_says_what_is_not_possible_here() -> None:
    """Without a private cluster whole nodes are out of reach, and what no drill can cause is named."""
    text = "\n".join(catalogue(Place(), ["kill-rank"]))

    assert "not possible here: only on a private cluster" in text
    assert "Not a drill: network cut" in text


def test_the_guide_has_every_cause() -> None:
    """docs/recovery.md lists each drill with its rung and aim; 'python -m tests.unit.drill.guide' writes the table anew."""
    assert guide.table() in guide.PAGE.read_text(), "run: python -m tests.unit.drill.guide"


def test_what_was_measured_is_told_apart_by_cause_and_circumstance(tmp_path, monkeypatch) -> None:
    """A node that dies with a spare and without one are two rows; the same once more takes its place."""
    page = tmp_path / "recovery.md"
    page.write_text("<!-- measured -->\n<!-- /measured -->\n".replace("-->\n<", "-->\nx\n<"))
    monkeypatch.setattr(guide, "PAGE", page)

    def drill(kind: str, spares: int, rung: str, total_s: float) -> dict[str, object]:
        place = {"spares": spares}
        return {"kind": kind, "place": place, "rung": rung, "total_s": total_s, "queue_s": 0.0, "incident": None}

    guide.write_measured([drill("kill-node", 1, "R2", 5.0), drill("kill-rank", 1, "R1", 1.0)])
    guide.write_measured([drill("kill-node", 0, "R3", 20.0)])
    guide.write_measured([drill("kill-node", 1, "R3", 7.0), drill("kill-rank", 0, "R1", 2.0)])
    lines = [line for line in page.read_text().splitlines() if line.startswith("| `")]
    rows = [[cell.strip() for cell in line.split("|")][1:5] for line in lines]
    assert rows == [["`kill-rank`", "-", "R1", "2.0 s"], ["`kill-node`", "a spare", "R3", "7.0 s"],
                    ["`kill-node`", "no spare", "R3", "20.0 s"]]
