"""Shared shapes of the command line: ``-o json``, messages on stderr, colours only on a terminal (entry point)."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from hpctrain.fleet.remote_link import Link

F = TypeVar("F", bound=Callable[..., Any])

SCHEMA_VERSION = 1
"""Version of every JSON document printed by ``-o json``; it grows when a key changes meaning or goes away."""


def output_option(function: F) -> F:
    """Add ``-o/--output text|json`` as the argument ``output``."""
    return click.option(
        "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True,
        help="json prints one document with a schema_version.",
    )(function)


def print_json(kind: str, data: Any) -> None:
    """Print one JSON document: ``{"schema_version": 1, "kind": kind, kind: data}``."""
    click.echo(json.dumps({"schema_version": SCHEMA_VERSION, "kind": kind, kind: data}, indent=2))


def say(message: str) -> None:
    """A message for people, on standard error, so that standard output stays data."""
    click.echo(message, err=True)


def on_terminal() -> bool:
    """Colours and progress bars are wanted: standard output is a terminal and NO_COLOR is unset."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def link_to_user() -> Link | None:
    """The connection to the person, where this command runs for 'hpctrain --remote' of another machine."""
    context = click.get_current_context(silent=True)
    shared = context.find_root().obj if context is not None else None
    return shared.get("link") if isinstance(shared, dict) else None
