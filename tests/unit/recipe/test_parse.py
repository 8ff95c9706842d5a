"""YAML text to values with lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.errors import RecipeError
from hpctrain.recipe.node import Path, find, to_plain
from hpctrain.recipe.parse import parse_document, parse_value


def plain(text: str) -> object:
    return to_plain(parse_document(text, "r.yaml"))


@pytest.mark.parametrize(("text", "value"), [
    ("1e-4", 1e-4), ("1.5", 1.5), (".5", 0.5), ("3", 3), ("-3", -3), ("1_000", 1000), ("0", 0), ("15e9", 15e9),
    ("true", True), ("False", False), ("null", None), ("~", None),
    ("on", "on"), ("yes", "yes"), ("No", "No"), ("02:00:00", "02:00:00"), ("1:30", "1:30"), ("010", "010"),
    ("0x10", "0x10"), ("1.2.3", "1.2.3"), (".nan", ".nan"), (".inf", ".inf"), ("2026-01-01", "2026-01-01"), ("'1'", "1"),
])
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    """Numbers and booleans are those of YAML 1.2; clock times, octals, dates and on/off stay text."""
    assert plain(f"a: {text}") == {"a": value}


def test_every_value_knows_its_line() -> None:
    """A scalar has its own line, a section that of its key, a list item its own."""
    root = parse_document("a: 1\nb:\n  c: x\n  d:\n    - 1\n    - 2\n", "r.yaml")

    paths: list[Path] = [("a",), ("b",), ("b", "c"), ("b", "d"), ("b", "d", 1)]
    lines = {path: node.origin for path in paths if (node := find(root, path))}
    assert lines == {
        ("a",): "r.yaml:1", ("b",): "r.yaml:2", ("b", "c"): "r.yaml:3", ("b", "d"): "r.yaml:4", ("b", "d", 1): "r.yaml:6",
    }


@pytest.mark.parametrize(("text", "where", "message"), [
    ("", "r.yaml", "empty"),
    ("# only a comment\n", "r.yaml", "empty"),
    ("- a\n", "r.yaml:1", "mapping"),
    ("just text", "r.yaml:1", "mapping"),
    ("a: 1\na: 2\n", "r.yaml:2", "given twice, first in line 1"),
    ("a:\n\tb: 1\n", "r.yaml:2", "tab"),
    ("a: b: c\n", "r.yaml:1", "quotes"),
    ("a: [1, 2\nb: 3\n", "r.yaml:2", "not valid YAML"),
    ("a: 1\n---\nb: 2\n", "r.yaml:2", "one YAML document"),
    ("a: !!python/object/apply:os.system [echo]\n", "r.yaml:1", "tags are not supported"),
    ("a: !!str 1\n", "r.yaml:1", "tags are not supported"),
    ("b: &b {x: 1}\na:\n  <<: *b\n", "r.yaml:3", "merge keys"),
    ("a: &a [*a]\n", "r.yaml:1", "deep"),
    ("? [a, b]\n: c\n", "r.yaml:1", "a key must be a word"),
    ('a: "x\\0y"\n', "r.yaml:1", "control character"),
    ('a: "\\ud800"\n', "r.yaml:1", "control character"),
    ("a: 1e999\n", "r.yaml:1", "too large"),
    ("a: " + "9" * 5000 + "\n", "r.yaml:1", "not a number that means anything"),
    ("a: \x00\n", "r.yaml:1", "may not appear"),
    ("a: *nowhere\n", "r.yaml:1", "not valid YAML"),
])
def test_broken_documents_are_told_with_line(text: str, where: str, message: str) -> None:
    """Each kind of broken YAML is one error with file and line and the reason in words."""
    with pytest.raises(RecipeError, match=message) as error:
        parse_document(text, "r.yaml")

    assert error.value.where == where


def test_aliases_that_multiply_are_refused() -> None:
    """Nine levels of nine aliases would be 387 million values; it is refused early, without making them."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]

    with pytest.raises(RecipeError, match="aliases that multiply"):
        parse_document("\n".join(lines), "r.yaml")


def test_plain_aliases_work() -> None:
    """An alias repeats the value it names."""
    assert plain("a: &x [1, 2]\nb: *x\n") == {"a": [1, 2], "b": [1, 2]}


def test_deep_nesting_is_refused() -> None:
    """Nesting that would exhaust the interpreter's stack is an error, not a crash."""
    with pytest.raises(RecipeError, match="deep"):
        parse_document("a: " + "[" * 20_000 + "]" * 20_000, "r.yaml")


@pytest.mark.parametrize(("text", "value"), [
    ("3", 3), ("1e-3", 1e-3), ("", ""), ("null", None), ("[a, 1]", ["a", 1]), ("{a: 1}", {"a": 1}), ('"3"', "3"),
    ("a: b", "a: b"), ("- x", "- x"), ("*x", "*x"), ("# x", "# x"), ("!!str x", "!!str x"), ("$(id)", "$(id)"),
])
def test_set_values_are_scalars_or_flow(text: str, value: object) -> None:
    """The value of --set is a scalar as it stands, a quoted one, or a flow list or mapping."""
    assert to_plain(parse_value(text, "--set x")) == value


def test_broken_set_value_names_the_option() -> None:
    """A list that is not closed is told with the option it was given in."""
    with pytest.raises(RecipeError, match="not valid YAML") as error:
        parse_value("[a", "--set data.paths")

    assert error.value.where.startswith("--set data.paths")


@given(st.text(max_size=200) | st.lists(st.sampled_from(list("ab:-[]{}&*!|>'\"\n\t #%@`,?0e1~<")), max_size=60).map("".join))
def test_no_text_gives_anything_but_values_or_a_recipe_error(text: str) -> None:
    """Whatever is in the file, the reader returns values or raises RecipeError."""
    try:
        node = parse_document(text, "r.yaml")
    except RecipeError:
        return
    assert isinstance(to_plain(node), dict)
