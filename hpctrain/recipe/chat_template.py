"""The chat template that a run writes conversations with, read and tried before anything is queued (adapter over jinja2).

Only what is sure is told: a template that is no jinja, one that never looks at what a row holds, and one that itself refuses
a row. What goes wrong in another way depends on the version of transformers and is left to the run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hpctrain.files import read_json_object
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.schema_method import TUNING

_TOOLS = "tool_use"
"""Name of the template that transformers takes for rows with tools, where a tokenizer has several."""


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A template, or that there is none.

    Attributes:
        tokenizer: the directory of the tokenizer, or the file that ``chat.template`` names.
        file: where the template stands; None where there is none.
        texts: of each by its name; most tokenizers have one, ``default``.
    """

    tokenizer: Path
    file: Path | None
    texts: Mapping[str, str]

    def syntax_problem(self) -> str:
        """What makes it no jinja, with file and line; "" where nothing does."""
        import jinja2

        for text in self.texts.values():
            try:
                _environment().parse(text)
            except jinja2.TemplateSyntaxError as error:
                place = f"{self.file}:{error.lineno}" if self.file and self.file.suffix == ".jinja" else f"{self.file}"
                return f"{place}: the chat template is broken: {error.message} (line {error.lineno} of the template)"
        return ""

    def row_problem(self, row: Mapping[str, Any]) -> str | None:
        """Why this row cannot be written as it is meant; None where nothing is known against it."""
        talk = [row[key] for key in ("messages", "prompt", "chosen", "completion") if isinstance(row.get(key), list)]
        if not talk:
            return None
        if not self.texts:
            return f"is a conversation, and the tokenizer in {self.tokenizer} has no chat template"
        tools = _tools_of(row)
        text = self.texts.get(_TOOLS if tools and _TOOLS in self.texts else "default") or next(iter(self.texts.values()))
        if tools and not re.search(r"\btools\b", text):
            return f"has 'tools', which the chat template in {self.file} never writes"
        calls = any(isinstance(message, Mapping) and message.get("tool_calls") for part in talk for message in part)
        if calls and "tool_calls" not in text:
            return f"has tool calls, which the chat template in {self.file} never writes"
        said_so_far, answer = row.get("messages") or row.get("prompt"), row.get("chosen") or row.get("completion")
        if isinstance(said_so_far, list):
            messages = [*said_so_far, *answer] if isinstance(answer, list) else said_so_far
            own = row.get("chat_template_kwargs")
            values = {**_special_tokens(self.tokenizer), **(own if isinstance(own, dict) else {})}
            said = _refusal(text, messages, tools, values)
            return f"the chat template in {self.file} refuses it: {said}" if said else None
        return None


def chat_template(recipe: Recipe) -> ChatTemplate | None:
    """The template of a recipe; None where it is not here to be read (a hub id), not needed, or the byte tokenizer's own."""
    if recipe.method not in TUNING:
        return None
    folder = Path(recipe.tokenizer.path or (recipe.model.path if recipe.model else None) or "")
    if recipe.chat.template is not None:
        file = Path(recipe.chat.template)
        text = _text(file)
        return ChatTemplate(folder, file, {"default": text}) if text is not None else None
    ours = recipe.tokenizer.kind == "bytes" or (folder / "hpctrain_tokenizer.json").is_file()
    return None if ours or not folder.is_absolute() or not folder.is_dir() else template_in(folder)


def template_in(folder: Path) -> ChatTemplate:
    """The template in the directory of a tokenizer, where transformers looks for it."""
    text = _text(folder / "chat_template.jinja")
    if text is not None:
        more = {path.stem: _text(path) or "" for path in sorted(folder.glob("additional_chat_templates/*.jinja"))}
        return ChatTemplate(folder, folder / "chat_template.jinja", {"default": text, **more})
    for name in ("chat_template.json", "tokenizer_config.json"):
        found = read_json_object(folder / name).get("chat_template")
        if isinstance(found, str) and found:
            return ChatTemplate(folder, folder / name, {"default": found})
        if isinstance(found, list):
            texts = {str(one.get("name")): str(one.get("template")) for one in found if isinstance(one, dict)}
            if texts:
                return ChatTemplate(folder, folder / name, texts)
    return ChatTemplate(folder, None, {})


def _environment() -> Any:
    """As transformers makes it: a sandbox with break, continue and ``{% generation %}``."""
    from jinja2 import ext, nodes
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(ext.Extension):
        """Marks what the assistant says; here that changes nothing."""

        tags = {"generation"}  # noqa: RUF012 - jinja2's own interface

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    return ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols])


class _RefusalError(Exception):
    """The template has called ``raise_exception``."""


def _refusal(text: str, messages: Any, tools: Any, values: Mapping[str, Any]) -> str:
    """What the template itself says against a conversation; "" where it says nothing, or fails in another way.

    Args:
        values: what else it may ask for: the tokenizer's special tokens, and what the row says itself.
    """
    known = {"messages": messages, "tools": tools, "documents": None, "add_generation_prompt": False}
    try:
        _compiled(text).render({**values, **known})
    except _RefusalError as error:
        return str(error)
    except Exception:  # noqa: BLE001 - what a template does with values is the run's to find out
        return ""
    return ""


@lru_cache(maxsize=8)
def _compiled(text: str) -> Any:
    def refuse(message: str) -> None:
        raise _RefusalError(message)

    environment = _environment()
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda _: "01 Jan 2026"
    environment.filters["tojson"] = lambda value, **_: json.dumps(value)
    return environment.from_string(text)


@lru_cache(maxsize=8)
def _special_tokens(folder: Path) -> Mapping[str, Any]:
    found = read_json_object(folder / "tokenizer_config.json")
    return {name: value.get("content") if isinstance(value, dict) else value for name, value in found.items()
            if name.endswith("_token")}


def _tools_of(row: Mapping[str, Any]) -> Any:
    tools = row.get("tools")
    if isinstance(tools, str):
        try:
            return json.loads(tools)
        except ValueError:
            return None
    return tools


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
