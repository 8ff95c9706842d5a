"""Finds the files that ship with hpctrain but are not Python (adapter over the installation).

In a wheel they are packed under ``hpctrain/_shipped/``; in a checkout (also an editable installation of one) they
are the top-level directories of the same names.
"""

from __future__ import annotations

from pathlib import Path

from hpctrain.errors import HpctrainError

RECIPES, SLURM_SCRIPTS, HEALTHCHECKS = "recipes", "slurm_scripts", "healthchecks"

_PACKAGE = Path(__file__).resolve().parent


def shipped(kind: str, *, package: Path = _PACKAGE) -> Path:
    """Directory of one kind of shipped files: :data:`RECIPES`, :data:`SLURM_SCRIPTS` or :data:`HEALTHCHECKS`.

    Raises:
        HpctrainError: the installation lacks it.
    """
    candidates = (package / "_shipped" / kind, package.parent / kind)
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise HpctrainError(
        f"this installation lacks its {kind}: neither {candidates[0]} nor {candidates[1]} exists",
        hint="install hpctrain again, from a wheel or with 'pip install -e .' in a checkout",
    )


def shipped_file(kind: str, name: str) -> Path:
    """One shipped file by its path below the kind's directory, such as ``("slurm_scripts", "epilog.sh")``.

    Raises:
        HpctrainError: the installation lacks it.
    """
    path = shipped(kind) / name
    if not path.is_file():
        raise HpctrainError(f"this installation lacks {kind}/{name}", where=str(path), hint="install hpctrain again")
    return path


def shipped_recipes(root: Path | None = None) -> dict[str, Path]:
    """All shipped recipes by name (``quickstart``, ``pretrain/llama3_1_8b_1node_8gpu``), those at the top first."""
    root = root or shipped(RECIPES)
    found = {path.relative_to(root).with_suffix("").as_posix(): path for path in root.rglob("*.yaml")}
    return dict(sorted(found.items(), key=lambda item: ("/" in item[0], item[0])))
