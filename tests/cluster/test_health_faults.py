"""Every fault of the catalogue under a real slurmd: verdict, drain, the job elsewhere, healing, return to service.

    FAULT_TABLE=write python -m pytest --long tests/cluster/test_health_faults.py    # all of it, and write the page

The usual run has each fault once, and one of each class in every context; ``long`` has each in every context.
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hpctrain.clock import SystemClock
from hpctrain.devcluster.faults import FAULTS, Fault
from hpctrain.errors import SlurmError, StorageError
from hpctrain.health.config import CONTEXTS, parse_config
from hpctrain.health.policy import Limits
from hpctrain.nodes.service import Nodes
from hpctrain.slurm.via_cli import SlurmCli
from tests import fault_table
from tests.cluster.checked_cluster import PATIENCE_S, HealthCluster, Seen, checked_cluster, wait_for
from tests.cluster.conftest import require_slurm
from tests.fault_table import Cell

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

BROKEN, SPARE = 16, 2
NODES = [f"n{number}" for number in range(1, BROKEN + 1)]
CLEAN = ("ok", "observe")
"""Processes and file systems are this machine's own, and may be worth a note."""
SAMPLES = {"gpu-lost", "row-remap-failed", "nvlink-down", "xid-79", "ib-down", "nvme-dead"}
"""One fault of each class: these are tried in every context also in the usual run."""


class Watch:
    """One look at Slurm for all threads, twice a second."""

    def __init__(self, cluster: HealthCluster) -> None:
        self._cluster = cluster
        self._seen = cluster.look()
        self._news = threading.Condition()
        self._end = False
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self._thread.start()

    def _go_on(self) -> None:
        while not self._end:
            time.sleep(0.5)
            try:
                seen = self._cluster.look()
            except AssertionError:  # Slurm was too busy to answer
                continue
            with self._news:
                self._seen = seen
                self._news.notify_all()

    def until(self, what: Callable[[Seen], bool], told: str) -> Seen:
        """Wait for what is to come about; the look in which it had."""
        until = time.monotonic() + PATIENCE_S
        with self._news:
            while not what(self._seen):
                assert time.monotonic() < until, f"{told} did not come about"
                self._news.wait(5)
            return self._seen

    def stop(self) -> None:
        """End the thread."""
        self._end = True
        self._thread.join()


class Drill:
    """Plays one fault in one context on one node."""

    def __init__(self, cluster: HealthCluster, watch: Watch) -> None:
        self._cluster, self._watch = cluster, watch
        config, _ = parse_config(json.loads((cluster.directory / "health.json").read_text()))
        soon = Limits(recovery_s=1.0, longest_recovery_s=1.0, lemon_score=1e9)
        self.nodes = Nodes(SlurmCli(cluster.environment), config, SystemClock(), soon)

    def play(self, node: str, fault: Fault, context: str) -> Cell:
        """Break the node, see what becomes of it and of a job, and bring it back."""
        cell = {"prolog": self._prolog, "epilog": self._epilog, "periodic": self._periodic}[context](node, fault)
        self.bring_back(node, drained="drained" in cell.outcome)
        return cell

    def _prolog(self, node: str, fault: Fault) -> Cell:
        cluster, watch = self._cluster, self._watch
        cluster.files(node).inject(fault.make(0))
        job = cluster.submit("echo ran on $SLURMD_NODENAME", "-w", node, "--gres=gpu:2")
        seen = watch.until(lambda seen: seen.nodes[node][0] == "drained" or done(seen, job), f"the start of job {job}")
        if done(seen, job):
            return self._noted(node, fault, job, "prolog")
        watch.until(lambda seen: seen.jobs[job][0] == "PENDING", f"the requeue of job {job}")
        # It asked for the broken node by name; where else it may run is its owner's choice.
        cluster.slurm("scontrol", "update", f"JobId={job}", "ReqNodeList=", f"ExcNodeList={','.join(NODES)}")
        cluster.slurm("scontrol", "update", f"JobId={job}", "StartTime=now")
        seen = watch.until(lambda seen: done(seen, job), f"the end of job {job} elsewhere")
        assert seen.jobs[job][1] not in NODES
        assert f"ran on {seen.jobs[job][1]}" in (cluster.directory / f"out.{job}").read_text()
        self._told(node, fault, job, "prolog", "drain")
        return Cell(fault_table.MOVED, watch.until(lambda _: True, "").nodes[node][1])

    def _epilog(self, node: str, fault: Fault) -> Cell:
        job, go_on = self.running(node)
        self._cluster.files(node).inject(fault.make(0))
        go_on()
        self._watch.until(lambda seen: done(seen, job), f"the end of job {job}")
        wait_for(lambda: bool(self.events(node, "epilog", job)))
        return self._drained(node, fault, job, "epilog")

    def _periodic(self, node: str, fault: Fault) -> Cell:
        job, go_on = self.running(node)
        self._cluster.files(node).inject(fault.make(0))
        known = len(self.events(node, "periodic"))
        self._cluster.flag("look", node, on=True)
        wait_for(lambda: len(self.events(node, "periodic")) > known)
        self._cluster.flag("look", node, on=False)
        if self.events(node, "periodic")[known]["level"] == "drain":
            seen = self._watch.until(lambda seen: "drain" in seen.nodes[node][0], f"the drain of {node}")
            assert "RUNNING" == seen.jobs[job][0]
        go_on()
        self._watch.until(lambda seen: done(seen, job), f"the end of job {job}")
        return self._drained(node, fault, "", "periodic")

    def running(self, node: str) -> tuple[str, Callable[[], None]]:
        """A job that runs on the node, and what lets it end."""
        go_on = self._cluster.directory / f"go-{node}"
        go_on.unlink(missing_ok=True)
        job = self._cluster.submit(f"while [ ! -e {go_on} ]; do sleep 0.2; done", "-w", node, "--gres=gpu:2")
        self._watch.until(lambda seen: seen.jobs.get(job, ("",))[0] == "RUNNING", f"the start of job {job}")
        wait_for((self._cluster.directory / f"out.{job}").exists)
        return job, go_on.touch

    def _drained(self, node: str, fault: Fault, job: str, context: str) -> Cell:
        """The cell of a context in which the job goes on whatever is found."""
        if self.events(node, context, job)[-1]["level"] != "drain":
            return self._noted(node, fault, job, context)
        self._told(node, fault, job, context, "drain")
        seen = self._watch.until(lambda seen: seen.nodes[node][0] == "drained", f"the drain of {node}")
        return Cell(fault_table.DRAINED, seen.nodes[node][1])

    def _noted(self, node: str, fault: Fault, job: str, context: str) -> Cell:
        wait_for(lambda: bool(self.events(node, context, job)))
        event = self.events(node, context, job)[-1]
        found = [one for one in event["evidence"] if one["check"] == fault.check]
        if not found:
            assert event["level"] in CLEAN, event
            return Cell(fault_table.NOTHING, "")
        outcome = fault_table.RECORDED if found[0]["level"] == "ok" else fault_table.NOTED.format(level=found[0]["level"])
        return Cell(outcome, f"{fault.check}: {found[0]['message']}")

    def _told(self, node: str, fault: Fault, job: str, context: str, level: str) -> None:
        """The node's log has the verdict, and the fault's own check among what led to it."""
        wait_for(lambda: bool(self.events(node, context, job)))
        evidence = self.events(node, context, job)[-1]["evidence"]
        assert fault.check in {one["check"] for one in evidence if one["level"] == level}, evidence

    def events(self, node: str, context: str, job: str = "") -> list[dict[str, Any]]:
        verdicts = (event for event in self._cluster.events(node) if event["kind"] == "health")
        return [event for event in verdicts if event["context"] == context and job in ("", event["job"])]

    def _validated(self, node: str) -> bool:
        try:
            return self.nodes.validate(node)[0]
        except StorageError:  # a check is writing its records at this moment
            return False

    def bring_back(self, node: str, *, drained: bool) -> None:
        """Heal the node as a reboot would; validate it; in service, and nothing is left of what happened to it."""
        self._watch.until(lambda seen: seen.nodes[node][0] in ("idle", "drained"), f"the end of what runs on {node}")
        self._cluster.files(node).heal(reboot=True)
        if drained:
            known = len(self.events(node, "periodic"))
            self._cluster.flag("look", node, on=True)
            wait_for(lambda: len(self.events(node, "periodic")) > known and self._validated(node))
            self._cluster.flag("look", node, on=False)
            assert self.events(node, "periodic")[-1]["level"] in CLEAN
        self._watch.until(lambda seen: seen.nodes[node] == ("idle", "none"), f"the return of {node}")
        for path in (self._cluster.directory / "verdicts").glob(f"{node}.*"):
            path.unlink(missing_ok=True)


def done(seen: Seen, job: str) -> bool:
    """The job has finished well."""
    state = seen.jobs.get(job, ("",))[0]
    assert state not in ("FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"), f"job {job} is {state}"
    return state == "COMPLETED"


@pytest.fixture(scope="module")
def cluster(cluster_state_dir: Path) -> Iterator[HealthCluster]:
    """Sixteen nodes to break, and two that stay healthy."""
    require_slurm()
    name = f"faults-{os.getpid()}"
    with checked_cluster(cluster_state_dir, name, nodes=BROKEN + SPARE, interval_s=3, held=True) as made:
        yield made


@pytest.fixture(scope="module")
def drill(cluster: HealthCluster) -> Iterator[Drill]:
    """What plays the faults."""
    watch = Watch(cluster)
    yield Drill(cluster, watch)
    watch.stop()


def play(drill: Drill, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Cell]:
    """Play these faults in these contexts, each on a node that has nothing else to do; say what went wrong with which."""
    free: queue.Queue[str] = queue.Queue()
    for node in NODES:
        free.put(node)

    def one(case: tuple[str, str]) -> Cell | str:
        node = free.get(timeout=PATIENCE_S * 5)
        try:
            cell = drill.play(node, FAULTS[case[0]], case[1])
        except BaseException as error:  # noqa: BLE001 - it is told below; the node stays as it is
            return f"{case[0]} in {case[1]} on {node}: {error!r}"
        free.put(node)
        return cell

    with ThreadPoolExecutor(BROKEN) as pool:
        cells = dict(zip(wanted, pool.map(one, wanted), strict=True))
    assert [] == [cell for cell in cells.values() if isinstance(cell, str)]
    return {case: cell for case, cell in cells.items() if isinstance(cell, Cell)}


def check(played: dict[tuple[str, str], Cell]) -> None:
    """What happened is what the page says, and the page says what the catalogue promises."""
    page = fault_table.parse(fault_table.PAGE.read_text())
    for (name, context), cell in played.items():
        fault, told = FAULTS[name], page[name, context]
        assert (told.outcome, True) == (cell.outcome, cell.reason in told.reason), (name, context, cell)
        assert (fault.drains and context in fault.contexts) is ("drained" in cell.outcome), (name, context, cell)
        assert cell.reason.startswith("hpctrain: ") is ("drained" in cell.outcome), (name, context, cell)


def test_each_fault_once_and_each_class_in_every_context(drill: Drill) -> None:
    """The right verdict, the right drain reason, the job finishes (elsewhere), and the healed node returns."""
    cases = []
    for number, fault in enumerate(FAULTS.values()):
        once = fault.contexts[number % len(fault.contexts)]
        cases += [(fault.name, context) for context in (CONTEXTS if fault.name in SAMPLES else (once,))]

    check(play(drill, cases))


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_each_fault_in_every_context(drill: Drill) -> None:
    """The same for all of them; with FAULT_TABLE=write the outcome becomes the page."""
    played = play(drill, [(name, context) for name in FAULTS for context in CONTEXTS])
    if os.environ.get("FAULT_TABLE") == "write":
        fault_table.PAGE.write_text(fault_table.render(played))

    assert fault_table.PAGE.read_text() == fault_table.render(played)
    check(played)


def test_a_persons_drain_survives_all_of_it(cluster: HealthCluster, drill: Drill) -> None:
    """Prolog, epilog and health program find a fault on nodes that a person drains; nothing of ours changes that."""
    reason = "operator: memory test"
    places = dict(zip(CONTEXTS, NODES, strict=False))
    cluster.flag("hold-prolog", places["prolog"], on=True)
    jobs = {"prolog": cluster.submit("hostname", "-w", places["prolog"], "--gres=gpu:2"), "periodic": ""}
    wait_for(lambda: cluster.look().jobs[jobs["prolog"]][1] == places["prolog"])
    jobs["epilog"], go_on = drill.running(places["epilog"])
    for node in places.values():
        cluster.slurm("scontrol", "update", f"NodeName={node}", "State=DRAIN", f"Reason={reason}")
        cluster.files(node).inject(FAULTS["row-remap-failed"].make(0))
    cluster.flag("hold-prolog", places["prolog"], on=False)
    cluster.flag("look", places["periodic"], on=True)
    go_on()
    for context, node in places.items():
        wait_for(lambda node=node, context=context: bool(drill.events(node, context, jobs[context])))  # type: ignore[misc]
        assert "drain" == drill.events(node, context, jobs[context])[0]["level"]
    wait_for(lambda: cluster.look().jobs[jobs["prolog"]][0] == "PENDING")
    cluster.slurm("scancel", jobs["prolog"])

    for node in places.values():
        wait_for(lambda node=node: cluster.node(node) == ("drained", reason))  # type: ignore[misc]
        cluster.files(node).heal(reboot=True)
        cluster.flag("look", node, on=True)
    known = {node: len(drill.events(node, "periodic")) for node in places.values()}
    for node in places.values():
        wait_for(lambda node=node: len(drill.events(node, "periodic")) > known[node] + 1)  # type: ignore[misc]
        assert drill.events(node, "periodic")[-1]["level"] in CLEAN
        for change in (drill.nodes.validate, drill.nodes.undrain):
            with pytest.raises(SlurmError, match=reason):
                change(node)
        assert ("drained", reason) == cluster.node(node)
        cluster.slurm("scontrol", "update", f"NodeName={node}", "State=UNDRAIN")
        cluster.flag("look", node, on=False)
