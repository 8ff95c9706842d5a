"""Every fault of the catalogue, through the simulated kernel and the real NVML binding, is found by its check."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hpctrain.devcluster.faults import FAULTS, Fault
from hpctrain.devcluster.simulated_gpus import PROFILES
from hpctrain.health.reading import Job
from hpctrain.health.verdict import Level
from tests.unit.health.conftest import SimulatedNode


@pytest.mark.parametrize("fault", FAULTS.values(), ids=lambda fault: fault.name)
def test_a_fault_is_found(fault: Fault, node: SimulatedNode) -> None:
    """The fault's own check finds it, with the level it deserves, and healing ends it."""
    node.files.inject(fault.make(3))
    verdict = node.check(fault.contexts[-1]).verdict

    assert fault.check in {finding.check for level, finding in verdict.findings if level is not Level.SKIP}
    assert fault.drains is (fault.check in {finding.check for finding in verdict.draining})
    assert fault.drains is verdict.reason.startswith("hpctrain: ")

    node.files.heal(reboot=True)
    assert node.check(fault.contexts[-1]).verdict.level <= Level.OBSERVE


@pytest.mark.parametrize("name", ["gpu-lost", "row-remap-failed", "xid-79", "nvlink-down", "ib-down", "driver-mismatch"])
@pytest.mark.parametrize("context", ["prolog", "epilog", "periodic"])
def test_one_of_each_class_in_every_context(name: str, context: str, node: SimulatedNode) -> None:
    """Prolog, epilog and periodic check all drain for a fault that no job should meet."""
    node.files.inject(FAULTS[name].make(0))

    outcome = node.check(context, Job("7", 1000, tuple(range(8))))

    assert outcome.drain
    assert FAULTS[name].check in {finding.check for finding in outcome.verdict.draining}


@pytest.mark.parametrize("context", ["prolog", "periodic"])
@pytest.mark.parametrize("profile", PROFILES)
def test_a_healthy_gpu_of_any_kind_gives_no_alarm(
    profile: str, context: str, make_node: Callable[..., SimulatedNode]
) -> None:
    """What a model or an old driver does not support is skipped: nothing above observe, on every profile."""
    verdict = make_node(profile=profile).check(context).verdict

    assert [] == [finding for level, finding in verdict.findings if level > Level.OBSERVE]


def test_a_node_without_gpus_and_infiniband_gives_no_alarm(make_node: Callable[..., SimulatedNode]) -> None:
    """A CPU node is not a GPU node with all its GPUs missing."""
    node = make_node(gpus=0, ib_ports=0)
    (node.directory / "libnvidia-ml.so.1").unlink()

    verdict = node.check().verdict

    assert [] == [finding for level, finding in verdict.findings if level > Level.OBSERVE]


def test_a_busy_node_gives_no_alarm(node: SimulatedNode) -> None:
    """Power cap, clocks below the maximum, processes of jobs and high temperatures are what work looks like."""
    busy = {
        "power_mw": 699_000,
        "field.185": 698_000,
        "temperature_c": 79,
        "clock_reasons": 4,
        "utilization_percent": 100,
        "memory_used_bytes": 79 * 2**30,
        "clock_sm_mhz": 1600,
        "field.82": 92,
    }
    from hpctrain.devcluster.faults import Changes

    node.files.inject(Changes(gpus={f"gpu.{gpu}.{key}": value for gpu in range(8) for key, value in busy.items()}))
    verdict = node.check("epilog", Job("7", 1000, tuple(range(8)))).verdict

    assert [] == [finding for level, finding in verdict.findings if level > Level.OBSERVE]


def test_only_the_jobs_gpus_count_in_a_prolog(node: SimulatedNode) -> None:
    """On a shared node a broken GPU of another job does not stop this one, in NVML and in the kernel log."""
    node.files.inject(FAULTS["row-remap-failed"].make(3))
    node.files.inject(FAULTS["xid-79"].make(3))

    assert not node.check("prolog", Job("7", 1000, (0, 1))).drain
    assert node.check("prolog", Job("8", 1000, (2, 3))).drain


def test_a_job_without_gpus_does_not_look_at_them(node: SimulatedNode) -> None:
    """A CPU-only job starts on a node whose driver is broken: NVML is not even asked."""
    node.files.inject(FAULTS["driver-mismatch"].make(0))

    outcome = node.check("prolog", Job("7", 1000, ()))

    assert not outcome.drain
    assert "nvml" not in outcome.reading.probes


def test_a_call_that_never_returns_is_unknown_and_named(node: SimulatedNode) -> None:
    """A wedged driver costs its deadline, not the job; the finding names call and GPU, and the other GPUs were read."""
    from hpctrain.devcluster.faults import Changes

    node.document["budget_s"] = {"prolog": 5.0}
    node.files.inject(Changes(gpus={"gpu.5.temperature_c": "!hang"}))
    outcome = node.check("prolog", Job("7", 1000, tuple(range(8))))

    assert not outcome.drain
    assert Level.UNKNOWN is outcome.verdict.level
    assert "nvmlDeviceGetTemperature of GPU 5" in outcome.verdict.findings[0][1].message
    assert 5 == len(outcome.reading.gpus)


def test_a_gpu_that_answers_with_errors_is_unknown(node: SimulatedNode) -> None:
    """An unknown NVML error on a field is a verdict of its own: neither healthy nor a drain."""
    from hpctrain.devcluster.faults import Changes

    node.files.inject(Changes(gpus={"gpu.2.ecc_volatile_uncorrected": "!999"}))
    verdict = node.check("prolog", Job("7", 1000, tuple(range(8)))).verdict

    assert Level.UNKNOWN is verdict.level
    assert "cannot read ecc_volatile_uncorrected" in verdict.findings[0][1].message


def test_the_breaker_has_the_last_word(node: SimulatedNode) -> None:
    """Without a permission to drain the job starts, and an alert says what was not done."""
    from hpctrain.health.breaker import Permission

    node.files.inject(FAULTS["gpu-lost"].make(0))
    outcome = node.check("prolog", Job("7", 1000, (0,)), permission=Permission(False, "all 2 drains are taken"))

    assert not outcome.drain
    assert any(note.startswith("ALERT not drained: all 2 drains are taken") for note in outcome.notes)


def test_a_repeated_look_counts_an_event_once(node: SimulatedNode) -> None:
    """The cursor holds: the same line of the kernel log is not counted again by the next run."""
    node.files.inject(FAULTS["xid-13"].make(1))

    for _ in range(3):
        outcome = node.check()

    assert [1] == [event.count for event in outcome.reading.kernel_events]


def test_a_driver_that_is_still_wedged_is_not_asked_again(node: SimulatedNode) -> None:
    """While a child of an earlier look is blocked, no further one is sent after it, and the finding says since when."""
    node.check("prolog")
    state = json.loads((node.state_dir / "n1.state.json").read_text())
    start = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    state["stuck"] = {"nvml": {"pid": os.getpid(), "start": start, "since": "yesterday"}}
    (node.state_dir / "n1.state.json").write_text(json.dumps(state))

    outcome = node.check("prolog", Job("7", 1000, (0,)))

    assert not outcome.drain
    assert "blocked since yesterday" in outcome.verdict.findings[0][1].message
    assert () == outcome.reading.gpus

    state["stuck"]["nvml"]["start"] = "1"  # another process has that number now
    (node.state_dir / "n1.state.json").write_text(json.dumps(state))
    assert 1 == len(node.check("prolog", Job("7", 1000, (0,))).reading.gpus)
