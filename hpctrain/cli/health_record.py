"""``hpctrain health record`` and replaying what it has recorded (entry point)."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from hpctrain.cli.output import output_option, print_json, say
from hpctrain.errors import NotFoundError, StorageError, UsageError
from hpctrain.files import write_atomic
from hpctrain.health.config import CONTEXTS, Config
from hpctrain.health.recording import anonymised, from_document, to_document
from hpctrain.health.registry import choose, find_site_checks, for_context, load_checks, with_model
from hpctrain.health.run import Look, Outcome, take_reading
from hpctrain.health.supervise import for_node, job_of, load_config, node_name
from hpctrain.health.verdict import judge

_MOST_BYTES = 64 * 2**20


@click.command("record")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write it there.  [default: standard output]")
@click.option("--anonymous", is_flag=True, help="Leave out names: node, serials, UUIDs, mounts, programs, users, log text.")
@click.option(
    "--context",
    type=click.Choice([*CONTEXTS, "manual"]),
    default="manual",
    show_default=True,
    help="Look as this context does; within a job, prolog and epilog look at its GPUs only.",
)
@output_option
def record(*, out: Path | None, anonymous: bool, context: str, output: str) -> None:
    """Record what the health checks see of this node, as JSON.

    For a report of a wrong alarm, for tests, and for trying other limits: 'hpctrain health check --replay FILE' judges it.

    Example: hpctrain health record --anonymous --out node.json
    """
    config, _ = load_config(os.environ)
    node = node_name(os.environ)
    config = for_node(config, node)
    job = job_of(os.environ, config) if context in ("prolog", "epilog") else None
    taken = take_reading(config, Look(node, context, job, remember=False))
    document = to_document(taken.reading, taken.records)
    if anonymous:
        document = anonymised(document)
    text = json.dumps(document, indent=1) + "\n"
    if out is None:
        click.echo(text, nl=False)
        return
    write_atomic(out, text)
    summary = {"file": str(out), "gpus": len(taken.reading.gpus), "records": len(taken.records), "anonymous": anonymous}
    if output == "json":
        print_json("recording", summary)
    else:
        say(f"recorded {summary['gpus']} GPUs and {summary['records']} records: {out}")


def replay_recording(path: Path, config: Config, problems: Sequence[str], context: str, only: Sequence[str]) -> Outcome:
    """Judge a recording as its node would be judged with this site's modes and limits.

    Args:
        context: ``manual`` puts all checks to it that its own context has.

    Raises:
        NotFoundError, StorageError: there is no such file, or it cannot be read.
        UsageError: it is no recording.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UsageError("this file is too long for a recording", where=str(path))
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise NotFoundError("there is no such file", where=str(path)) from None
    except OSError as error:
        raise StorageError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except (ValueError, RecursionError):
        raise UsageError("this is no recording of a reading", where=str(path)) from None
    reading = from_document(document, str(path))
    if context != "manual":
        reading = replace(reading, context=context)
    notes = [f"configuration: {problem}" for problem in problems]
    checks = load_checks(config.site_checks or find_site_checks(), notes)
    chosen = choose(checks, only) if only else for_context(checks, reading.context)
    rules = with_model(config.rules, (gpu.text("name") for gpu in reading.gpus))
    return Outcome(judge(reading, chosen, rules), False, tuple(notes), reading)
