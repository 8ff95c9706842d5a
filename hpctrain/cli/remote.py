"""``hpctrain --remote``: the end that runs on the user's own machine (entry point).

A command is parsed here, by the same code as ever, and put together again for the other machine; see
:mod:`hpctrain.fleet.remote_client` for how it gets there.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpctrain.cli.output import say

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from hpctrain.fleet.remote_client import Client, Order, Session, Sink
    from hpctrain.fleet.remote_profile import Remote
    from hpctrain.fleet.ssh import Keys

CONNECT_S = 20.0


def sent_there(command: click.Command, name: str, kind: str, typed: str, *, by_name: bool) -> click.Command:
    """The command with another body: it is carried out where ``--remote`` says, or refused.

    Args:
        kind: of its :class:`hpctrain.cli.main.Entry`.
        typed: what stands after ``--remote`` or in HPCTRAIN_REMOTE; "" leaves it to the settings.
        by_name: it was ``--remote``.
    """
    if kind == "here" and not by_name:
        return command
    if kind == "neither" and not typed:
        noted = copy.copy(command)
        noted.callback = functools.partial(_note_and_run, command, name)
        return noted
    if kind != "there":
        option = "--remote" if by_name else "HPCTRAIN_REMOTE"
        instead = (
            f"it needs no cluster: run it here, without {option}" if kind == "here"
            else f"run it there (ssh {typed} hpctrain {name} ...), or on this machine with '--remote here'"
        )
        if name == "run":
            instead = f"use: hpctrain --remote {typed} submit RECIPE --follow"
        raise click.UsageError(f"'hpctrain {name}' does not work with {option}: {instead}")
    there = copy.copy(command)
    there.callback = functools.partial(_carry_out, command, name, typed)
    return there


def _note_and_run(command: click.Command, name: str, **values: Any) -> Any:
    """Of a command that is not sent, where the settings send the others, one should know that it runs here."""
    from hpctrain.settings_file import load_settings

    default = load_settings().remote.get("default")
    if default:
        say(f"note: 'hpctrain {name}' is not sent to {default}: it runs on this machine")
    return command.callback(**values) if command.callback is not None else None


def words(command: click.Command, name: str, context: click.Context) -> list[str]:
    """The command line that was parsed, without what was left to its defaults."""
    options: list[str] = []
    arguments: list[str] = []
    for param in command.params:
        key = param.name or ""
        if context.get_parameter_source(key) in (click.core.ParameterSource.DEFAULT, click.core.ParameterSource.DEFAULT_MAP):
            continue
        value = context.params.get(key)
        many = value if isinstance(value, (tuple, list)) else (value,)
        if isinstance(param, click.Argument):
            arguments += [str(one) for one in many]
        elif isinstance(param, click.Option) and param.is_flag:
            names = param.opts if value else param.secondary_opts
            options += names[-1:]
        else:
            long = next(option for option in param.opts if option.startswith("--"))
            options += [f"{long}={one}" for one in many]
    return [name, *options, "--", *arguments] if arguments else [name, *options]


def _carry_out(command: click.Command, name: str, typed: str, **values: Any) -> Any:
    """The body of a command that may go to another machine."""
    from hpctrain.fleet.remote_profile import find_remote
    from hpctrain.settings_file import load_settings

    context = click.get_current_context()
    remote = find_remote(typed, load_settings().remote)
    if remote is None:
        assert command.callback is not None  # noqa: S101 - every command has a body
        return command.callback(**values)
    argv = words(command, name, context)
    if name == "report" and values.get("page") not in (None, "-"):
        return _page(remote, argv, str(values["page"]), str(values["output"]), context)
    order = _order(remote, name, argv, values, context)
    for note in order.parcel.notes if order.parcel else ():
        say(f"note: {note}")
    if order.parcel and order.parcel.items and order.dry_run:
        say("note: nothing is sent to stay: paths below hpctrain-dry-run-... stand for the files of this machine")
    return _client(remote, _Terminal()).carry_out_here(order)


def _order(remote: Remote, name: str, argv: list[str], values: dict[str, Any], context: click.Context) -> Order:
    from hpctrain.fleet.remote_client import Order
    from hpctrain.fleet.remote_parcel import gather, refuse_too_much

    follows = bool(values.get("follow") or values.get("wait_"))
    if name != "submit":
        return Order((*_before(remote, context), *argv), follows=follows, terminal=_terminal())
    parcel = gather(str(values["recipe"]), values["sets"], Path.cwd())
    refuse_too_much(parcel, remote.send_limit_bytes)
    end = argv.index("--", len(argv) - 2)
    more = [f"--set={text}" for text in parcel.sets]
    argv = [*argv[:end], *more, "--", parcel.argument]
    dry_run = bool(values.get("dry_run"))
    return Order((*_before(remote, context), *argv), follows and not dry_run, parcel, dry_run, _terminal())


def _before(remote: Remote, context: click.Context) -> list[str]:
    """Options that stand before the command."""
    shared = context.find_root().params
    cluster = shared.get("cluster") or remote.cluster
    return [*(["--cluster", cluster] if cluster else []), *(["--debug"] if shared.get("debug") else [])]


def _page(remote: Remote, argv: list[str], page: str, output: str, context: click.Context) -> int:
    """``report --html FILE``: the page is made there, and written here."""
    from hpctrain.cli.report import write_page
    from hpctrain.fleet.remote_client import Order

    kept = [word for word in argv if not word.startswith(("--html", "--output"))]
    sink = _Terminal(collect=True)
    code = _client(remote, sink).carry_out_here(Order((*_before(remote, context), kept[0], "--html=-", *kept[1:])))
    if code == 0:
        write_page("".join(sink.collected), page, output)
    return code


def _terminal() -> dict[str, Any]:
    """What the other machine must know to print as this terminal wants it."""
    size = shutil.get_terminal_size((80, 24))
    out = sys.stdout.isatty()
    return {
        "out": out, "err": sys.stderr.isatty(), "encoding": sys.stdout.encoding or "utf-8",
        "term": os.environ.get("TERM", ""), "no_color": bool(os.environ.get("NO_COLOR")),
        **({"columns": size.columns, "lines": size.lines} if out else {}),
    }


class _Terminal:
    """This process's own standard output and error.

    Args:
        collect: keep standard output in ``collected`` instead.
    """

    def __init__(self, *, collect: bool = False) -> None:
        self.collected: list[str] = []
        self._collect = collect

    def show(self, stream: int, text: str) -> None:
        """Print, as it came: colours were decided over there."""
        if stream == 1 and self._collect:
            self.collected.append(text)
            return
        target = sys.stdout if stream == 1 else sys.stderr
        target.write(text)
        target.flush()

    def say(self, text: str) -> None:
        """A message of our own."""
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[2K")  # a progress line may stand there
        say(text)


class _Here:
    """A client in a process whose Ctrl-C belongs to the command on the other machine."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def carry_out_here(self, order: Order) -> int:
        """See :meth:`hpctrain.fleet.remote_client.Client.carry_out`."""
        with self._interrupts():
            return self._client.carry_out(order)

    @contextlib.contextmanager
    def _interrupts(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def pass_on(number: int, frame: object) -> None:
            del number, frame
            if not self._client.interrupt():
                raise KeyboardInterrupt

        before = signal.signal(signal.SIGINT, pass_on)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def _client(remote: Remote, sink: Sink) -> _Here:
    from hpctrain.clock import SystemClock
    from hpctrain.fleet.remote_client import Client

    keys: list[Keys] = []  # one for all connections: a passphrase is asked for once

    def open_connection() -> AbstractContextManager[Session]:
        from hpctrain.fleet.find_target import find_target
        from hpctrain.fleet.ssh import Keys, connect

        if not keys:
            keys.append(Keys())
        return connect(find_target(remote.host), timeout_s=CONNECT_S, keys=keys[0])

    return _Here(Client(remote, open_connection, SystemClock(), sink))
