"""The node's side of a GPU reset: once, only while the node is drained by us and idle, and settled in the log."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hpctrain.health.config import Config
from hpctrain.health.kernel_log import LogMemory
from hpctrain.health.node_state import NodeFiles, NodeState
from hpctrain.health.reading import KernelEvent
from hpctrain.health.remedy_settings import RemedySettings, filled, parse_remedies
from hpctrain.health.reset import ResetFiles, ask, carry_out, load

DRAINED = "NodeName=n1 State=IDLE+DRAIN Reason=hpctrain: gpu_ecc: GPU 2: 2 errors [root@2026-01-01T00:00:00]"
BUS, OTHER = "0000:3b:00", "0000:4c:00"


@pytest.fixture
def site(tmp_path: Path) -> Callable[..., Config]:
    """Makes the configuration of a site whose scontrol shows a given line, and whose reset command ends with a status."""

    def make(shown: str = DRAINED, status: int = 0) -> Config:
        scontrol = tmp_path / "scontrol"
        scontrol.write_text(f"#!/bin/sh\ncat <<'END'\n{shown}\nEND\n")
        scontrol.chmod(0o700)
        script = f'echo "$@" >>"$0"; echo bad >&2; exit {status}'
        command = ["/bin/sh", "-c", script, str(tmp_path / "resets"), "{node}", "{gpu}"]
        return Config(state_dir=str(tmp_path / "state"), scontrol=str(scontrol), remedies={"reset": command})

    return make


def files(tmp_path: Path) -> ResetFiles:
    found = ResetFiles(tmp_path / "state", "n1")
    ask(found, {"id": "n1-7", "gpu": 2, "pci": BUS, "time": time.time()})
    return found


def test_a_request_is_carried_out_once(site: Callable[..., Config], tmp_path: Path) -> None:
    """GPU and node reach the command, the result names the request, and the log of this GPU alone is settled."""
    events = tuple(KernelEvent("xid", time.time() - 60, bus, 48, first=0.0) for bus in (BUS, OTHER))
    state = NodeFiles(tmp_path / "state", "n1")
    state.save(NodeState("boot", log=LogMemory("boot", 5, events)))
    asked = files(tmp_path)
    assert carry_out(site(), "n1").startswith("GPU 2 was reset")
    assert carry_out(site(), "n1") == ""

    assert (tmp_path / "resets").read_text() == "n1 2\n"
    result = load(asked.result)
    assert (result["id"], result["ok"]) == ("n1-7", True)
    assert not asked.request.exists()
    assert not asked.claim.exists()
    assert [event.entity for event in state.load().log.events] == [OTHER]


@pytest.mark.parametrize(
    ("shown", "why"),
    [
        (DRAINED.replace("IDLE", "MIXED"), "jobs"),
        (DRAINED.replace("IDLE+DRAIN", "IDLE"), "not drained by us"),
        (DRAINED.replace("hpctrain: gpu_ecc", "alice"), "not drained by us"),
        ("NodeName=n1 State=DOWN Reason=Not responding [slurm@2026-01-01T00:00:00]", "not drained by us"),
    ],
)
def test_nothing_is_reset_under_a_job_or_over_a_person(
    site: Callable[..., Config], tmp_path: Path, shown: str, why: str
) -> None:
    """The request stays for a later look."""
    asked = files(tmp_path)
    assert why in carry_out(site(shown), "n1")
    assert asked.request.exists()
    assert not (tmp_path / "resets").exists()


def test_a_silent_controller_resets_nothing(site: Callable[..., Config], tmp_path: Path) -> None:
    """What the node is for is not known then."""
    config = site()
    Path(config.scontrol).write_text("#!/bin/sh\nexit 1\n")
    asked = files(tmp_path)
    assert "does not answer" in carry_out(config, "n1")
    assert asked.request.exists()
    assert not (tmp_path / "resets").exists()


def test_a_failed_reset_is_told_and_settles_nothing(site: Callable[..., Config], tmp_path: Path) -> None:
    """The result has the status and what the command said."""
    state = NodeFiles(tmp_path / "state", "n1")
    event = KernelEvent("xid", time.time() - 60, BUS, 48, first=0.0)
    state.save(NodeState("boot", log=LogMemory("boot", 5, (event,))))
    asked = files(tmp_path)
    carry_out(site(status=3), "n1")
    assert (load(asked.result)["ok"], load(asked.result)["told"]) == (False, "exit status 3 bad")
    assert state.load().log.events == (event,)


def test_an_old_or_meaningless_request_is_dropped(site: Callable[..., Config], tmp_path: Path) -> None:
    """A node that was away for long resets nothing on its return; nor does one that has no command."""
    asked = ResetFiles(tmp_path / "state", "n1")
    for config, request in (
        (site(), {"id": "n1-7", "gpu": 2, "time": time.time() - 7200}),
        (site(), {"gpu": 2, "time": time.time()}),
        (Config(state_dir=str(tmp_path / "state")), {"id": "n1-7", "gpu": 2, "time": time.time()}),
    ):
        ask(asked, request)
        assert "dropped" in carry_out(config, "n1")
        assert not asked.request.exists()
    assert not (tmp_path / "resets").exists()


def test_settings_are_checked() -> None:
    """Every mistake is named and keeps its default; commands are lists, and braces without a meaning stay."""
    good, problems = parse_remedies(
        {"reset": ["x", "{gpu}"], "spares": "pool", "replace_timeout_s": 5, "limits": {"reboots": 3, "remedy_s": 60}},
        settle_s=90.0,
    )
    assert problems == []
    assert (good.reset, good.spares, good.replace_timeout_s) == (("x", "{gpu}"), "pool", 5.0)
    assert (good.limits.settle_s, good.limits.reboots, good.limits.remedy_s) == (90.0, 3, 60.0)
    assert filled(("{node}", "{gpu} {other}"), {"node": "n1", "gpu": "{node}"}) == ["n1", "{node} {other}"]
    bad, problems = parse_remedies(
        {"reset": "rm -rf /", "replace": [1], "typo": 1, "spares": "", "limits": {"reboots": -1, "x": 2}}, settle_s=120.0
    )
    assert bad == RemedySettings()
    assert len(problems) == 6
