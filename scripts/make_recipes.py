"""Write the recipes of the catalogue from recipes/families.toml and recipes/methods.toml (entry point).

    python scripts/make_recipes.py            # write them, and remove those that are no longer in the tables
    python scripts/make_recipes.py --check    # exit 1 if one is out of date

Only files that begin as a generated recipe does are ever replaced or removed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from hpctrain.recipe.catalogue import INDEX_FILE, entry_of, is_generated
from hpctrain.recipe.generate import generate
from hpctrain.recipe.tables import FAMILIES_FILE, METHODS_FILE, read_tables

RECIPES = Path(__file__).resolve().parent.parent / "recipes"


def wanted() -> dict[Path, str]:
    """The text of every file."""
    tables = read_tables(RECIPES / FAMILIES_FILE, RECIPES / METHODS_FILE)
    return {RECIPES / f"{name}.yaml": recipe.text for name, recipe in generate(tables).items()}


def out_of_date(texts: dict[Path, str]) -> list[Path]:
    """Files that differ, are missing, or are generated and in no table."""
    present = {path for path in RECIPES.glob("*/*.yaml") if is_generated(path.read_text(encoding="utf-8"))}
    changed = [path for path, text in texts.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    return sorted({*changed, *(present - set(texts))})


def main(arguments: list[str]) -> int:
    """Write or compare; the exit code."""
    texts = wanted()
    stale = out_of_date(texts)
    if "--check" in arguments:
        for path in stale:
            sys.stderr.write(f"out of date: {path.relative_to(RECIPES)}\n")
        fresh = not stale and (RECIPES / INDEX_FILE).read_text(encoding="utf-8") == index(texts)
        return 0 if fresh else 1
    for path in stale:
        if path in texts:
            if path.exists() and not is_generated(path.read_text(encoding="utf-8")):
                sys.exit(f"{path} was written by a person; give the table's recipe another name")
            path.parent.mkdir(exist_ok=True)
            path.write_text(texts[path], encoding="utf-8")
        else:
            path.unlink()
        sys.stdout.write(f"{path.relative_to(RECIPES)}\n")
    (RECIPES / INDEX_FILE).write_text(index(texts), encoding="utf-8")
    return 0


def index(texts: dict[Path, str]) -> str:
    """What 'hpctrain recipes list' shows of them, one a line."""
    names = sorted(str(path.relative_to(RECIPES).with_suffix("")) for path in texts)
    lines = [json.dumps(entry_of(name, RECIPES / f"{name}.yaml").to_json()) for name in names]
    return "[\n" + ",\n".join(lines) + "\n]\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
