"""``python -m hpctrain.train``: one rank of a training run (entry point).

Command line, the same for every rank::

    python -m hpctrain.train [--recipe FILE.json] [--run-dir DIR]

``--run-dir`` defaults to ``HPCTRAIN_RUN_DIR``; ``--recipe`` defaults to ``<run dir>/recipe.resolved.json``, which
holds ``Recipe.model_dump(mode="json")``. Relative paths in the recipe are relative to the working directory.

Environment: torchrun's names (RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT; rank 0 opens
the store on MASTER_PORT itself unless TORCHELASTIC_USE_AGENT_STORE is True) and the optional HPCTRAIN_* names of
:mod:`hpctrain.train.environment`. Without any of them it trains alone, in one process.

Exit codes: 0 all steps are done and the model is saved; 75 stopped on request after a save: start me again; 76 the loss went
wrong, start me again and I go back; 77 it went wrong and that is the end; the codes
of :mod:`hpctrain.errors` for what the user or the site has to mend (starting again will not help, except 9 once there
is space); 1 anything else, with the traceback in TORCHELASTIC_ERROR_FILE in torchrun's format.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from hpctrain.errors import HpctrainError, NotFoundError, RecipeError, StopRequested, UsageError
from hpctrain.files import write_atomic
from hpctrain.jobs.layout import RunDir
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.schema_method import TUNING
from hpctrain.train.environment import RUN_DIR, RankEnvironment

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
_LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")


def main(argv: Sequence[str] | None = None) -> int:
    """Train; return the exit code. Errors are printed, and kept in the error file."""
    os.umask(0o077)
    with contextlib.suppress(AttributeError, ValueError):
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # not when a test replaced it
    rank = 0
    try:
        environment = _environment()
        rank = environment.rank
        recipe, run_dir = _arguments(argv, environment)
        from hpctrain.train.lineage_log import lineage_kept

        with lineage_kept(recipe, run_dir, environment) as log:
            code = _train(recipe, run_dir, environment)
            log.ended(code)
        return code
    except KeyboardInterrupt:
        return _report(StopRequested("interrupted"), rank)
    except HpctrainError as error:
        return _report(error, rank)
    except Exception as error:  # noqa: BLE001 - the last place that can say what happened
        return _report_crash(error, rank)


def _train(recipe: Recipe, run_dir: RunDir, environment: RankEnvironment) -> int:
    if recipe.method in TUNING:
        from hpctrain.train.tune.run import tune

        return tune(recipe, run_dir, environment)
    from hpctrain.train.loop import train

    return train(recipe, run_dir, environment)


def _environment() -> RankEnvironment:
    try:
        return RankEnvironment.read(os.environ)
    except ValueError as error:
        raise UsageError(f"the environment of this rank is broken: {error}") from None


def _arguments(argv: Sequence[str] | None, environment: RankEnvironment) -> tuple[Recipe, RunDir]:
    parser = argparse.ArgumentParser(prog="python -m hpctrain.train", description="Train a resolved recipe on this rank.")
    parser.add_argument("--run-dir", default=environment.run_dir, help=f"the run directory (default: ${RUN_DIR})")
    parser.add_argument("--recipe", default="", help="the resolved recipe (default: RUN_DIR/recipe.resolved.json)")
    options = parser.parse_args(argv)
    if not options.run_dir:
        raise UsageError("no run directory", hint=f"pass --run-dir DIR or set {RUN_DIR}")
    run_dir = RunDir(Path(options.run_dir).absolute())
    if not run_dir.path.is_dir():
        raise NotFoundError("there is no such run directory on this node", where=str(run_dir.path))
    return _recipe(Path(options.recipe) if options.recipe else run_dir.resolved_json), run_dir


def _recipe(path: Path) -> Recipe:
    try:
        recipe = Recipe.model_validate(json.loads(path.read_bytes()))
    except OSError as error:
        raise NotFoundError(f"the resolved recipe cannot be read: {error.strerror}", where=str(path)) from None
    except ValueError as error:
        # Submission has checked it: this is a recipe written by hand, or by another version of hpctrain.
        raise RecipeError(f"not a resolved recipe: {error}", where=str(path)) from None
    for section in ("method", "model", "data"):
        if getattr(recipe, section) is None:
            raise RecipeError(f"the trainer needs {section!r}", where=str(path))
    return recipe


def _report(error: HpctrainError, rank: int) -> int:
    """One clear message, from rank 0 or from the only rank that met the error."""
    from hpctrain.checkpoint.ranks import RemoteError

    if isinstance(error, RemoteError):
        return error.code  # rank 0 has said it
    if rank == 0:
        print(f"error: {error}" + (f"\nhint:  {error.advice}" if error.advice else ""), file=sys.stderr, flush=True)  # noqa: T201
    else:
        print(f"rank {rank}: {error}", file=sys.stderr, flush=True)  # noqa: T201 - rank 0 says it in full
    _write_error_file(error)
    return error.exit_code


def _report_crash(error: Exception, rank: int) -> int:
    advice = _advice(error)
    _write_error_file(error)
    if any(text in str(error) for text in _LOST_PEER):
        line = str(error).strip().splitlines()[0]
        print(f"rank {rank}: lost the connection to another rank, which has most likely died: {line}", file=sys.stderr)  # noqa: T201
        return 1
    traceback.print_exception(error)
    if advice:
        print(f"hint:  {advice}", file=sys.stderr)  # noqa: T201 - after the traceback, where it is seen
    sys.stderr.flush()
    return 1


def _advice(error: Exception) -> str:
    if type(error).__name__ == "OutOfMemoryError":
        return "lower training.micro_batch_size, switch training.activation_checkpointing on, or use parallelism fsdp2"
    if "does not have a deterministic implementation" in str(error):
        return "set training.deterministic to false; a resumed run then no longer ends byte-equal"
    return ""


def _write_error_file(error: BaseException) -> None:
    """What torchrun's children write, so that any launcher that knows torchrun can show it."""
    path = os.environ.get(ERROR_FILE)
    if not path:
        return
    if isinstance(error, HpctrainError):  # says what to do; the place in our code that noticed it helps nobody
        message, callstack = str(error), f"error: {error}" + (f"\nhint:  {error.advice}" if error.advice else "")
    else:
        message, callstack = f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))
    record = {"message": {"message": message, "extraInfo": {"py_callstack": callstack, "timestamp": str(int(time.time()))}}}
    with contextlib.suppress(HpctrainError):
        write_atomic(Path(path), json.dumps(record), durable=False)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # A process group may wait in its destructor, for a member it lost or for its own threads (see disconnect in
    # distributed.py). Everything is written and closed; there is nothing left to clean up.
    os._exit(code)
