"""Shipped files are found in a wheel and in a checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpctrain import resources
from hpctrain.errors import HpctrainError


def test_wheel_wins_over_checkout(tmp_path: Path) -> None:
    """Where the files were packed into the package, those are used."""
    package = tmp_path / "hpctrain"
    (package / "_shipped" / "recipes").mkdir(parents=True)
    (tmp_path / "recipes").mkdir()

    assert resources.shipped("recipes", package=package) == package / "_shipped" / "recipes"


def test_checkout_serves_without_wheel(tmp_path: Path) -> None:
    """In a checkout the top-level directory of the same name is used."""
    (tmp_path / "recipes").mkdir()

    assert resources.shipped("recipes", package=tmp_path / "hpctrain") == tmp_path / "recipes"


def test_broken_installation_is_said(tmp_path: Path) -> None:
    """An installation without the files names both places that were looked at."""
    with pytest.raises(HpctrainError, match="lacks its slurm_scripts") as error:
        resources.shipped("slurm_scripts", package=tmp_path / "hpctrain")

    assert str(tmp_path / "slurm_scripts") in error.value.message


def test_missing_single_file_is_said() -> None:
    """A file that the installation lacks is an error of the installation, not a traceback."""
    with pytest.raises(HpctrainError, match=r"lacks recipes/none\.yaml"):
        resources.shipped_file("recipes", "none.yaml")


def test_names_of_recipes() -> None:
    """Shipped recipes are named by their path, the quickstart first."""
    names = list(resources.shipped_recipes())

    assert names[0] == "quickstart"
    assert "pretrain/llama3_1_8b_1node_8gpu" in names
