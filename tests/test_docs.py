"""The documentation is held to the program: commands parse, links lead somewhere, generated pages are fresh."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest

import hpctrain
from hpctrain.cli.main import COMMANDS, cli, invoke
from hpctrain.fleet.remote_profile import find_remote
from hpctrain.settings_file import load_settings
from hpctrain.watchdog.config import parse as parse_watchdog
from tests.docs_reader import Block, anchors, blocks, pages
from tests.source_tree import ROOT

ALL_BLOCKS = [block for page in pages() for block in blocks(page)]


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "scripts/generate_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _typed(program: str) -> Iterator[tuple[Block, list[str]]]:
    for block in ALL_BLOCKS:
        if block.page.name != "cli.md":
            yield from ((block, words) for words in block.commands() if Path(words[0]).name == program)


# ---------------------------------------------------------------- commands


@pytest.mark.parametrize(("block", "words"), list(_typed("hpctrain")), ids=lambda value: getattr(value, "where", None))
def test_commands_in_the_docs_parse(block: Block, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every hpctrain command a reader is told to type exists, with these options and this number of arguments."""
    monkeypatch.chdir(tmp_path)
    arguments = words[1:words.index("|")] if "|" in words else words[1:]

    try:
        _parse(cli, None, "hpctrain", arguments)
    except click.exceptions.Exit:
        pass  # --help and --version end the parsing
    except click.ClickException as error:
        pytest.fail(f"{block.where}: {' '.join(words)}: {error.format_message()}")


def _parse(command: click.Command, parent: click.Context | None, name: str, arguments: list[str]) -> None:
    """What click does before it calls anything."""
    context = command.make_context(name, list(arguments), parent=parent)
    if isinstance(command, click.Group):
        # click has no public name for what a group leaves to its command.
        rest = [*context._protected_args, *context.args]
        if rest:
            child_name, child, child_arguments = command.resolve_command(context, rest)
            assert child is not None
            _parse(child, context, str(child_name), child_arguments)


@pytest.mark.parametrize("script", ["quickstart.sh", "run_tests.sh"])
def test_scripts_in_the_docs_know_their_options(script: str) -> None:
    """Options shown after a script's name are in its --help."""
    text = (ROOT / script).read_text()
    options = {word for _, words in _typed(script) for word in words[1:] if word.startswith("--")}

    assert set() == {option for option in options if option not in text}


def _commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group) and path != "hpctrain":
        for name, child in command.commands.items():
            yield from _commands(child, f"{path} {name}")


def _every_command() -> list[tuple[str, click.Command]]:
    context = click.Context(cli)
    return [pair for name in COMMANDS if (command := cli.get_command(context, name))
            for pair in _commands(command, f"hpctrain {name}")]


def test_every_command_and_option_has_help() -> None:
    """Nothing in the command line is unexplained."""
    wrong = []
    for path, command in _every_command():
        if not command.help:
            wrong.append(path)
        options = [option for option in command.params if isinstance(option, click.Option)]
        wrong += [f"{path} {option.opts[-1]}" for option in options if not option.help]

    assert [] == wrong


def test_the_table_of_help_agrees_with_the_commands() -> None:
    """The one-line help in the table (which spares imports) names commands that exist, each with a full stop."""
    for name, entry in COMMANDS.items():
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        assert name == command.name
        assert entry.help.endswith(".")


def test_everything_that_prints_has_json() -> None:
    """Every command but those whose whole output is a document or a program of its own takes ``-o json``."""
    without = {"hpctrain recipes schema", "hpctrain cluster env"}
    lacking = [
        path for path, command in _every_command()
        if not isinstance(command, click.Group) and not any("--output" in option.opts for option in command.params)
    ]

    assert [] == [path for path in lacking if path not in without]


# ---------------------------------------------------------------- pages


@pytest.mark.parametrize("page", ["exit-codes.md", "cli.md", "recipe.md"])
def test_generated_pages_are_fresh(page: str) -> None:
    """The generated pages say what the program says now: otherwise run scripts/generate_docs.py."""
    assert _generator().PAGES[page]() == (ROOT / "docs" / page).read_text()


def test_every_command_is_documented() -> None:
    """docs/cli.md has a heading for every command and subcommand."""
    text = (ROOT / "docs/cli.md").read_text()

    assert [] == [path for path, _ in _every_command() if not re.search(rf"^#+ {re.escape(path)}$", text, re.MULTILINE)]


LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Links inside the project name files that exist and headings that are there."""
    wrong = []
    for target in LINK.findall(re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)):
        if re.match(r"^[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            wrong.append(target)

    assert [] == wrong


def test_every_page_can_be_reached() -> None:
    """Every page of docs/ is linked from its index or from the list of decisions."""
    starts = (ROOT / "docs/index.md", ROOT / "docs/decisions/README.md")
    links = [(start.parent, target) for start in starts for target in LINK.findall(start.read_text())]
    linked = {(folder / target.partition("#")[0]).resolve() for folder, target in links}

    assert [] == [str(page) for page in (ROOT / "docs").rglob("*.md") if page not in linked and page.name != "index.md"]


# ---------------------------------------------------------------- other blocks


def _blocks(language: str, contains: str = "") -> list[Block]:
    return [block for block in ALL_BLOCKS if block.language == language and contains in block.text]


@pytest.mark.parametrize("block", _blocks("yaml", "version: 1"), ids=lambda block: block.where)
def test_recipes_in_the_docs_are_valid(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe that a reader may copy passes ``hpctrain validate``."""
    (tmp_path / "recipe.yaml").write_text(block.text)
    for word in re.findall(r"[\w./-]+\.py", block.text):
        (tmp_path / word).write_text("")
    monkeypatch.setenv("HPCTRAIN_STATE_DIR", str(tmp_path / "state"))

    assert 0 == invoke(["validate", str(tmp_path / "recipe.yaml"), "--no-cluster"])


@pytest.mark.parametrize("block", _blocks("toml"), ids=lambda block: block.where)
def test_settings_in_the_docs_are_valid(block: Block, tmp_path: Path) -> None:
    """Site settings that a reader may copy are understood, every key of them."""
    path = tmp_path / "config.toml"
    path.write_text(block.text)

    settings = load_settings({**os.environ, "USER": "ada", "HPCTRAIN_SITE_CONFIG": str(path)})
    parse_watchdog(settings.watchdog)
    for name in settings.remote:
        find_remote("" if name == "default" else name, settings.remote)
    assert settings.runs_dir == "/scratch/ada/runs" or "runs_dir" not in block.text


@pytest.mark.parametrize("block", _blocks("python"), ids=lambda block: block.where)
def test_python_in_the_docs_uses_what_exists(block: Block) -> None:
    """Python shown to readers parses, and every name it takes from hpctrain is exported."""
    used = {node.attr for node in ast.walk(ast.parse(block.text)) if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name) and node.value.id == "hpctrain"}

    assert set() == used - set(hpctrain.__all__)
