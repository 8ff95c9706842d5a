"""The batch script of every generated recipe: its whole text against a stored one, and what bash and shellcheck say."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

import pytest

from hpctrain import __version__, process, resources
from hpctrain.recipe.catalogue import is_generated
from hpctrain.recipe.resolve import read_resolved
from hpctrain.submit.plan import make_plan
from hpctrain.submit.render import render
from hpctrain.submit.run import batch_template
from tests.unit.submit.builders import PLACE

GOLDEN = Path(__file__).parents[2] / "golden" / "sbatch"
BASE = "pretrain-llama3_1_8b_1node_8gpu.sh"
"""The stored script that the others are compared with: what is stored of them is the difference."""
UPDATE = bool(os.environ.get("UPDATE_GOLDEN"))


def generated() -> dict[str, Path]:
    """The generated recipes by name."""
    found = resources.shipped_recipes().items()
    return {name: path for name, path in found if is_generated(path.read_text(encoding="utf-8"))}


@pytest.fixture(scope="module")
def scripts() -> dict[str, str]:
    """The script of each, by the recipe's name."""
    template = batch_template()
    found = {}
    for name, path in generated().items():
        recipe = read_resolved(path).model_copy(update={"workdir": "/work"})
        found[name] = render(make_plan(recipe, None, PLACE), template, package_dir="/venv/lib/hpctrain")
    return found


def test_scripts_are_the_stored_ones(scripts: dict[str, str]) -> None:
    """Each script is, line for line, the stored base with the stored differences; UPDATE_GOLDEN=1 stores them."""
    base = (GOLDEN / BASE).read_text().splitlines()
    parts = []
    for name, script in scripts.items():
        text = script.replace(f"hpctrain {__version__}.", "hpctrain @VERSION@.")
        changes = list(difflib.unified_diff(base, text.splitlines(), lineterm="", n=0))[2:]
        parts.append("\n".join([f"=== {name}", *changes]))
    whole = "\n".join([f"Differences to {BASE}, recipe by recipe; UPDATE_GOLDEN=1 writes them.", *parts]) + "\n"
    if UPDATE:
        (GOLDEN / "catalogue.diff").write_text(whole)

    assert (GOLDEN / "catalogue.diff").read_text() == whole
    assert len(parts) > 95


def test_scripts_are_clean(scripts: dict[str, str], tmp_path: Path) -> None:
    """Bash parses every script and shellcheck has nothing to say, about all of them in one go."""
    paths = []
    for number, script in enumerate(scripts.values()):
        path = tmp_path / f"{number}.sh"
        path.write_text(script)
        paths.append(str(path))
    parsed = process.run(["bash", "-c", 'for f in "$@"; do bash -n "$f" || exit 1; done', "bash", *paths], timeout_s=60)
    assert parsed.ok, parsed.stderr
    if process.find("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    checked = process.run(["shellcheck", *paths], timeout_s=120)
    assert checked.ok, checked.stdout
