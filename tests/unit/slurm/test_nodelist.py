"""Folded node lists are read in Slurm's order and written as Slurm accepts them."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain import process
from hpctrain.slurm.nodelist import expand, fold, natural_sort

NAMES = st.sets(st.from_regex(r"[a-z]{1,3}(-?[0-9]{1,3}){0,2}[a-z]?", fullmatch=True), max_size=30)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n[1-3]", ("n1", "n2", "n3")),
        ("n[1-2],m7x,n9", ("n1", "n2", "m7x", "n9")),
        ("n[08-11]", ("n08", "n09", "n10", "n11")),
        ("n[3,1-2]", ("n3", "n1", "n2")),
        ("b[1-2],a1", ("b1", "b2", "a1")),
        ("gpu-a100-[001-002,007]", ("gpu-a100-001", "gpu-a100-002", "gpu-a100-007")),
        ("n[1-2]x", ("n1x", "n2x")),
        ("r[0-1]c[0-1]", ("r0c0", "r0c1", "r1c0", "r1c1")),
        ("n1,n1,n[1-2]", ("n1", "n2")),
        ("login", ("login",)),
    ],
)
def test_expand_keeps_slurms_order(text: str, names: tuple[str, ...]) -> None:
    """Names come in the order of SLURM_NODEID, each once."""
    assert expand(text) == names


@pytest.mark.parametrize("text", ["", " ", "(null)", "None assigned", "None", "n/a", "N/A", None])
def test_texts_for_no_nodes_are_empty(text: str | None) -> None:
    """Slurm has several words for no nodes."""
    assert expand(text) == ()


@pytest.mark.parametrize("text", ["n[1-", "n]1", "n[a-b]", "n[]", "n[3-1]", "n[[1]]"])
def test_broken_lists_are_refused_by_name(text: str) -> None:
    """A list that does not parse is an error that shows it, not a made-up node."""
    with pytest.raises(ValueError, match="is not a node list"):
        expand(text)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        (["n2", "n1", "n10", "n3", "n1"], "n[1-3,10]"),
        (["m1x", "m2x", "n1", "n2"], "m1x,m2x,n[1-2]"),
        (["r1c1", "r0c0", "r0c1"], "r0c[0-1],r1c1"),
        (["n1"], "n1"),
    ],
)
def test_fold_writes_what_slurm_accepts(names: list[str], text: str) -> None:
    """Only the last number of a name folds, and only at its end."""
    assert fold(names) == text


@pytest.mark.parametrize("name", ["", "n1 n2", "n1,n2", "n[1-2]", "@all", "n1;id", "-n1", "n1!n2"])
def test_fold_refuses_what_is_no_node_name(name: str) -> None:
    """Nothing that ClusterShell or a command line would take for more than a name gets through."""
    with pytest.raises(ValueError, match="is not a node name"):
        fold(["n1", name])


@given(NAMES)
def test_fold_and_expand_are_inverse(names: set[str]) -> None:
    """Every set of names survives."""
    assert set(expand(fold(names))) == names


@given(NAMES)
def test_folded_lists_have_numbers_only_at_the_end(names: set[str]) -> None:
    """A bracket is always the end of its item, which is all that Slurm's commands accept."""
    text = fold(names)
    assert text.count("[") == text.count("]")
    assert all(rest == "" or rest.startswith(",") for rest in text.split("]")[1:])


def test_natural_order_is_numeric() -> None:
    """n9 comes before n10."""
    assert natural_sort(["n10", "n9", "m1", "n09"]) == ["m1", "n09", "n9", "n10"]


def test_cluster_shell_is_imported_only_when_needed() -> None:
    """Reading a job on one node costs nothing."""
    program = "import sys; from hpctrain.slurm.nodelist import expand; expand('n1,n2'); print('ClusterShell' in sys.modules)"
    assert process.run([sys.executable, "-c", program], timeout_s=30, env=dict(os.environ)).stdout.strip() == "False"
