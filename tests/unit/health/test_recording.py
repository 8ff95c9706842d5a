"""Recordings: what was recorded is what is judged, without names if so wished, and old recordings still replay.

The files in tests/golden/health were made by ``hpctrain health record --anonymous``, on a host without a GPU and on nodes of
a private cluster with simulated GPUs. None is of a real GPU.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpctrain.cli.main import invoke
from hpctrain.devcluster.faults import FAULTS
from hpctrain.devcluster.simulated_gpus import PROFILES
from hpctrain.errors import UsageError
from hpctrain.health.reading import Job
from hpctrain.health.recording import anonymised, from_document, to_document
from hpctrain.health.registry import for_context, load_checks, with_model
from hpctrain.health.run import Look, take_reading
from hpctrain.health.verdict import Level, Rules, Verdict, judge
from tests.source_tree import ROOT
from tests.unit.health.conftest import SimulatedNode

GOLDEN = ROOT / "tests" / "golden" / "health"


def recorded(node: SimulatedNode, context: str = "periodic", job: Job | None = None) -> tuple[Any, dict[str, Any]]:
    """A reading, and its recording after a way through JSON."""
    taken = take_reading(node.config, Look(node.name, context, job, remember=False))
    return taken.reading, json.loads(json.dumps(to_document(taken.reading, taken.records)))


def judged(reading: Any) -> Verdict:
    rules = with_model(Rules(), (gpu.text("name") for gpu in reading.gpus))
    return judge(reading, for_context(load_checks(), reading.context), rules)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_recording_is_the_reading(profile: str, make_node: Callable[..., SimulatedNode]) -> None:
    """Every field of a reading comes back as it was, for every kind of GPU."""
    node = make_node(profile=profile)
    for name in ("xid-79", "row-remap-failed", "ib-down", "machine-check"):
        node.files.inject(FAULTS[name].make(1))
    node.check("periodic")  # leaves samples
    reading, document = recorded(node, "prolog", Job("7", 1000, (0, 1)))

    assert reading == from_document(document, "x")
    assert reading.kernel_events
    assert judged(reading) == judged(from_document(document, "x"))


@pytest.mark.parametrize("fault", ["gpu-lost", "nvlink-down", "xid-154", "memory-missing", "hot", "driver-mismatch"])
def test_an_anonymous_recording_is_judged_the_same(fault: str, node: SimulatedNode) -> None:
    """Level, checks and severities are those of the node; its names are gone."""
    node.files.inject(FAULTS[fault].make(1))
    reading, document = recorded(node)
    hidden = anonymised(document)

    def told(verdict: Verdict) -> list[tuple[str, str, str]]:
        return [(level.name, finding.check, finding.severity.name) for level, finding in verdict.findings]

    assert told(judged(reading)) == told(judged(from_document(hidden, "x")))
    text = json.dumps(hidden)
    secrets = [gpu.uuid for gpu in reading.gpus] + [gpu.text("serial") for gpu in reading.gpus]
    assert [] == [secret for secret in [*secrets, reading.boot_id, "NVRM"] if secret and secret in text]


def test_names_of_people_and_places_are_left_out(node: SimulatedNode) -> None:
    """Mounts of the site, programs, users, servers, other jobs: all under other names, wherever they occur."""
    _, document = recorded(node, "prolog", Job("4711", 1000, (0,)))
    document["expected"]["mounts"] = {"/projects/alice": "lustre", "/scratch": "lustre"}
    document["probes"]["mounts"] = {"outcome": "timeout", "step": "statvfs of /projects/alice", "took_s": 1.0}
    document["records"] += [
        {"file_system": {"mount": "/projects/alice", "kind": "lustre", "size_bytes": 1, "available_bytes": 1}},
        {"process": {"pid": 1, "name": "alices_program", "state": "D", "uid": 12345}},
        {"process": {"pid": 2, "name": "nvidia-smi", "state": "D", "uid": 0}},
    ]
    gpu = next(record["gpu"] for record in document["records"] if "gpu" in record)
    gpu["processes"] = [{"pid": 3, "name": "alice", "uid": 12345, "job_id": job} for job in ("4711", "4712", "")]
    nfs = {"kind": "nfs", "time": 1.0, "entity": "nas.alice.example", "text": "nfs: server nas.alice.example"}
    document["kernel_events"].append(nfs)
    hidden = anonymised(document)

    text = json.dumps(hidden)
    assert [] == [word for word in ("alice", "4711", "4712", "12345", '"n1"') if word in text]
    reading = from_document(hidden, "x")
    assert {"/mount0": "lustre", "/scratch": "lustre"} == reading.expected.mounts
    assert "statvfs of /mount0" == reading.probes["mounts"].step
    assert ["program", "nvidia-smi"] == [process.name for process in reading.processes][-2:]
    assert ["1", "2", ""] == [process.job_id for process in reading.gpus[0].processes]
    assert reading.job is not None
    assert "1" == reading.job.id


@pytest.mark.parametrize(
    ("file", "level", "checks"),
    [
        ("host-without-gpu.json", Level.OBSERVE, set()),
        ("simulated-h100.json", Level.OK, set()),
        ("simulated-l40s.json", Level.OK, set()),
        ("simulated-h100-broken.json", Level.DRAIN, {"gpu_row_remap", "xid", "gpu_temperature"}),
    ],
)
def test_old_recordings_are_judged_as_ever(file: str, level: Level, checks: set[str]) -> None:
    """A healthy host or node gives no alarm; a broken one is drained for what broke."""
    verdict = judged(from_document(json.loads((GOLDEN / file).read_text()), file))

    assert verdict.level is level or verdict.level < level is Level.OBSERVE
    assert checks == {finding.check for found, finding in verdict.findings if found > Level.SKIP and checks}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "hpctrain health recording", "version": 2}', "\x00", "[" * 100_000], ids=range(6)
)
def test_what_is_no_recording_is_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One clear error that names the file, and exit code 2."""
    (tmp_path / "x.json").write_text(text)

    assert 2 == invoke(["health", "check", "--replay", str(tmp_path / "x.json")])
    assert "x.json" in capsys.readouterr().err


def test_a_damaged_recording_is_read_as_far_as_it_goes() -> None:
    """Parts of the wrong kind are left out; nothing of them becomes a fault."""
    document = json.loads((GOLDEN / "simulated-h100.json").read_text())
    damages = (None, 3, "x", [3], [[1, 2, 3]], {"x": 3}, [{"gpu": 3}, {"gpu": {"index": "x"}}, {"port": []}, {}])
    for key in document.keys() - {"format", "version", "time"}:
        for damage in damages:
            verdict = judged(from_document({**document, key: damage}, "x"))
            # A probe that ended well and saw nothing did see that the GPUs are gone.
            assert verdict.level < Level.DRAIN or key == "records", (key, damage)
    with pytest.raises(UsageError, match="when it was made"):
        from_document({**document, "time": "now"}, "x")


def test_the_commands_record_and_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """This machine is recorded into a private file; replaying it gives what a look at it gives."""
    out = tmp_path / "node.json"
    assert 0 == invoke(["health", "record", "--anonymous", "--out", str(out), "-o", "json"])
    summary = json.loads(capsys.readouterr().out)["recording"]
    assert (str(out), True) == (summary["file"], summary["anonymous"])
    assert 0o600 == out.stat().st_mode & 0o777

    code = invoke(["health", "check", "--replay", str(out), "-o", "json"])
    replayed = json.loads(capsys.readouterr().out)["health"]
    assert "node" == replayed["node"]
    assert code in (0, 1, 2, 3)
    assert 0 == invoke(["health", "check", "--replay", str(out), "--only", "memory_size", "-o", "json"])
    assert 1 == json.loads(capsys.readouterr().out)["health"]["checks"]
    assert 0 == invoke(["health", "record"])
    assert "hpctrain health recording" == json.loads(capsys.readouterr().out)["format"]


def test_a_recording_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is named, with exit code 4."""
    assert 4 == invoke(["health", "check", "--replay", str(tmp_path / "none.json")])
    assert "none.json" in capsys.readouterr().err
