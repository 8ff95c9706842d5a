"""The ``hpctrain`` command: a table of commands that are imported only when they run (entry point).

No logic lives here: a command module builds adapters, calls one service, and this module turns the errors that come
out into one line and an exit code.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
from dataclasses import dataclass
from typing import Any

import click

from hpctrain import __version__
from hpctrain.errors import HpctrainError, StopRequested


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a command lives, and its line in ``--help`` (so that help imports nothing else).

    Attributes:
        remote: what ``--remote`` does with it: THERE, HERE (it needs no cluster and runs here; asking for it there is an
            error) or NEITHER (a command for the cluster that is not sent there).
    """

    module: str
    attribute: str
    help: str
    section: str
    remote: str = "neither"


THERE, HERE = "there", "here"
TRAIN, PREPARE, RESULTS, NODES, TEST = "Train and watch", "Before submitting", "Results", "Nodes", "Test cluster"

COMMANDS: dict[str, Entry] = {
    "submit": Entry("hpctrain.cli.submit", "submit", "Turn a recipe into a Slurm job.", TRAIN, THERE),
    "run": Entry("hpctrain.cli.submit", "run", "Submit and follow, on a private cluster if there is no Slurm.", TRAIN),
    "list": Entry("hpctrain.cli.jobs", "list_", "List your runs.", TRAIN, THERE),
    "describe": Entry("hpctrain.cli.jobs", "describe", "Say how a run is doing, in plain words.", TRAIN, THERE),
    "logs": Entry("hpctrain.cli.logs", "logs", "Show what the ranks print, across requeues.", TRAIN, THERE),
    "events": Entry("hpctrain.cli.jobs", "events", "Show what happened to a run.", TRAIN, THERE),
    "why": Entry("hpctrain.cli.why", "why", "Say why a run waits, was started again, or has stopped.", TRAIN, THERE),
    "report": Entry("hpctrain.cli.report", "report", "Draw loss, failures, goodput and timeline of a run.", TRAIN, THERE),
    "usage": Entry("hpctrain.cli.usage", "usage", "Say what jobs used, and what was lost of it.", TRAIN, THERE),
    "cancel": Entry("hpctrain.cli.jobs", "cancel", "End a run for good.", TRAIN, THERE),
    "init": Entry("hpctrain.cli.recipes", "init", "Write a first recipe to edit.", PREPARE, HERE),
    "validate": Entry("hpctrain.cli.recipes", "validate", "Check a recipe without submitting it.", PREPARE, HERE),
    "recipes": Entry("hpctrain.cli.recipes", "recipes", "List, show and suggest recipes, export the schema.", PREPARE,
                     HERE),
    "data": Entry("hpctrain.cli.data", "data", "Check, show and prepare training data.", PREPARE, HERE),
    "import": Entry("hpctrain.cli.import_", "import_", "Turn another system's recipe into one of ours.", PREPARE, HERE),
    "checkpoints": Entry("hpctrain.cli.checkpoints", "checkpoints", "List, verify, prune, export checkpoints.", RESULTS),
    "lineage": Entry("hpctrain.cli.lineage", "lineage", "Say what a run or a model was made from.", RESULTS, THERE),
    "evaluate": Entry("hpctrain.cli.evaluate", "evaluate", "Measure what a model can do, before and after.", RESULTS),
    "health": Entry("hpctrain.cli.health", "health", "Look at this node.", NODES, HERE),
    "nodes": Entry("hpctrain.cli.nodes", "nodes", "See why nodes are out of service; bring them back.", NODES),
    "fleet": Entry("hpctrain.cli.fleet", "fleet", "Manage nodes over SSH, where Slurm cannot reach.", NODES, HERE),
    "drill": Entry("hpctrain.cli.drill", "drill", "Break a running job on purpose, and judge what happens.", TEST),
    "watchdog": Entry("hpctrain.cli.watchdog", "watchdog", "Bring back jobs that cannot do so themselves.", TRAIN),
    "doctor": Entry("hpctrain.cli.doctor", "doctor", "Check this installation, and say what to do.", PREPARE),
    "cluster": Entry("hpctrain.cli.cluster", "cluster", "Run a private Slurm cluster on this machine.", TEST, HERE),
}


HIDDEN: dict[str, Entry] = {
    "remote-serve": Entry("hpctrain.cli.remote_serve", "remote_serve", "Answer 'hpctrain --remote'.", TRAIN),
}
"""What programs call, and no person."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, not when they are listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Names in the order of the table, which is the order of daily use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        entry = COMMANDS.get(cmd_name) or HIDDEN.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = getattr(importlib.import_module(entry.module), entry.attribute)
        typed = ctx.params.get("remote") or os.environ.get("HPCTRAIN_REMOTE", "")
        if cmd_name in HIDDEN or typed == "here" or ctx.resilient_parsing:
            return command
        if entry.remote != HERE or typed:
            from hpctrain.cli.remote import sent_there

            return sent_there(command, cmd_name, entry.remote, typed, by_name=bool(ctx.params.get("remote")))
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the nearest command when the one given does not exist."""
        if args and args[0] not in COMMANDS and args[0] not in HIDDEN and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else " See 'hpctrain --help'."
            ctx.fail(f"no such command '{args[0]}'.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """Print the table by section, from the table alone."""
        for section in dict.fromkeys(entry.section for entry in COMMANDS.values()):
            rows = [(name, entry.help) for name, entry in COMMANDS.items() if entry.section == section]
            with formatter.section(section):
                formatter.write_dl(rows)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, "-V", "--version", prog_name="hpctrain")
@click.option("--cluster", "cluster", metavar="NAME", default=None, help="Use this private cluster.")
@click.option(
    "--remote", metavar="user@host", default=None,
    help="Run the command over SSH where Slurm is: a host, or a profile of config.toml; 'here' for this machine.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(ctx: click.Context, cluster: str | None, remote: str | None, debug: bool) -> None:
    """Train large models on Slurm.

    Start with 'hpctrain recipes list', then 'hpctrain submit RECIPE --follow'.
    """
    ctx.ensure_object(dict)["debug"] = debug
    del remote  # decided when the command was looked up
    if cluster:
        os.environ["HPCTRAIN_CLUSTER"] = cluster


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with the code of the error table (docs/exit-codes.md)."""
    for stream in (sys.stdout, sys.stderr):
        # A rank's line or a run's name may hold what the terminal's encoding cannot say.
        if isinstance(stream, io.TextIOWrapper):
            # A rank forked from a warm process has a pipe where a file was: Python then fails to ask where in it it stands.
            with contextlib.suppress(OSError):
                stream.reconfigure(errors="replace")
    sys.exit(invoke(sys.argv[1:] if argv is None else argv))


def invoke(argv: list[str], *, link: object = None) -> int:
    """Run one command line and return its exit code; prints errors to standard error.

    Args:
        link: where the person is on another machine; see :func:`hpctrain.cli.output.link_to_user`.
    """
    debug = "--debug" in argv or bool(os.environ.get("HPCTRAIN_DEBUG"))
    try:
        result: Any = cli.main(args=argv, prog_name="hpctrain", standalone_mode=False,
                               obj={} if link is None else {"link": link})
        _flush()
    except click.exceptions.Abort:
        return show_error(StopRequested("interrupted"))
    except KeyboardInterrupt:
        return show_error(StopRequested("interrupted"))
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except HpctrainError as error:
        if debug:
            raise
        return show_error(error)
    except BrokenPipeError:
        # The reader (head, less) went away: not an error, and nothing more may be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if debug:
            raise
        return show_error(_from_os_error(error))
    return result if isinstance(result, int) else 0


def _flush() -> None:
    sys.stdout.flush()


def _from_os_error(error: OSError) -> HpctrainError:
    from hpctrain.errors import NotFoundError, StorageError

    kind = NotFoundError if isinstance(error, FileNotFoundError) else StorageError
    return kind(error.strerror or str(error), where=str(error.filename or ""))


def show_error(error: HpctrainError) -> int:
    """Print an error for people; its exit code."""
    click.secho("error: ", fg="red", bold=True, err=True, nl=False)
    click.echo(str(error), err=True)
    if error.advice:
        click.secho("hint:  ", fg="cyan", err=True, nl=False)
        click.echo(error.advice, err=True)
    return error.exit_code
