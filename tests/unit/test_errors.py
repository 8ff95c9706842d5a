"""The error table: what is drawn, what is coded and what is published are the same."""

from __future__ import annotations

import re

import pytest

from hpctrain import errors
from hpctrain.cli.main import invoke
from hpctrain.errors import HpctrainError

DRAWN_LINE = re.compile(r"^ {4}([│├└─\s]*)(\w+)\s+(\d+)\s+(\S.*)$")
SHARED = {1: "the base", 4: "two kinds of not found", 5: "Slurm said no", 19: "an endpoint said no"}
"""Codes that more than one class may own, and what they have in common."""


def drawn() -> dict[str, tuple[str, int]]:
    """The tree of the module's docstring: class name to (name of the class above it, exit code)."""
    tree: dict[str, tuple[str, int]] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").split("\n"):
        match = DRAWN_LINE.match(line)
        if match:
            depth = len(match.group(1)) // 4
            above = [*above[:depth], match.group(2)]
            tree[match.group(2)] = (above[depth - 1] if depth else "Exception", int(match.group(3)))
    return tree


def classes() -> dict[str, type[HpctrainError]]:
    """Every error class of the module."""
    found = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    return {name: value for name, value in found.items() if issubclass(value, HpctrainError)}


def test_the_drawn_tree_is_the_real_one() -> None:
    """Every class is drawn below its first base with its own exit code, and nothing else is drawn."""
    real = {name: (cls.__bases__[0].__name__, cls.exit_code) for name, cls in classes().items()}

    assert real == drawn()


def test_every_class_is_explained() -> None:
    """Every class has a docstring of one sentence, which the published table prints."""
    assert [] == [name for name, cls in classes().items() if not (cls.__doc__ or "").strip().split("\n")[0].endswith(".")]


def test_exit_codes_mean_one_thing() -> None:
    """No two classes share an exit code, but those that say the same to a script."""
    owners: dict[int, list[str]] = {}
    for name, cls in classes().items():
        owners.setdefault(cls.exit_code, []).append(name)

    assert {} == {code: names for code, names in owners.items() if len(names) > 1 and code not in SHARED}


def test_exit_codes_fit_the_shell() -> None:
    """Codes lie between 1 and 125, where the shell means nothing of its own, but for Ctrl-C."""
    assert {"StopRequested"} == {name for name, cls in classes().items() if not 1 <= cls.exit_code <= 125}


def test_where_comes_first_and_the_hint_stays_apart() -> None:
    """The text is 'where: message'; advice is kept apart so that it can be printed on its own line."""
    error = errors.RecipeError("no such key", where="r.yaml:3", hint="did you mean 'model'?")

    assert "r.yaml:3: no such key" == str(error)
    assert "did you mean 'model'?" == error.advice


def test_a_class_lends_its_hint() -> None:
    """Without advice of its own an error carries its class's."""
    assert errors.SlurmMissingError.hint == errors.SlurmMissingError("no sbatch").advice


@pytest.mark.parametrize("cls", list(classes().values()), ids=list(classes()))
def test_the_command_line_exits_with_the_code(
    cls: type[HpctrainError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever a command raises becomes one 'error:' line on standard error and the class's own exit code."""
    from hpctrain.cli import main

    def fail(**_: object) -> None:
        raise cls("it broke", where="here:1", hint="mend it")

    monkeypatch.setattr(main.cli, "main", fail)
    code = invoke(["list"])
    printed = capsys.readouterr()

    assert cls.exit_code == code
    assert "" == printed.out
    assert "error: here:1: it broke\nhint:  mend it\n" == printed.err


@pytest.mark.parametrize(("text", "line"), [
    ("one\ntwo", "one"), ("", "ValueError"),
    ("Validation error:\n\n    width 65 is odd\nmore", "Validation error: width 65 is odd"),
    ("ends so:", "ends so:"),
])
def test_a_librarys_error_is_one_line(text: str, line: str) -> None:
    """The first line, and the second where the first only announces it."""
    assert errors.first_line(ValueError(text)) == line
