"""Breaker, node state, configuration and leftovers: what surrounds the checks."""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hpctrain import process
from hpctrain.health.breaker import ask, held_slots, release, take_slot
from hpctrain.health.config import Config, parse_config
from hpctrain.health.finding import Mode
from hpctrain.health.kernel_log import LogMemory
from hpctrain.health.leftovers import end_leftovers
from hpctrain.health.node_state import NodeFiles, NodeState, add_sample
from hpctrain.health.reading import Gpu, KernelEvent, Reading, Sample
from hpctrain.health.registry import model_limits
from hpctrain.health.supervise import gpu_list, node_name


def test_there_are_only_so_many_slots(tmp_path: Path) -> None:
    """Of 64 nodes that ask at once, as many drain as the breaker permits, and each slot has one holder."""
    with ThreadPoolExecutor(16) as pool:
        taken = list(pool.map(lambda number: take_slot(tmp_path, 5, f"n{number}", "r"), range(64)))

    assert [0, 1, 2, 3, 4] == sorted(slot for slot in taken if slot >= 0)
    assert 5 == len(set(held_slots(tmp_path).values()))


def test_a_node_keeps_its_slot_until_it_gives_it_back(tmp_path: Path) -> None:
    """Asking again takes no second slot; after the release another node gets it."""
    assert ask(str(tmp_path), 1, "n1", "r", 5.0).granted
    assert ask(str(tmp_path), 1, "n1", "r", 5.0).granted
    assert not ask(str(tmp_path), 1, "n2", "r", 5.0).granted

    assert release(tmp_path, "n1")
    assert ask(str(tmp_path), 1, "n2", "r", 5.0).granted


def test_a_breaker_that_cannot_be_asked_refuses(tmp_path: Path) -> None:
    """A missing directory is no permission, and says so."""
    permission = ask(str(tmp_path / "none"), 1, "n1", "r", 5.0)

    assert not permission.granted
    assert "did not answer" in permission.reason


def test_a_memory_is_kept_and_read(tmp_path: Path) -> None:
    """What is saved is what is loaded, events and samples included."""
    state = NodeState(
        "b",
        LogMemory("b", 7, (KernelEvent("xid", 5.0, "x", 79, first=5.0, detail={"pid": "1"}),), {"x": 3.0}),
        (Sample(1.0, {"a": 2.0}),),
        ((7, 5.0),),
        {"nvml": {"pid": 1, "start": "2"}},
        {"level": "ok"},
        {"count": 1},
    )
    files = NodeFiles(tmp_path / "new", "n1")
    files.save(state)

    assert state == files.load()
    assert 0o700 == (tmp_path / "new").stat().st_mode & 0o777


def test_the_event_log_is_turned_over(tmp_path: Path) -> None:
    """A long log becomes .1, so that it never fills the disk."""
    files = NodeFiles(tmp_path, "n1", log_bytes=1000)
    for number in range(100):
        files.append({"number": number, "text": "x" * 50})

    assert files.events.stat().st_size < 2000
    assert files.events.with_suffix(".jsonl.1").stat().st_size < 2000


def test_a_lock_that_is_taken_is_not_waited_for(tmp_path: Path) -> None:
    """A second look at the same time goes on without a memory, soon."""
    with NodeFiles(tmp_path, "n1").locked() as first, NodeFiles(tmp_path, "n1").locked() as second:
        assert (True, False) == (first, second)


def test_samples_are_thinned() -> None:
    """A day of readings every minute leaves few samples: dense in the last hour, sparse before."""
    samples: tuple[Sample, ...] = ()
    for minute in range(2 * 24 * 60):
        samples = add_sample(samples, Sample(minute * 60.0, {}))

    ages = [samples[-1].time - sample.time for sample in samples]
    assert 30 <= len(samples) <= 50
    assert max(ages) <= 86_400
    assert 10 <= sum(age <= 3600 for age in ages)


def test_a_counter_that_went_back_is_not_known() -> None:
    """After a reset of the counter no growth is claimed; a sample that is too old is not used."""
    reading = Reading(1000.0, "n1", samples=(Sample(100.0, {"a": 5.0}), Sample(900.0, {"a": 50.0})))

    assert (45.0, 900.0) == reading.increase("a", 50.0, 1000.0)
    assert (1.0, 100.0) == reading.increase("a", 51.0, 500.0)
    assert reading.increase("a", 3.0, 1000.0) is None
    assert reading.increase("b", 3.0, 1000.0) is None


def test_a_gpu_is_named_for_people_and_for_life() -> None:
    """The entity carries index and uuid."""
    assert ("gpu3:GPU-x", "gpu3") == (Gpu(3, "GPU-x").entity, Gpu(3).entity)


def test_a_configuration_is_understood() -> None:
    """Known keys are taken, and nothing is complained of."""
    config, problems = parse_config(
        {
            "version": 1,
            "modes": {"clock": "warn"},
            "limits": {"clock": {"offset_s": 2}},
            "drain_via": "scontrol",
            "settle_s": 5,
            "breaker": {"directory": "/x", "slots": 3},
            "expected": {"gpus": 8, "mounts": {"/x": "nfs4"}},
            "budget_s": {"prolog": 3},
        }
    )

    assert [] == problems
    assert (Mode.WARN, 2.0, "scontrol", 5.0, 3, 8, 3.0, 55.0) == (
        config.rules.modes["clock"],
        config.rules.limits["clock"]["offset_s"],
        config.drain_via,
        config.settle_s,
        config.breaker.slots,
        config.expected.gpus,
        config.budget_s["prolog"],
        config.budget_s["periodic"],
    )


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "not an object"),
        ({"colour": 1}, "unknown key 'colour'"),
        ({"modes": 3}, "'modes' is a int"),
        ({"modes": {"x": "loud"}}, "off, observe, warn or drain"),
        ({"drain_via": "fax"}, "'drain_via' cannot be 'fax'"),
        ({"settle_s": -1}, "cannot be -1"),
        ({"settle_s": True}, "cannot be True"),
        ({"breaker": {"slots": "many"}}, "breaker.slots"),
        ({"expected": {"gpus": "8"}}, "expected.gpus"),
        ({"expected": {"goo": 1}}, "expected.goo"),
        ({"limits": {"clock": {"offset_s": "x"}}}, "limits.clock.offset_s"),
        ({"site_checks": [1]}, "site_checks"),
        ({"budget_s": {"lunch": 1}}, "budget_s.lunch"),
    ],
)
def test_a_mistake_is_named_and_keeps_the_default(document: object, words: str) -> None:
    """One sentence per mistake; everything else stays as it is by default."""
    config, problems = parse_config(document)

    assert any(words in problem for problem in problems)
    assert Config() == config or config.rules != Config().rules


@pytest.mark.parametrize(
    ("text", "gpus"), [("", ()), ("0", (0,)), ("0-3,7", (0, 1, 2, 3, 7)), ("gpu:a100", None), ("1-x", None), ("99999", None)]
)
def test_gpu_lists_of_slurm(text: str, gpus: tuple[int, ...] | None) -> None:
    """Numbers and ranges; anything else means that all GPUs are looked at."""
    assert gpus == gpu_list(text)


def test_a_nodes_name_cannot_leave_its_directory() -> None:
    """A name with a slash becomes no path."""
    assert ("n1", "unknown") == (node_name({"SLURMD_NODENAME": "n1"}), node_name({"SLURMD_NODENAME": "../x"}))


def test_limits_follow_the_model() -> None:
    """The longest match wins; a node with two models gets no model's limits."""
    assert 18 == model_limits(["NVIDIA H200"])["gpu_nvlink"]["links"]
    assert 0 == model_limits(["NVIDIA H200 NVL"])["gpu_nvlink"]["links"]
    assert {} == model_limits(["NVIDIA H200", "NVIDIA L40S"])


def test_leftovers_of_this_job_on_this_node_are_ended() -> None:
    """SIGTERM, then SIGKILL: the job's processes here end, those of another node, job or cluster live on."""
    job = f"{os.getpid()}{int(time.time())}"
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    one, other = {"SLURM_CLUSTER_NAME": "one"}, {"SLURM_CLUSTER_NAME": "other"}
    places = [(job, "n1", one), (job, "n1", {}), (job, "n2", one), (job + "9", "n1", one), (job, "n1", other)]
    started = [
        process.start(
            [sys.executable, "-c", stubborn],
            env={"SLURM_JOB_ID": number, "SLURMD_NODENAME": node, **cluster}, stdout=process.PIPE,
        )
        for number, node, cluster in places
    ]  # fmt: skip
    try:
        for child in started:
            assert child.stdout is not None
            assert b"1\n" == child.stdout.readline()
        left = end_leftovers(job, os.getuid(), "n1", cluster="one", term_s=0.2, kill_s=10.0)

        assert (2, ()) == (left.found, left.survivors)
        assert [False, False, True, True, True] == [child.poll() is None for child in started]
    finally:
        for child in started:
            child.kill()
            child.wait()
            assert child.stdout is not None
            child.stdout.close()
