"""``python -m hpctrain.health`` and the scripts that Slurm runs: verdicts are passed on, our own failures never are."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpctrain import process
from hpctrain.devcluster.faults import FAULTS, Changes
from hpctrain.health.__main__ import DRAIN
from hpctrain.process import Result
from tests.source_tree import ROOT
from tests.unit.health.conftest import SimulatedNode

JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_UID": "1000", "SLURM_JOB_GPUS": "0-7"}


def environment(node: SimulatedNode, **more: str) -> dict[str, str]:
    """What Slurm gives a prolog: no PATH, no HOME; the configuration is where the site says."""
    config = node.directory.parent / "health.json"
    config.write_text(json.dumps(node.document))
    places = {"HPCTRAIN_HEALTH_CONFIG": str(config), "HPCTRAIN_HEALTH_STATE": str(node.state_dir)}
    patient = {"HPCTRAIN_HEALTH_BUDGET_S": "60", "HPCTRAIN_HEALTH_SYSLOG": ""}
    return {"SLURMD_NODENAME": node.name, **places, **patient, **JOB, **more}


def run(node: SimulatedNode, context: str = "prolog", **more: str) -> Result:
    return process.run(
        [sys.executable, "-m", "hpctrain.health", context], timeout_s=60, env=environment(node, **more), cwd=str(ROOT)
    )


def events(node: SimulatedNode) -> list[dict[str, Any]]:
    path = node.state_dir / f"{node.name}.events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_healthy_node_lets_the_job_start(node: SimulatedNode) -> None:
    """Exit 0, nothing printed, and the verdict is on record with the job it was made for."""
    result = run(node)

    assert (0, "", "") == (result.returncode, result.stdout, result.stderr)
    assert [("health", "7", "ok")] == [(event["kind"], event["job"], event["level"]) for event in events(node)]
    assert 0o600 == (node.state_dir / "n1.state.json").stat().st_mode & 0o777


def test_a_programs_own_xid_is_recorded(node: SimulatedNode) -> None:
    """It says nothing against the node, and the log has it, with whose fault it is."""
    node.files.inject(FAULTS["xid-13"].make(1))

    assert 0 == run(node, "epilog").returncode
    (event,) = events(node)
    assert ("ok", ["xid"]) == (event["level"], [one["check"] for one in event["evidence"]])
    (found,) = event["evidence"]
    assert ("ok", "user", [13]) == (found["level"], found["blame"], found["evidence"]["xids"])


@pytest.mark.parametrize("context", ["prolog", "epilog"])
def test_a_fault_drains_with_its_reason(context: str, node: SimulatedNode) -> None:
    """The exit code is the one that means a drain, and slurmd's log gets the reason."""
    node.files.inject(FAULTS["row-remap-failed"].make(2))
    result = run(node, context)

    assert DRAIN == result.returncode
    assert "hpctrain: gpu_row_remap: GPU 2: a memory row could not be remapped" in result.stderr
    assert "drain" == events(node)[-1]["level"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda node: node.document.update(state_dir="/proc/nowhere"), ""),
        (lambda node: node.document.update(budget_s="soon", modes={"xid": "loud"}, colour="red"), "cannot be 'loud'"),
        (lambda node: node.document["roots"].update(kernel_log="/no/such/log"), ""),
        (lambda node: node.document["roots"].update(nvml="/no/such/library"), ""),
        (lambda node: node.document.update(site_checks=["no_such_module:X"]), "no_such_module"),
        (lambda node: node.document.update(expected={"mounts": {"/x": 1}}), "texts only"),
    ],
    ids=["state", "nonsense", "no-log", "no-library", "site-check", "expected"],
)
def test_a_bad_configuration_drains_nothing(damage: Any, words: str, node: SimulatedNode) -> None:
    """Whatever is wrong with the configuration, the job starts, and the log says what is wrong."""
    node.document["expected"] = {}
    damage(node)
    result = run(node)

    assert 0 == result.returncode
    assert words in result.stderr


@pytest.mark.parametrize("text", ["", "{", "[]", "nul\0l", '{"version": 1, "roots": 3}'])
def test_an_unreadable_configuration_drains_nothing(text: str, node: SimulatedNode) -> None:
    """A torn or foreign file means the defaults."""
    env = environment(node)
    Path(env["HPCTRAIN_HEALTH_CONFIG"]).write_text(text)
    env["HPCTRAIN_HEALTH_BUDGET_S"] = "4"
    result = process.run([sys.executable, "-m", "hpctrain.health", "prolog"], timeout_s=60, env=env, cwd=str(ROOT))

    assert 0 == result.returncode


def test_a_missing_configuration_is_said(node: SimulatedNode) -> None:
    """A configuration that was named and is not there is our failure, not the node's."""
    result = run(node, HPCTRAIN_HEALTH_CONFIG="/no/such/health.json")

    assert 0 == result.returncode
    assert "there is no /no/such/health.json" in result.stderr


@pytest.mark.parametrize("text", ["", "{", '{"version": 1}', "[1, 2]", '{"log": 3}'])
def test_a_damaged_memory_is_no_memory(text: str, node: SimulatedNode) -> None:
    """A state file that cannot be understood is replaced by a good one."""
    node.state_dir.mkdir()
    (node.state_dir / "n1.state.json").write_text(text)

    assert 0 == run(node).returncode
    assert "n1" == json.loads((node.state_dir / "n1.state.json").read_text())["verdict"]["node"]


def test_a_wedged_driver_costs_the_deadline_only(node: SimulatedNode) -> None:
    """An NVML call that never returns: the job starts within the budget, and the event names the call."""
    node.files.inject(Changes(gpus={"init": "!hang"}))
    node.document["budget_s"] = {"prolog": 4.0}
    started = time.monotonic()
    result = run(node)

    assert 0 == result.returncode
    assert 20 > time.monotonic() - started
    assert "nvmlInit" in events(node)[-1]["evidence"][0]["message"]


def test_a_check_that_is_killed_drains_nothing(node: SimulatedNode) -> None:
    """SIGKILL in the middle of the work: exit 0, and the failure is logged and counted."""
    node.files.inject(Changes(gpus={"init": "!hang"}))
    supervisor = process.start([sys.executable, "-m", "hpctrain.health", "prolog"], env=environment(node), cwd=str(ROOT))
    children = Path(f"/proc/{supervisor.pid}/task/{supervisor.pid}/children")
    until = time.monotonic() + 30
    while not children.read_text().split() and time.monotonic() < until:
        time.sleep(0.01)
    worker = int(children.read_text().split()[0])
    while len(_children(worker)) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    probes = _children(worker)
    os.kill(worker, signal.SIGKILL)

    assert 0 == supervisor.wait(timeout=30)
    assert ["health_failure"] == [event["kind"] for event in events(node)]
    assert 1 == json.loads((node.state_dir / "n1.state.json").read_text())["failures"]["count"]
    for pid in probes:  # the hung probe is an orphan now, as it would be on a real node
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(("slots", "code"), [(1, DRAIN), (0, 0), (None, 0)])
def test_a_site_may_drain_after_a_failure_of_ours(slots: int | None, code: int, node: SimulatedNode, tmp_path: Path) -> None:
    """Only where it says so, only in a prolog, and only with a slot of the breaker."""
    (tmp_path / "breaker").mkdir()
    if slots is not None:
        node.document["breaker"] = {"directory": str(tmp_path / "breaker"), "slots": slots, "timeout_s": 30}
    dies = ["HPCTRAIN_HEALTH_BUDGET_S", "0.51"]  # too little for any check

    result = run(node, **dict([dies]), HPCTRAIN_HEALTH_ON_FAILURE="drain")
    assert code == result.returncode, result.stderr
    assert "this site drains after such a failure" in result.stderr
    assert 0 == run(node, "epilog", **dict([dies]), HPCTRAIN_HEALTH_ON_FAILURE="drain").returncode
    assert 0 == run(node, **dict([dies])).returncode


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def test_too_small_a_budget_drains_nothing(node: SimulatedNode) -> None:
    """A check that cannot finish in time is our failure."""
    node.files.inject(FAULTS["gpu-lost"].make(0))
    result = run(node, HPCTRAIN_HEALTH_BUDGET_S="0.51")

    assert 0 == result.returncode


def test_nothing_holds_slurms_pipe(node: SimulatedNode) -> None:
    """A probe that hangs holds none of the descriptors that slurmd waits on: the pipe closes with the supervisor."""
    node.files.inject(Changes(gpus={"init": "!hang"}))
    node.document["budget_s"] = {"prolog": 1.5}
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as pipe:
        started = process.start(
            [sys.executable, "-m", "hpctrain.health", "prolog"],
            env=environment(node),
            cwd=str(ROOT),
            stdout=pipe,
            stderr=pipe,
        )
    begun = time.monotonic()
    with os.fdopen(reader, "rb") as pipe:
        pipe.read()

    assert 0 == started.wait(timeout=30)
    assert 20 > time.monotonic() - begun


def script(name: str, node: SimulatedNode, **more: str) -> Result:
    settings = node.directory.parent / "health.env"
    env = environment(node)
    lines = [f"export {name}={value}" for name, value in env.items() if name.startswith("HPCTRAIN_")]
    lines.append(f"HPCTRAIN_PYTHON={more.pop('python', sys.executable)}")
    settings.write_text("\n".join([*lines, more.pop("setting", "")]) + "\n")
    path = ROOT / "slurm_scripts" / name
    return process.run(
        ["/bin/sh", str(path)],
        timeout_s=60,
        env={**JOB, "SLURMD_NODENAME": node.name, "HPCTRAIN_HEALTH_SETTINGS": str(settings), **more},
    )


@pytest.mark.parametrize(("name", "code"), [("prolog.sh", 1), ("epilog.sh", 1), ("health_program.sh", 0)])
def test_scripts_pass_on_a_drain(name: str, code: int, node: SimulatedNode) -> None:
    """Prolog and epilog exit 1 for a drain; Slurm ignores the health program's exit code, which stays 0."""
    assert 0 == script(name, node).returncode
    node.document["drain_via"] = "exit" if code else "controller"
    node.files.inject(FAULTS["gpu-lost"].make(0))

    assert code == script(name, node).returncode


@pytest.mark.parametrize("python", ["/no/such/python", "/bin/false", str(ROOT / "README.md")])
@pytest.mark.parametrize("name", ["prolog.sh", "epilog.sh", "health_program.sh"])
def test_a_wrong_python_drains_nothing(name: str, python: str, node: SimulatedNode) -> None:
    """No Python, a program that is none, one that fails: the job starts, and the node's log says what happened."""
    node.state_dir.mkdir()
    assert 0 == script(name, node, python=python).returncode
    _wait(lambda: bool(events(node)))

    (event,) = events(node)
    assert ("health_failure", "n1", "7") == (event["kind"], event["node"], event["job"])
    assert "our own failure" in event["reason"]


@pytest.mark.parametrize("setting", ["X='torn", "exit 7", "set -e; false", "return 3", "nonsense", 'echo "${X:?}"'])
@pytest.mark.parametrize("name", ["prolog.sh", "epilog.sh", "health_program.sh"])
def test_a_mistake_in_the_settings_drains_nothing(name: str, setting: str, node: SimulatedNode) -> None:
    """A settings file that is torn, or ends the shell that reads it, ends nothing else."""
    node.state_dir.mkdir()

    assert 0 == script(name, node, setting=setting).returncode
    _wait(lambda: bool(events(node)))
    assert events(node)[0]["kind"] in ("health", "health_failure")


def test_the_programs_of_slurm_differ_in_their_context_only() -> None:
    """What was learned about one of the three scripts holds for all of them."""
    texts = [(ROOT / "slurm_scripts" / name).read_text() for name in ("prolog.sh", "epilog.sh", "health_program.sh")]

    assert 1 == len({text[text.index("SETTINGS=") : text.index("code=$?")] for text in texts})


def _wait(what: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not what():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.02)


def test_a_full_disk_costs_the_record_and_not_the_verdict(node: SimulatedNode, tmp_path: Path) -> None:
    """Nothing can be written: a healthy node lets the job start, a broken one drains; no draft is left, and it is said."""
    small = tmp_path / "small"
    small.mkdir()
    node.document["state_dir"] = str(small)
    env = environment(node)
    fill = f"mount -t tmpfs -o size=16k,mode=700 none {small} && {{ head -c 1M /dev/zero >{small}/x; shift; exec \"$@\"; }}"
    if not process.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(small)], timeout_s=60).ok:
        pytest.skip("this machine permits no file systems of one's own")

    def prolog() -> Result:
        command = [sys.executable, "-m", "hpctrain.health", "prolog"]
        check = f"code=0; {shlex.join(command)} || code=$?; ls -A {small}; exit $code"
        argv = ["unshare", "-rm", "/bin/sh", "-c", fill, "sh", "-", "/bin/sh", "-c", check]
        return process.run(argv, timeout_s=60, env={**env, "PATH": os.environ["PATH"]}, cwd=str(ROOT))

    healthy = prolog()
    assert 0 == healthy.returncode, healthy.stderr
    assert ["n1.events.jsonl", "n1.lock", "x"] == healthy.stdout.split()
    assert "cannot keep what was learned" in healthy.stderr
    assert "No space left on device" in healthy.stderr
    node.files.inject(FAULTS["gpu-lost"].make(0))
    assert DRAIN == prolog().returncode


def test_syslog_hears_what_slurm_does_not_write_down(node: SimulatedNode, tmp_path: Path) -> None:
    """A configuration with a mistake is told to syslog, which may also be absent, full, or no socket at all."""
    node.document["modes"] = {"xid": "loud"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(tmp_path / "log"))
        syslog.settimeout(60)
        assert 0 == run(node, HPCTRAIN_HEALTH_SYSLOG=str(tmp_path / "log")).returncode
        assert "cannot be 'loud'" in syslog.recv(2000).decode()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    other.sendto(b"x" * 1000, str(tmp_path / "log"))
        assert 0 == run(node, HPCTRAIN_HEALTH_SYSLOG=str(tmp_path / "log")).returncode
    for other_place in ("/no/such/socket", str(ROOT / "README.md"), "x" * 200):
        assert 0 == run(node, HPCTRAIN_HEALTH_SYSLOG=other_place).returncode


def test_the_prolog_imports_only_what_it_needs(node: SimulatedNode) -> None:
    """Nothing heavy is on the path: no click, pydantic, yaml, torch, and no subprocess on a healthy node."""
    listing = (
        "import sys; sys.argv = ['x', 'prolog']\nfrom hpctrain.health import supervise\n"
        "import os\nfrom hpctrain.health.probe_child import Report\n"
        "class Silent(Report):\n    def __init__(self): pass\n    def step(self, text): pass\n"
        "    def emit(self, **record): pass\n"
        "supervise.check('prolog', dict(os.environ), 5.0, Silent())\nprint(','.join(sorted(sys.modules)))\n"
    )
    result = process.run([sys.executable, "-c", listing], timeout_s=60, env=environment(node), cwd=str(ROOT))
    found = {name.partition(".")[0] for name in result.stdout.strip().split(",")}

    assert "hpctrain" in found
    assert set() == found & {
        "click",
        "pydantic",
        "yaml",
        "torch",
        "jinja2",
        "subprocess",
        "asyncio",
        "numpy",
        "pynvml",
        "ctypes",
    }
