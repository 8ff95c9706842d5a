"""What is pinned stays, in the training's own pruning too."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("xxhash")

from hpctrain.checkpoint import pins
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.retention import Retention
from hpctrain.checkpoint.tier_shared import SharedTier
from hpctrain.errors import CheckpointError

NAMES = [CheckpointName(0, step) for step in range(1, 6)]


def test_retention_leaves_pinned_ones() -> None:
    """A pinned checkpoint is never among those that may go, and takes no place of the newest ones."""
    assert NAMES[:3] == Retention(2).superseded(NAMES)
    assert [NAMES[0], NAMES[2]] == Retention(2).superseded(NAMES, [NAMES[1], NAMES[4]])


def test_training_respects_pins(tmp_path: Path) -> None:
    """The trainer's pruning after a save leaves a pinned checkpoint until it is unpinned."""
    pytest.importorskip("torch")
    from tests.unit.checkpoint.test_manager import Session, names

    session = Session(tmp_path, retention=Retention(1))
    session.train(1, 1)
    pins.pin(SharedTier(tmp_path), NAMES[0], "mine", 1.0)
    session.train(2, 3)
    kept = names(tmp_path)
    assert pins.unpin(SharedTier(tmp_path), NAMES[0])
    session.train(4, 4)

    assert ["step-00000001.i000", "step-00000003.i000"] == kept
    assert ["step-00000004.i000"] == names(tmp_path)


def test_pin_says_when_it_came_too_late(tmp_path: Path) -> None:
    """Pinning what is being removed at this moment is an error, not a promise."""
    with pytest.raises(CheckpointError, match="removed while it was being pinned"):
        pins.pin(SharedTier(tmp_path), NAMES[0], "mine", 1.0)


def test_unreadable_pin_is_a_pin(tmp_path: Path) -> None:
    """A pin whose text is damaged still keeps the checkpoint."""
    (tmp_path / str(NAMES[0])).mkdir()
    (tmp_path / str(NAMES[0]) / "pin.json").write_text("{")

    assert pins.is_pinned(SharedTier(tmp_path), NAMES[0])
    assert pins.Pin("", None) == pins.read_pin(SharedTier(tmp_path), NAMES[0])
