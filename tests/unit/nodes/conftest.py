"""A site whose nodes check themselves, reboot and reset in memory and in a temporary directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hpctrain.files import append_jsonl
from hpctrain.health.config import Breaker, Config
from hpctrain.health.kernel_log import LogMemory
from hpctrain.health.node_state import NodeFiles, NodeState
from hpctrain.health.policy import Limits
from hpctrain.health.remedy_settings import RemedySettings
from hpctrain.health.reset import ResetFiles, load
from hpctrain.ids import NodeName
from hpctrain.nodes.hooks import Hooks, HookState
from hpctrain.nodes.journal import Journal
from hpctrain.nodes.record import Entry, to_json
from hpctrain.nodes.site import Site
from hpctrain.nodes.tend import Line, Tender
from hpctrain.slurm.model import Node
from hpctrain.testing.fake_clock import FakeClock
from hpctrain.testing.fake_slurm import FakeSlurm

LIMITS = Limits(settle_s=10.0, recovery_s=50.0, drained_percent=100.0)
XID = {"level": "drain", "check": "xid", "entity": "gpu3:GPU-x", "action": "reboot the node", "message": "GPU 3: Xid 79"}
ECC = {
    "level": "drain", "check": "gpu_ecc", "entity": "gpu2:GPU-y", "action": "reset the GPU", "message": "GPU 2: 2 errors",
    "evidence": {"pci": "0000:3b:00"},
}  # fmt: skip
DEAD = {**XID, "check": "gpu_row_remap", "action": "replace the part or the node", "message": "GPU 3: row"}


class QuickJournal(Journal):
    """A journal that does not wait for the disk."""

    def append(self, entry: Entry) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        append_jsonl(self.path, to_json(entry))


class QuickHooks(Hooks):
    """Runs nothing and remembers what it was to run; a command ends when ``ending`` says so."""

    def __init__(self, ending: HookState | None = None) -> None:
        self.ran: dict[str, list[str]] = {}
        self.ending = ending or HookState("ended", ok=True, told="exit status 0")

    def start(self, act: str, command: Sequence[str], timeout_s: float) -> HookState:
        self.ran.setdefault(act, list(command))
        return self.state(act, timeout_s)

    def state(self, act: str, timeout_s: float) -> HookState:
        return self.ending if act in self.ran else HookState("absent")


@dataclass
class World:
    """Four nodes or more; ``faults`` are what the next checks find."""

    directory: Path
    slurm: FakeSlurm
    clock: FakeClock
    config: Config
    settings: RemedySettings
    hooks: QuickHooks = field(default_factory=QuickHooks)
    faults: dict[str, dict[str, Any]] = field(default_factory=dict)
    stubborn: set[str] = field(default_factory=set)
    resets: list[str] = field(default_factory=list)

    @property
    def journal(self) -> QuickJournal:
        return QuickJournal(self.directory / "journal")

    def site(self) -> Site:
        return Site(self.slurm, self.config, self.settings, self.clock, self.journal, self.hooks)

    def look(self, *, dry_run: bool = False) -> list[Line]:
        return Tender(self.site()).look(dry_run=dry_run)

    def node(self, name: str) -> Node:
        return self.slurm.nodes([NodeName(name)])[0]

    def check(self, *names: str) -> None:
        """The periodic check of nodes, now: it first resets what it was asked to reset."""
        for name in names or [node.name for node in self.slurm.nodes()]:
            self._reset(name)
            found = [self.faults[name]] if name in self.faults else []
            level = "drain" if found else "ok"
            reason = f"hpctrain: {found[0]['check']}: {found[0]['message']}" if found else ""
            now = self.clock.time()
            files = NodeFiles(self.directory / "state", name)
            verdict = {"time": now, "level": level, "reason": reason, "findings": found}
            files.save(NodeState("boot", log=LogMemory("boot"), verdict=verdict))
            files.append({"time": now, "kind": "health", "context": "periodic", "level": level})

    def live(self, seconds: float = 60.0) -> None:
        """Let time pass: nodes that are to boot do so, a boot mends what is not stubborn, and every node checks itself."""
        self.clock.advance(seconds / 2)
        for node in self.slurm.nodes():
            if "REBOOT_REQUESTED" in node.flags:
                self.slurm.boot(node.name)
                if node.name not in self.stubborn:
                    self.faults.pop(node.name, None)
        self.clock.advance(seconds / 2)
        self.check()

    def kinds(self, name: str) -> list[str]:
        """``step kind`` of what is on record about a node, without what was only announced."""
        return [f"{one.step} {one.kind}" for one in self.journal.entries() if one.node == name and one.kind != "next"]

    def _reset(self, name: str) -> None:
        files = ResetFiles(self.directory / "state", name)
        request = load(files.request)
        if request:
            files.request.unlink()
            self.resets.append(f"{name} gpu {request['gpu']} {request.get('pci')}")
            self.faults.pop(name, None)
            append_jsonl(files.result, {**request, "ok": True, "told": "exit status 0", "time": self.clock.time()})


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Four healthy nodes that have just been checked, with a reset command, a replace command and a breaker of two slots."""
    clock = FakeClock(1_000_000.0)
    (tmp_path / "slots").mkdir()
    config = Config(
        state_dir=str(tmp_path / "state"), drain_via="controller",
        breaker=Breaker(directory=str(tmp_path / "slots"), slots=4),
    )  # fmt: skip
    settings = RemedySettings(reset=("reset", "{gpu}"), replace=("replace", "{node}", "{reason}"), limits=LIMITS)
    made = World(tmp_path, FakeSlurm(clock=clock, user="root"), clock, config, settings)
    made.check()
    return made
