"""Chat templates are tried before anything is queued."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hpctrain.data.check import check_before_submission
from hpctrain.errors import RecipeError
from hpctrain.recipe.chat_template import template_in
from hpctrain.recipe.model_files import template_problems
from hpctrain.recipe.schema import Recipe

TURNS = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
CALL = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}]}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
PLAIN = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
LAST_ONLY = """{% for message in messages %}{% if message.role == 'user' %}{% continue %}{% endif %}
{% generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}{% endfor %}{{ strftime_now('%d') }}"""
ALTERNATE = "{% if messages[0].role == 'system' %}{{ raise_exception('no ' + messages[0].role) }}{% endif %}{{ messages }}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a tokenizer lies."""
    (tmp_path / "m").mkdir()
    return tmp_path / "m"


def recipe(folder: Path, row: dict[str, Any], **more: Any) -> Recipe:
    """That trains the model there on this row."""
    data = folder.parent / "rows.jsonl"
    data.write_text(json.dumps(row) + "\n")
    return Recipe.model_validate({
        "version": 1, "name": "t", "method": "sft", "model": {"path": str(folder)}, "training": {"steps": 1},
        "data": {"source": "files", "paths": [str(data)]}, **more})


@pytest.mark.parametrize(("text", "says"), [
    ("{{ messages }", ":1: the chat template is broken: unexpected '}'"),
    ("\n{% for m in messages %}", ":2: the chat template is broken: Unexpected end of template"),
    (LAST_ONLY, ""), (PLAIN, ""),
])
def test_a_broken_template_is_seen(folder: Path, text: str, says: str) -> None:
    """What is no jinja is named with file and line; what transformers adds to jinja is known."""
    (folder / "chat_template.jinja").write_text(text)
    found = [problem.message for problem in template_problems(recipe(folder, {"messages": TURNS}))]
    assert len(found) == bool(says)
    assert all(says in message for message in found)


@pytest.mark.parametrize(("text", "row", "says"), [
    (None, {"messages": TURNS}, "is a conversation, and the tokenizer in .* has no chat template"),
    (PLAIN, {"messages": TURNS, "tools": TOOLS}, "has 'tools', which the .* in .*chat_template.jinja never writes"),
    (PLAIN, {"messages": TURNS, "tools": json.dumps(TOOLS)}, "has 'tools'"),
    (PLAIN, {"messages": [TURNS[0], CALL]}, "has tool calls, which"),
    (ALTERNATE, {"messages": [{"role": "system", "content": "x"}, *TURNS]}, "refuses it: no system"),
    (None, {"prompt": TURNS[:1], "completion": TURNS[1:]}, "is a conversation"),
    ("{% if messages[-1].role == 'assistant' %}{{ raise_exception('no answer') }}{% endif %}",
     {"prompt": TURNS[:1], "completion": TURNS[1:]}, "refuses it: no answer"),
])
def test_a_row_that_cannot_be_written_is_named(folder: Path, text: str | None, row: dict[str, Any], says: str) -> None:
    """A row that the template is known to lose something of, or to refuse, ends the submission with its line."""
    if text is not None:
        (folder / "chat_template.jinja").write_text(text)
    with pytest.raises(RecipeError, match=says) as caught:
        check_before_submission(recipe(folder, row))
    assert caught.value.where == f"{folder.parent}/rows.jsonl:1"
    assert "chat.template" in caught.value.advice


@pytest.mark.parametrize(("text", "row"), [
    (PLAIN, {"messages": TURNS}), (PLAIN, {"messages": TURNS, "tools": []}), (LAST_ONLY, {"messages": TURNS}),
    ("{{ tools }}{{ messages }}", {"messages": TURNS, "tools": TOOLS}), (ALTERNATE, {"messages": TURNS}),
    ("{{ messages.nothing.there }}", {"messages": TURNS}), (None, {"prompt": "2 + 2 =", "completion": " 4"}),
])
def test_rows_that_nothing_is_known_against_pass(folder: Path, text: str | None, row: dict[str, Any]) -> None:
    """Plain text needs no template, and what only the run can find out is left to it."""
    if text is not None:
        (folder / "chat_template.jinja").write_text(text)
    assert check_before_submission(recipe(folder, row)) == []


def test_templates_are_found_where_transformers_looks(folder: Path) -> None:
    """In the tokenizer's settings, also by name, and in files of their own, which come first."""
    assert template_in(folder).texts == {}
    named = [{"name": "default", "template": PLAIN}, {"name": "tool_use", "template": "{{ tools }}{{ messages }}"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert template_in(folder).row_problem({"messages": TURNS, "tools": TOOLS}) is None
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "json"}))
    assert template_in(folder).texts == {"default": "json"}
    (folder / "chat_template.jinja").write_text("file")
    assert template_in(folder).texts == {"default": "file"}


def test_the_recipes_own_template_counts(folder: Path) -> None:
    """chat.template takes the place of the tokenizer's, broken or not; the byte tokenizer brings one."""
    own = folder.parent / "own.jinja"
    own.write_text("{% broken %}")
    (folder / "chat_template.jinja").write_text(PLAIN)
    chat = recipe(folder, {"messages": TURNS}, chat={"template": str(own)})
    assert str(own) in next(template_problems(chat)).message
    (folder / "chat_template.jinja").unlink()
    assert check_before_submission(recipe(folder, {"messages": TURNS}, tokenizer={"kind": "bytes"})) == []
