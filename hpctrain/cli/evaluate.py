"""``hpctrain evaluate`` (entry point)."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpctrain.cli.jobs import complete_runs, echo, examples
from hpctrain.cli.output import on_terminal, output_option, print_json, say

if TYPE_CHECKING:
    from hpctrain.cli.evaluate_ask import Asked
    from hpctrain.evaluate.results import Evaluation


@click.command(epilog=examples(
    "hpctrain evaluate latest",
    "hpctrain evaluate latest --suite perplexity --compare ./base-model --html before-after.html",
    "hpctrain evaluate ./my-model --suite accuracy:questions.jsonl,limit=200 --suite harness:hellaswag",
    "hpctrain evaluate latest --suite function:metrics.py:rhymes,poems.jsonl --submit --set resources.gpus_per_node=8",
    "hpctrain evaluate latest --show -o json | jq '.evaluation.changes'",
))
@click.argument("model", metavar="RUN|MODEL", shell_complete=complete_runs)
@click.option("--suite", "suites", metavar="KIND[:PART,...]", multiple=True,
              help="What to measure; may be repeated.  [default: the recipe's evaluate:, or what its method is about]")
@click.option("--compare", metavar="RUN|MODEL", default=None,
              help="Measure this model too, as 'before'.  [default: the one that the run started from]")
@click.option("--no-compare", is_flag=True, help="Measure the one model alone.")
@click.option("--limit", type=click.IntRange(1), default=None, help="Rows of each suite at most.")
@click.option("--max-new-tokens", type=click.IntRange(1), default=None, help="Longest answer, for suites that name none.")
@click.option("--sequence-length", type=click.IntRange(8), default=None,
              help="Predicted tokens of one text at most.  [default: the run's, or what the architecture takes]")
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Rows at once at most.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True,
              help="Where to compute.")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto", show_default=True,
              help="auto: as stored; on a CPU fp32.")
@click.option("--spread", is_flag=True, help="One copy of the model on all GPUs of a node, where one GPU is too small.")
@click.option("--trust-remote-code", is_flag=True, help="Run Python code that comes with the model, with your rights.")
@click.option("--judge", metavar="URL", default=None,
              help="OpenAI-compatible endpoint of a judge.  [default: the recipe's judge:]")
@click.option("--judge-model", metavar="NAME", default=None, help="The judge's name there.")
@click.option("--judge-key-env", metavar="NAME", default=None, help="Environment variable that holds the judge's key.")
@click.option("--rubric", metavar="TEXT", default=None, help="What the judge marks, in words.")
@click.option("--to", "folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path), default=None,
              help="Keep evaluation.json, evaluation.html and every row's record there; go on behind what is there already.")
@click.option("--html", "page", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), default=None,
              help="Write a page with everything in itself.")
@click.option("--show", is_flag=True,
              help="Show what was measured before (in --to, or at the end of the run); measure nothing.")
@click.option("--submit", is_flag=True, help="As a Slurm job; its run directory keeps the results.")
@click.option("--set", "sets", metavar="KEY=VALUE", multiple=True,
              help="For --submit: change a value of the job, such as resources.gpus_per_node=8. May be repeated.")
@click.option("--dry-run", is_flag=True, help="Say what would be measured, or with --submit show the batch script.")
@output_option
def evaluate(output: str, **options: Any) -> int:
    """Measure what a model can do; before and after.

    RUN is a run's name, id, directory or 'latest': its final model, its data, rewards and judge. MODEL is a directory of a
    transformers model or of a peft adapter. KIND is perplexity, accuracy, preference, reward, judge, harness or function;
    docs/evaluate.md says what each measures and what its rows look like. A PART is a file with rows (for harness a task, for
    function module:function), or one of name=, limit=, max_new_tokens=, match=, pairwise=true. Rows that are not named are
    those that the run has kept out of training. Exit code: that of the first suite that could not be measured, else 0.
    """
    from hpctrain.cli.evaluate_ask import read_request

    asked = read_request(options)
    if options["show"]:
        return _print(asked.previous(), output, options["page"])
    if options["submit"]:
        from hpctrain.cli.evaluate_job import submit

        return submit(asked, options["sets"], dry_run=options["dry_run"], output=output)
    if options["dry_run"]:
        return _print_plan(asked, output)
    from hpctrain.cli.evaluate_run import measure

    found, speaks = measure(asked)
    return _print(found, output, options["page"]) if speaks else 0


def _print_plan(asked: Asked, output: str) -> int:
    if output == "json":
        print_json("plan", asked.to_json())
        return 0
    for label, path in asked.subjects:
        click.echo(f"{label}  {path}")
    for suite in asked.suites:
        rows = ", ".join([*suite.paths, *suite.tasks, *([suite.function] if suite.function else [])])
        click.echo(f"{suite.name}  {suite.kind}" + (f"  {rows}" if rows else "  the run's held-out rows"))
    return 0


def _print(found: Evaluation, output: str, page: Path | None) -> int:
    from hpctrain.evaluate.page import render as render_page
    from hpctrain.evaluate.table import render
    from hpctrain.files import write_atomic

    if page is not None:
        write_atomic(page.expanduser(), render_page(found), durable=False)
        say(f"the page is {page}")
    if output == "json":
        print_json("evaluation", found.to_json())
    else:
        width = shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else None
        echo(render(found, width=width, colour=on_terminal()))
    return next((one.exit_code or 1 for _, one in found.problems), 0)
