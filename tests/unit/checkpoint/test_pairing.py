"""Who keeps whose copies: pairs and at most one triangle, far apart, the same whoever works it out."""

from __future__ import annotations

import random
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.checkpoint.pairing import pair

PATHS = st.dictionaries(
    st.integers(0, 999).map("n{}".format), st.sampled_from(["", "a", "b", "a.x", "a.y", "b.x", "b.y", "b.y.z"]), max_size=40
)


def same_domain(pairs: dict[str, str], domains: dict[str, str]) -> int:
    return sum(domains[node] == domains[peer] for node, peer in pairs.items())


def pairings(nodes: list[str]) -> Iterator[dict[str, str]]:
    """Every way to make pairs, and one triangle of an odd number."""
    if len(nodes) % 2 and len(nodes) >= 3:
        for second in nodes[1:]:
            for third in nodes[1:]:
                if second < third:
                    rest = [node for node in nodes if node not in (nodes[0], second, third)]
                    for others in pairings(rest):
                        yield {nodes[0]: second, second: third, third: nodes[0], **others}
        for second in nodes[1:]:  # the first one in a pair
            rest = [node for node in nodes if node not in (nodes[0], second)]
            for others in pairings(rest) if len(rest) >= 3 else ():
                yield {nodes[0]: second, second: nodes[0], **others}
    elif nodes:
        for second in nodes[1:]:
            for others in pairings([node for node in nodes if node not in (nodes[0], second)]):
                yield {nodes[0]: second, second: nodes[0], **others}
    else:
        yield {}


@given(PATHS, st.randoms(use_true_random=False))
def test_all_nodes_are_in_pairs_or_one_triangle(domains: dict[str, str], mixed: random.Random) -> None:
    """Every node sends to one other and receives from one other: back and forth, but for a triangle when they are odd.

    Any order of the nodes gives the same.
    """
    nodes = list(domains)
    mixed.shuffle(nodes)
    pairs = pair(nodes, domains)

    assert pair(sorted(nodes), domains) == pairs
    if len(nodes) < 2:
        assert {} == pairs
        return
    assert sorted(nodes) == sorted(pairs) == sorted(pairs.values())
    assert not any(node == peer for node, peer in pairs.items())
    around = [node for node in nodes if pairs[pairs[node]] != node]
    assert 3 * (len(nodes) % 2) == len(around)
    assert all(node == pairs[pairs[pairs[node]]] for node in around)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "c", "a.x", "a.y"]), min_size=2, max_size=7))
def test_no_other_pairing_has_fewer_of_one_domain(places: list[str]) -> None:
    """As few copies as possible stay in their failure domain: compared with every pairing there is."""
    domains = {f"n{number}": place for number, place in enumerate(places)}
    best = min(same_domain(pairs, domains) for pairs in pairings(sorted(domains)))
    assert best == same_domain(pair(domains, domains), domains)


@given(st.lists(st.sampled_from(["s0.s1", "s0.s2", "s9.s1", "s9.s2"]), min_size=2, max_size=40).filter(
    lambda places: len(places) % 2 == 0))
def test_the_most_distant_switch_is_preferred(places: list[str]) -> None:
    """Copies cross the outermost switch as often as the numbers of nodes under it allow."""
    outer = {f"n{number}": place[:2] for number, place in enumerate(places)}
    domains = {f"n{number}": place for number, place in enumerate(places)}
    most = max(list(outer.values()).count(switch) for switch in ("s0", "s9"))
    assert max(0, 2 * most - len(places)) == same_domain(pair(domains, domains), outer)


def test_names_at_the_end_of_the_path_do_no_harm() -> None:
    """Slurm's own text, with the node as its last part, gives the same pairs as the switches alone."""
    domains = {f"n{number}": f"core.rack{number // 4}" for number in range(8)}
    assert pair(domains, domains) == pair(domains, {node: f"{switches}.{node}" for node, switches in domains.items()})
    assert {"n0": "n4", "n4": "n0"}.items() <= pair(domains, domains).items()


def test_one_node_has_no_peer() -> None:
    """Alone there is nothing to pair; two without a known topology keep each other's copies."""
    assert {} == pair(["a"], {"a": "x"})
    assert {} == pair([], {})
    assert {"a": "b", "b": "a"} == pair(["b", "a", "a"], {})
