"""Jobs are made, waited for and collected, also when nodes die, jobs never start or somebody cancels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpctrain.errors import NotFoundError, UsageError
from hpctrain.health.deep import service
from hpctrain.health.deep.baseline import Band
from hpctrain.health.deep.files import DeepFiles, default_baseline, new_run, read_baselines
from hpctrain.health.deep.judge import Verdict
from hpctrain.health.deep.measurement import CHECKS, Measurement, Status
from hpctrain.health.deep.plan import DeepJob, DeepPlan, Placement
from hpctrain.health.deep.report import JobEnd
from hpctrain.health.deep.report_html import render
from hpctrain.health.deep.service import Request
from hpctrain.ids import NodeName
from hpctrain.slurm.model import JobState, Node
from hpctrain.slurm.nodelist import fold
from hpctrain.slurm.script_options import script_options
from hpctrain.testing.fake_clock import FakeClock
from hpctrain.testing.fake_slurm import FakeSlurm

HARDWARE = {"device": "cuda", "name": "H200", "count": 8, "torch": "2.13"}


def plan_for(*jobs: DeepJob, checks: Sequence[str] = ("gemm",), pairwise: bool = False) -> DeepPlan:
    """A plan for these jobs."""
    return DeepPlan(tuple(checks), pairwise, "smoke", Band(), jobs, "/tmp", {})


def request(**changes: Any) -> Request:
    """A request with small patience."""
    return replace(Request(Placement(), "/usr/bin/python3", 100.0, fold), **changes)


class Site:
    """A Slurm, a clock and a run's directory."""

    def __init__(self, directory: Path) -> None:
        self.clock = FakeClock()
        self.slurm = FakeSlurm(clock=self.clock)
        self.files = new_run(directory / "runs", "stamp")

    def write(self, node: str, value: float, *, ended: bool = True) -> None:
        """What a node would write down about its matrix products."""
        self.files.tell(node, "hardware", HARDWARE)
        for metric, unit in CHECKS["gemm"].metrics.items():
            self.files.tell(node, "measurement", Measurement(node, "gemm", metric, Status.MEASURED, value, unit).to_json())
        if ended:
            self.files.tell(node, "end", {})


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A cluster of four nodes."""
    return Site(tmp_path)


def test_every_node_is_a_job_and_pairs_share_one(site: Site) -> None:
    """A busy node delays only itself, unless pairs need all at once; kinds of nodes never share a job."""
    nodes = [*site.slurm.nodes(), Node(NodeName("m1"), "IDLE", gpus=4, gpu_type="h100", cpus=32)]

    single, _ = service.sort_out(nodes, pairwise=False, reserved=False)
    paired, _ = service.sort_out(nodes, pairwise=True, reserved=False)

    assert [("n1",), ("n2",), ("n3",), ("n4",), ("m1",)] == [job.nodes for job in single]
    assert [("n1", "n2", "n3", "n4"), ("m1",)] == [job.nodes for job in paired]
    assert [(0, "gpu:sim:8"), (4, "gpu:h100:4")] == [(job.gpus, job.gres) for job in paired]


def test_nodes_that_run_no_job_are_skipped_with_the_reason(site: Site) -> None:
    """Drained, down, or in a reservation that was not named."""
    site.slurm.drain([NodeName("n1")], "operator: fans")
    site.slurm.node_down("n2")
    nodes = [*site.slurm.nodes(), Node(NodeName("m1"), "IDLE", frozenset({"MAINTENANCE"}))]

    jobs, skipped = service.sort_out(nodes, pairwise=False, reserved=False)
    assert [("n3",), ("n4",)] == [job.nodes for job in jobs]
    assert "operator: fans" in skipped["n1"]
    assert "down" in skipped["n2"]
    assert "--reservation" in skipped["m1"]
    assert ("m1",) in [job.nodes for job in service.sort_out(nodes, pairwise=False, reserved=True)[0]]


def test_a_script_asks_for_whole_nodes_in_the_reservation(tmp_path: Path) -> None:
    """And a path with blanks and quotes reaches the shell as one word."""
    plan = plan_for(DeepJob(("n1", "n2"), 8, "gpu:h100:8"), pairwise=True)
    placement = Placement("big", "ops", "maint_1", 600)
    (text,) = service.scripts(plan, request(placement=placement), str(tmp_path / "it's a $dir"), "run")
    options = script_options(text)

    for name, value in {
        "nodes": "2", "nodelist": "n[1-2]", "exclusive": "", "reservation": "maint_1", "partition": "big", "account": "ops",
        "time": "10", "gres": "gpu:h100:8", "mem": "0",
    }.items():  # fmt: skip
        assert value == options[name], name
    assert "it'\"'\"'s a $dir" in text
    assert "--no-kill" in text


@pytest.mark.parametrize("value", ["a b", "a\nb", "a;b", '"', "$(x)"])
def test_words_for_slurm_are_plain(value: str) -> None:
    """Nothing from the command line changes what an #SBATCH line says."""
    with pytest.raises(UsageError):
        service.require_plain("--partition", value)


def test_a_run_from_submission_to_report(site: Site) -> None:
    """Three nodes are alike, one is slow; the record of the run says so."""
    plan = plan_for(*(DeepJob((f"n{number}",)) for number in range(1, 5)))
    ids = service.submit(site.slurm, plan, request(), site.files)
    for number, value in enumerate((100.0, 101.0, 100.5, 70.0), 1):
        site.write(f"n{number}", value)
    for job_id in ids:
        site.slurm.finish(job_id)
    ends = service.wait(site.slurm, ids, site.clock, 100.0, lambda _: None)

    report = service.collect(site.files, ends, {"n9": "it is drained"}, site.clock)

    assert ["n4"] == [node.node for node in report.blamed]
    assert (Verdict.SLOW, 1) == (report.worst, report.exit_code)
    assert {"n1": "pass", "n2": "pass", "n3": "pass", "n4": "slow", "n9": "skipped"} == {
        node.node: node.verdict.value for node in report.nodes
    }
    kept = json.loads((site.files.directory / "report.json").read_text())
    assert (["n4"], "H200 x 8") == (kept["blamed"], kept["nodes"][0]["kind"])
    assert 0o700 == site.files.directory.stat().st_mode & 0o777
    assert 0o600 == (site.files.directory / "secret").stat().st_mode & 0o777
    assert 100.5 == report.new_baselines["H200 x 8 / smoke"]["gemm.float32"].median


def test_a_node_that_dies_is_told_from_one_that_was_cancelled(site: Site) -> None:
    """What it measured before it died counts; a cancelled job blames nobody."""
    plan = plan_for(DeepJob(("n1",)), DeepJob(("n2",)), DeepJob(("n3",)), checks=("gemm", "disk"))
    site.files.create(plan)
    site.write("n1", 100.0, ended=False)
    site.write("n2", 100.0, ended=False)
    ends = [
        JobEnd(True, why="its node failed (job 1)"), JobEnd(True, cut_short=True, why="the job was cancelled (job 2)"),
        JobEnd(False, why="job 3 did not start within 60 s (Resources)"),
    ]  # fmt: skip

    report = service.collect(site.files, ends, {}, site.clock)
    n1, n2, n3 = report.nodes

    assert (Verdict.FAILED, True) == (n1.verdict, n1.blamed)
    assert "its node failed (job 1); without a result: disk" in n1.reason
    assert (Verdict.FAILED, False) == (n2.verdict, n2.blamed)
    assert (Verdict.SKIPPED, False) == (n3.verdict, n3.blamed)
    assert "Resources" in n3.reason
    assert 3 == len(n1.results)


def test_a_job_that_does_not_start_is_cancelled(site: Site) -> None:
    """Its node is busy with somebody's work."""
    plan = plan_for(DeepJob(("n1", "n2", "n3", "n4")))
    first = service.submit(site.slurm, plan, request(), site.files)
    ids = service.submit(site.slurm, plan, request(), DeepFiles(new_run(site.files.directory, "b").directory))

    (end,) = service.wait(site.slurm, ids, site.clock, 100.0, lambda _: None)

    assert not end.started
    assert "did not start in time" in end.why
    assert [JobState.CANCELLED] == [job.state for job in site.slurm.jobs(ids)]
    assert [JobState.RUNNING] == [job.state for job in site.slurm.jobs(first)]


def test_a_job_without_its_first_node_is_ended(site: Site) -> None:
    """Slurm lets it run to its time limit: nobody leads it, and what its nodes wrote down is collected at once."""
    ids = service.submit(site.slurm, plan_for(DeepJob(("n1", "n2", "n3")), pairwise=True), request(), site.files)
    lost = site.slurm.jobs(ids)[0].batch_host
    assert lost is not None
    site.slurm.node_down(lost)

    (end,) = service.wait(site.slurm, ids, site.clock, 100.0, lambda _: None)

    assert f"node {lost}, which led the job, was lost" in end.why
    assert [JobState.CANCELLED] == [job.state for job in site.slurm.jobs(ids)]


def test_a_silent_controller_ends_no_run(site: Site) -> None:
    """It is told, and waited for; the jobs are still there when it is back."""
    ids = service.submit(site.slurm, plan_for(DeepJob(("n1",))), request(), site.files)
    heard: list[str] = []

    def hear(text: str) -> None:
        heard.append(text)
        site.slurm.controller_up = len(heard) > 2
        if len(heard) == 4:
            site.slurm.finish(ids[0])

    hear("nothing yet")
    (end,) = service.wait(site.slurm, ids, site.clock, 100.0, hear)

    assert "COMPLETED" in end.why
    assert "the jobs go on" in heard[1]


def test_ctrl_c_cancels_the_jobs(site: Site) -> None:
    """Nobody's nodes stay under load for a report that nobody waits for."""
    ids = service.submit(site.slurm, plan_for(DeepJob(("n1",)), DeepJob(("n2",))), request(), site.files)

    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        service.wait(site.slurm, ids, site.clock, 100.0, interrupt)
    assert {JobState.CANCELLED} == {job.state for job in site.slurm.jobs(ids)}


def test_pairs_are_judged_from_their_record(site: Site) -> None:
    """A node slow in two pairings is blamed in the report, and its partners are not."""
    plan = plan_for(DeepJob(("n1", "n2", "n3", "n4")), checks=(), pairwise=True)
    site.files.create(plan)
    for node in ("n1", "n2", "n3", "n4"):
        site.files.tell(node, "hardware", HARDWARE)
        site.files.tell(node, "end", {})
    rounds = ((1, "n1", "n3", 20), (1, "n2", "n4", 100), (2, "n1", "n2", 99), (2, "n3", "n4", 21))
    for number, first, second, value in rounds:
        record = {"round": number, "first": first, "second": second, "value": value, "corrupt": False, "detail": ""}
        site.files.tell_pair(0, {**record, "kind": "H200 x 8"})

    report = service.collect(site.files, [JobEnd(True, why="the job ended as COMPLETED")], {}, site.clock)

    assert ["n3"] == [node.node for node in report.blamed]
    assert "slow in 2 different pairings, with n1, n4" in report.blamed[0].reason
    assert 4 == len(report.rounds)


def test_the_page_escapes_what_nodes_say(site: Site) -> None:
    """A node's words are data, also where they look like a page."""
    site.files.create(plan_for(DeepJob(("n1",))))
    evil = "<script>alert('x')</script>&"
    site.files.tell("n1", "hardware", {**HARDWARE, "name": evil})
    bad = Measurement("n1", "gemm", "gemm.float32", Status.CORRUPT, None, evil, evil, evil)
    site.files.tell("n1", "measurement", bad.to_json())
    site.files.tell("n1", "end", {})

    page = render(service.collect(site.files, [JobEnd(True)], {evil: evil}, site.clock), evil)

    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("corrupt") >= 3
    assert "http" not in page


def test_garbage_in_the_records_is_skipped(site: Site) -> None:
    """A torn line, a foreign check, a result of another node."""
    site.files.create(plan_for(DeepJob(("n1",))))
    site.write("n1", 5.0)
    with (site.files.directory / "nodes/n1.jsonl").open("a") as file:
        file.write('{"kind": "measurement", "node": "n1"}\n[1]\n{"torn')
    site.files.tell("n1", "measurement", Measurement("n2", "gemm", "gemm.float32", Status.CORRUPT).to_json())
    site.files.tell_pair(0, {"round": "x"})

    (node,) = service.collect(site.files, [JobEnd(True)], {}, site.clock).nodes

    assert (Verdict.UNJUDGED, 2) == (node.verdict, len(node.results))


def test_baselines_are_required_where_they_are_named(tmp_path: Path) -> None:
    """The default file may be missing; a named one may not, and a damaged one never."""
    path = default_baseline(tmp_path)
    assert {} == read_baselines(path, required=False)
    with pytest.raises(NotFoundError, match="no file of baselines"):
        read_baselines(path, required=True)
    path.parent.mkdir()
    path.write_text("{}")
    with pytest.raises(NotFoundError, match="cannot be read"):
        read_baselines(path, required=False)
