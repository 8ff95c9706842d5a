"""How long hpctrain takes to answer, compared with Python importing click alone (entry point).

    python benchmarks/startup.py [--short]

The aim is that ``hpctrain --help`` takes at most three times as long as ``python -c "import click"``.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from measure import machine, summarise, table, take_turns  # noqa: E402 - the path is set above

from hpctrain import process  # noqa: E402

BASELINE = 'python -c "import click"'
LIMIT = 3.0


def command(*arguments: str) -> Callable[[], None]:
    """A case: run this program once, from a directory without a recipe."""
    def once() -> None:
        result = process.run(arguments, timeout_s=60, cwd=tempfile.gettempdir())
        if not result.ok:
            sys.exit(f"{' '.join(arguments)} failed:\n{result.stderr}")
    return once


def main(arguments: list[str]) -> None:
    """Measure and print the table."""
    rounds = 3 if "--short" in arguments else 40
    hpctrain = str(Path(sys.executable).with_name("hpctrain"))
    print(machine() + "\n")
    seconds = take_turns({
        'python -c ""': command(sys.executable, "-c", ""),
        BASELINE: command(sys.executable, "-c", "import click"),
        "hpctrain --version": command(hpctrain, "--version"),
        "hpctrain --help": command(hpctrain, "--help"),
        "hpctrain recipes list": command(hpctrain, "recipes", "list"),
        "hpctrain submit quickstart --dry-run": command(hpctrain, "submit", "quickstart", "--dry-run"),
    }, rounds)
    rows = summarise(seconds, BASELINE)
    print(table(rows, BASELINE))
    ratio = next(row.ratio for row in rows if row.name == "hpctrain --help")
    print(f"\nhpctrain --help: {ratio:.2f} times the baseline (aim: at most {LIMIT:g})")


if __name__ == "__main__":
    main(sys.argv[1:])
