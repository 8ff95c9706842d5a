"""Bounded buffers, folded hosts, chosen hosts and the comparison of versions."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.errors import NotFoundError, UsageError
from hpctrain.fleet.fold import fold_hosts, group
from hpctrain.fleet.hosts import Choice, choose_hosts, silent_nodes
from hpctrain.fleet.kept import Kept
from hpctrain.fleet.push import plan_copies
from hpctrain.fleet.status import NodeStatus, drift, parse_status
from hpctrain.ids import NodeName
from hpctrain.slurm.model import Node


@given(st.lists(st.binary(max_size=50), max_size=40), st.integers(0, 200))
def test_the_beginning_and_the_end_are_kept(chunks: list[bytes], limit: int) -> None:
    """However it is cut: nothing is lost below the limit, and above it the first and the last half are there."""
    kept, whole = Kept(limit), b"".join(chunks)
    for chunk in chunks:
        kept.add(chunk)

    head, tail = whole[: (limit + 1) // 2], whole[len(whole) - limit // 2 :] if limit // 2 else b""
    assert max(0, len(whole) - limit) == kept.dropped_bytes
    if len(whole) <= limit:
        assert whole == kept.value()
    else:
        assert kept.value().startswith(head)
        assert kept.value().endswith(tail)
        assert b"bytes left out" in kept.value()


def test_hosts_are_folded() -> None:
    """Node names fold, addresses stand as they are, equal values come together."""
    assert "login,n[1-3]" == fold_hosts(["n1", "n3", "n2", "login"])
    assert "n1,root@10.0.0.1:22" == fold_hosts(["root@10.0.0.1:22", "n1"])
    assert [(["a", "c"], 1), (["b"], 2)] == group([("a", 1), ("b", 2), ("c", 1)])


def nodes() -> list[Node]:
    """One node that is well, one that is down, one that does not answer."""
    flags = frozenset({"NOT_RESPONDING"})
    return [Node(NodeName("n10"), "IDLE"), Node(NodeName("n9"), "DOWN"), Node(NodeName("n2"), "ALLOCATED", flags)]


def test_hosts_are_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By list, by file and from Slurm; each once."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "hosts").write_text("# all\nn[1-2]  # two\n\nroot@10.0.0.1:2222\n")

    chosen = choose_hosts(Choice(("n[1-2],login", "n1"), tmp_path / "hosts", user="alice"), None)

    assert ["n1", "n2", "login", "root@10.0.0.1:2222"] == list(chosen)
    assert ["alice", "alice", "alice", "root"] == [target.user for target in chosen.values()]
    assert ["n10", "n9", "n2"] == list(choose_hosts(Choice(everything=True), nodes()))
    assert ["n2", "n9"] == list(choose_hosts(Choice(silent=True), nodes())) == silent_nodes(nodes())


@pytest.mark.parametrize(
    ("choice", "error"),
    [
        (Choice(), UsageError),
        (Choice(("n[1-",)), UsageError),
        (Choice(("-x",)), UsageError),
        (Choice(hostfile=Path("/nonexistent/hosts")), NotFoundError),
        (Choice(hostfile=Path("/dev/null")), NotFoundError),
        (Choice(everything=True), NotFoundError),
        (Choice(silent=True), NotFoundError),
    ],
)
def test_no_hosts_are_a_mistake(choice: Choice, error: type[Exception]) -> None:
    """Nothing chosen, a list that does not parse, no such file, a Slurm without such nodes."""
    with pytest.raises(error):
        choose_hosts(choice, [])


def test_copies_are_planned(tmp_path: Path) -> None:
    """A destination with a slash takes several files, one without takes one; directories and doubles are refused."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")
    two.chmod(0o640)

    assert ["/d/one", "/d/two"] == [copy.remote_path for copy in plan_copies([one, two], "/d/")]
    assert ("/d", 0o640) == ((copy := plan_copies([two], "/d")[0]).remote_path, copy.mode)
    for paths, where in (([one, two], "/d"), ([one, one], "/d/"), ([tmp_path], "/d")):
        with pytest.raises(UsageError):
            plan_copies(paths, where)
    with pytest.raises(NotFoundError):
        plan_copies([tmp_path / "none"], "/d")


def test_drift() -> None:
    """What a node has is compared with what it should have, phrase by phrase."""
    good = parse_status("noise\ncurrent=1-a\nprevious=1-0\npython=3.11\nmanifest=m\nconfig=c\n")

    assert NodeStatus("1-a", "1-0", "3.11", "m", "c") == good
    assert () == drift(good, "1-a", "m", "c")
    assert ("nothing is installed",) == drift(parse_status("current=\nunlinked=prolog.sh\n"), "1-a", "m", "c")
    assert ("has version 1-a", "has configuration c") == drift(good, "1-b", "m2", "d")
    assert ("has version 1-a",) == drift(good, "1-b", "m2", "c")
    assert ("the list of its files was changed",) == drift(good, "1-a", "m2", "c")
    found = parse_status("current=1-a\nmanifest=m\nconfig=c\nchanged=a\nchanged=b\nforeign=prolog.sh\nunlinked=health.env\n")
    assert ("changed: a, b", "not ours: prolog.sh", "not linked: health.env") == drift(found, "1-a", "m", "c")
