"""Carrying out the policy: each rung of the ladder, a person's drain, the breaker, and what is told beforehand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hpctrain.errors import ControllerDownError
from hpctrain.health.breaker import held_slots
from hpctrain.health.config import Config
from hpctrain.health.policy import Facts, Fleet, Limits, Step, decide
from hpctrain.health.reset import ResetFiles, load
from hpctrain.ids import NodeName
from hpctrain.nodes.hooks import HookState
from hpctrain.testing.fake_slurm import FakeSlurm
from tests.unit.nodes.conftest import DEAD, ECC, LIMITS, XID, World

N1 = NodeName("n1")


def test_a_healthy_cluster_is_left_alone(world: World) -> None:
    """Nothing is done, nothing is told, and nothing is written down."""
    assert world.look() == []
    assert world.journal.entries() == []


def test_a_faulty_node_is_drained_rebooted_checked_and_returned(world: World) -> None:
    """The verdict's file is enough for a drain; after the boot it takes clean checks of after the settling."""
    world.faults["n1"] = XID
    world.check()
    world.look()
    assert world.node("n1").reason == "hpctrain: xid: GPU 3: Xid 79"
    assert held_slots(Path(world.config.breaker.directory)) == {0: "n1"}

    world.look()
    assert "REBOOT_REQUESTED" in world.node("n1").flags
    assert world.node("n1").reason.startswith("hpctrain: xid: GPU 3: Xid 79 (reboot n1-")
    world.live()
    world.look()
    assert world.node("n1").state == "DOWN"  # healthy, but not for long enough
    world.live()
    world.look()

    assert (world.node("n1").state, world.node("n1").drained, world.node("n1").reason) == ("IDLE", False, "")
    assert held_slots(Path(world.config.breaker.directory)) == {}
    expected = [f"{step} {kind}" for step in ("drain", "reboot", "return") for kind in ("intent", "done")]
    assert world.kinds("n1") == expected
    assert {"drain", "resume", "reboot"} <= set(world.slurm.calls)
    assert "undrain" not in world.slurm.calls


def test_a_verdict_drains_once(world: World) -> None:
    """Somebody brings the node back by hand: only a check of after that may drain it again."""
    world.faults["n1"] = XID
    world.check()
    world.look()
    world.slurm.undrain([N1])
    for _ in range(3):
        world.look()
        assert not world.node("n1").drained
    world.clock.advance(30)
    world.check()
    world.look()
    assert world.node("n1").drained


def test_an_old_verdict_drains_nothing(world: World) -> None:
    """A node whose check stopped running is told, not drained."""
    world.faults["n1"] = XID
    world.check()
    world.clock.advance(LIMITS.verdict_age_s + 1)
    (line,) = world.look()
    assert (line.step, line.alert) == ("alert", True)
    assert not world.node("n1").drained


def test_a_gpu_is_reset_by_the_nodes_own_check(world: World) -> None:
    """The request names GPU and address, is made once, and the node returns after a clean check."""
    world.faults["n2"] = ECC
    world.check()
    for _ in range(3):
        world.look()
    request = load(ResetFiles(world.directory / "state", "n2").request)
    assert (request["gpu"], request["pci"]) == (2, "0000:3b:00")
    for _ in range(3):
        world.live()
        world.look()

    assert world.resets == ["n2 gpu 2 0000:3b:00"]
    assert world.node("n2").available
    assert world.kinds("n2")[2:] == ["reset GPU intent", "reset GPU done", "return intent", "return done"]
    assert "reboot" not in world.slurm.calls


def test_a_reset_that_nobody_carries_out_becomes_a_reboot(world: World) -> None:
    """After half an hour the request is withdrawn, and the ladder goes on."""
    world.faults["n2"] = ECC
    world.check()
    world.look()
    world.look()
    world.clock.advance(LIMITS.remedy_s + 1)
    lines = world.look()

    assert "failed" in lines[0].text
    assert lines[0].alert
    assert not ResetFiles(world.directory / "state", "n2").request.exists()
    assert "REBOOT_REQUESTED" in world.node("n2").flags


def test_a_reset_without_a_command_is_a_reboot(world: World) -> None:
    """A site that cannot reset GPUs reboots."""
    world.settings = replace(world.settings, reset=())
    world.faults["n2"] = ECC
    world.check()
    world.look()
    world.look()
    assert "REBOOT_REQUESTED" in world.node("n2").flags


def test_a_fault_that_survives_two_reboots_is_replaced_once(world: World) -> None:
    """A spare takes its place, the command runs once with the reason as one argument, and the node stays drained."""
    world.slurm.create_reservation("hpctrain-spares", [NodeName("n3"), NodeName("n4")], ["root"])
    world.faults["n1"], world.stubborn = XID, {"n1"}
    world.check()
    for _ in range(12):
        world.look()
        world.live()

    assert world.kinds("n1").count("reboot done") == 2
    ((name, *arguments),) = world.hooks.ran.values()
    assert (name, arguments[0]) == ("replace", "n1")
    assert arguments[1].startswith("hpctrain: xid: GPU 3: Xid 79")
    assert world.slurm.reservations()[0].nodes == ("n4",)
    assert not world.node("n1").available

    world.faults.clear()
    for _ in range(5):
        world.live()
        world.look()
    assert not world.node("n1").available
    assert [one.rule for one in world.journal.entries() if one.node == "n1"][-1] == "replaced"


def test_a_command_that_fails_calls_a_person_and_is_not_repeated(world: World) -> None:
    """Nor is one whose end is unknown."""
    world.hooks.ending = HookState("lost", told="its runner was killed")
    world.faults["n1"] = DEAD
    world.check()
    alerts = []
    for _ in range(6):
        alerts += [line for line in world.look() if line.alert]
        world.live()

    assert len(world.hooks.ran) == 1
    assert [line.step for line in alerts] == ["replace", "person"]


def test_a_running_command_is_waited_for(world: World) -> None:
    """The look does not wait; a later one sees how the command ended."""
    world.hooks.ending = HookState("running")
    world.faults["n1"] = DEAD
    world.check()
    world.look()
    world.look()
    assert world.kinds("n1")[-1] == "replace intent"
    assert world.look() == []
    world.hooks.ending = HookState("ended", ok=True, told="ticket 7")
    assert [line.text for line in world.look() if line.done] == ["done: GPU 3: row: ticket 7 (rule 'hardware')"]


def test_the_last_spare_ends_the_reservation(world: World) -> None:
    """Slurm keeps no reservation without nodes; a spare that is drained is not taken."""
    world.slurm.create_reservation("hpctrain-spares", [NodeName("n3"), NodeName("n4")], ["root"])
    world.slurm.drain([NodeName("n3")], "alice: fan")
    world.faults["n1"] = DEAD
    world.check()
    world.look()
    world.look()
    assert world.slurm.reservations()[0].nodes == ("n3",)
    world.slurm.undrain([NodeName("n3")])
    world.faults["n2"] = DEAD
    world.clock.advance(60)
    world.check()
    world.look()
    world.look()
    assert world.slurm.reservations() == []


@pytest.mark.parametrize("fault", [XID, ECC, DEAD])
def test_a_persons_drain_survives_everything(world: World, fault: dict[str, object]) -> None:
    """Whatever is found and however long it lasts: state, reason and node are left alone."""
    world.slurm.drain([N1], "alice: memory test")
    calls = list(world.slurm.calls)
    world.faults["n1"] = fault
    for _ in range(6):
        world.live()
        world.look()
    world.faults.clear()
    for _ in range(6):
        world.live()
        world.look()

    assert world.node("n1").reason == "alice: memory test"
    assert not {"drain", "undrain", "resume", "reboot"} & set(world.slurm.calls[len(calls) :])
    assert world.hooks.ran == {}


def test_a_person_who_takes_over_is_left_alone(world: World) -> None:
    """Between a reset's request and its end a person drains the node: the request is taken back."""
    world.faults["n2"] = ECC
    world.check()
    world.look()
    world.look()
    world.slurm.drain([NodeName("n2")], "alice: mine now")
    line, _ = [line for line in world.look() if line.node == "n2"]

    assert "left alone: root has it for 'alice: mine now'" in line.text
    assert not ResetFiles(world.directory / "state", "n2").request.exists()
    assert world.kinds("n2")[-1] == "reset GPU dropped"


def test_a_busy_node_is_not_rebooted(world: World) -> None:
    """A drained node's job runs on; the reboot comes when it is over."""
    from hpctrain.slurm.model import Submission

    job = world.slurm.submit(Submission("#!/bin/sh\n#SBATCH --nodes=1\nx", "/"))
    world.faults["n1"] = XID
    world.check()
    world.look()
    world.look()
    assert world.node("n1").drained
    assert "reboot" not in world.slurm.calls
    world.slurm.finish(job)
    world.look()
    assert "reboot" in world.slurm.calls


def test_the_breaker_holds_drains_and_remedies_back(world: World) -> None:
    """One of four nodes is drained, the others only cause one alert each; what nodes did themselves is not made worse."""
    world.settings = replace(world.settings, limits=replace(LIMITS, drained_percent=25.0))
    world.faults = {f"n{number}": XID for number in range(1, 5)}
    world.check()
    lines = [line for _ in range(4) for line in world.look()]
    assert [node.name for node in world.slurm.nodes() if node.drained] == ["n1"]
    assert [line.node for line in lines if line.alert] == ["n2", "n3", "n4"]

    world.slurm.drain([NodeName("n2")], "hpctrain: xid: GPU 3: Xid 79")
    world.slurm.calls.clear()
    world.live()
    assert "breaker" in next(line.text for line in world.look(dry_run=True) if line.node == "n2")
    world.look()
    assert "reboot" not in world.slurm.calls


def test_remedies_take_turns(world: World) -> None:
    """No more nodes are rebooted at a time than may be drained."""
    world.settings = replace(world.settings, limits=replace(LIMITS, drained_percent=50.0))
    world.faults = {"n1": XID, "n2": XID}
    world.check()
    world.look()
    world.settings = replace(world.settings, limits=replace(LIMITS, drained_percent=50.0))
    world.look()
    assert world.slurm.calls.count("reboot") == 2
    fleet = Fleet(4, drained_by_us=1, under_way=1)
    facts = Facts("n3", True, "hpctrain: x", fault="xid/gpu1", action=XID["action"], verdict_time=5.0)
    decision = decide(facts, (), fleet, Limits(), 6.0)
    assert (decision.step, decision.rule) == (Step.WAIT, "one after the other")


def test_a_node_that_drained_itself_is_on_record(world: World) -> None:
    """Since when and by whom is Slurm's word; the reboot follows from the node's own verdict."""
    world.faults["n1"] = XID
    world.check()
    world.slurm.drain([N1], "hpctrain: xid: GPU 3: Xid 79")
    world.clock.advance(10)
    world.look()
    seen = world.journal.entries()[0]
    assert (seen.kind, seen.step, seen.time, seen.by) == ("seen", "drain", 1_000_000.0, "root")
    assert "REBOOT_REQUESTED" in world.node("n1").flags


def test_five_remedies_in_a_week_call_a_person(world: World) -> None:
    """Different faults, each mended by a reboot: the fifth time is for a person."""
    world.settings = replace(world.settings, limits=replace(LIMITS, remedies=2, lemon_score=100.0, longest_recovery_s=60.0))
    for number in range(3):
        world.faults["n1"] = {**XID, "check": f"check{number}"}
        world.check()
        for _ in range(5):
            world.look()
            world.live()
    assert world.kinds("n1").count("reboot done") == 2
    assert [one.rule for one in world.journal.entries() if one.node == "n1"][-1] == "too many remedies"


def test_a_dry_run_tells_all_and_changes_nothing(world: World) -> None:
    """The exact command is shown as the list it is; no file and no node changes."""
    world.slurm.create_reservation("hpctrain-spares", [NodeName("n4")], ["root"])
    world.slurm.drain([N1], "hpctrain: gpu_row_remap: x; $(rm -rf /)")
    world.slurm.drain([NodeName("n2")], "hpctrain: gpu_ecc: x")
    world.faults = {"n1": DEAD, "n2": ECC, "n3": XID}
    world.clock.advance(5)
    world.check()
    calls = len(world.slurm.calls)
    told = {line.node: line.text for line in world.look(dry_run=True)}

    assert "['replace', 'n1', 'hpctrain: gpu_row_remap: x; $(rm -rf /)']" in told["n1"]
    assert "take a spare out of reservation hpctrain-spares (1 nodes)" in told["n1"]
    assert "let the node run ['reset', '2']" in told["n2"]
    assert "would drain it with the reason 'hpctrain: xid: GPU 3: Xid 79'" in told["n3"]
    assert not {"drain", "reboot", "undrain", "update_reservation"} & set(world.slurm.calls[calls:])
    assert not (world.directory / "journal").exists()


def test_what_slurm_refuses_is_told_and_not_tried_again_at_once(world: World) -> None:
    """Without operator rights there is one failure in five minutes, not one in every look."""
    world.faults["n1"] = XID
    world.check()
    world.slurm.operator = False
    (line,) = world.look()
    assert "may not change nodes" in line.text
    assert line.alert
    assert world.look() == []
    world.clock.advance(400)
    world.check()
    world.slurm.operator = True
    world.look()
    assert world.node("n1").drained


def test_a_silent_controller_stops_the_look(world: World) -> None:
    """Nothing is decided on old knowledge."""
    world.slurm.controller_up = False
    with pytest.raises(ControllerDownError):
        world.look()


def test_a_lost_reason_is_told_once(world: World) -> None:
    """Slurm replaces the reason of a node that registers with too little memory: it is not ours any more."""
    world.faults["n1"] = XID
    world.check()
    world.look()
    world.slurm.drain([N1], "Low RealMemory")
    (line,) = world.look()
    assert "'Low RealMemory'" in line.text
    assert world.look() == []
    assert "reboot" not in world.slurm.calls


def test_a_bad_rollout_drains_no_more_than_the_limit(tmp_path: Path, world: World) -> None:
    """256 nodes break for good at once: ten are drained in an hour, 25 in all, and no more are replaced."""
    names = [f"n{number}" for number in range(1, 257)]
    limits = replace(LIMITS, drained_percent=10.0)
    many = replace(world, directory=tmp_path / "many", slurm=FakeSlurm(names, clock=world.clock, user="root"))
    many.directory.mkdir()
    many.config = Config(state_dir=str(many.directory / "state"), drain_via="controller")
    many.settings = replace(many.settings, limits=limits)
    many.faults = dict.fromkeys(names, DEAD)
    many.check()
    most = 0
    for _ in range(4):
        for _ in range(2):
            many.look()
            most = max(most, sum(not node.available for node in many.slurm.nodes()))
        assert most <= 25
        world.clock.advance(3601)
        many.check()
    assert most == 25
    assert len(many.hooks.ran) <= 25
