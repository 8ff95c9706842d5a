"""The configuration as it comes from the environment, and what is said when it is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hpctrain.checkpoint.config import CheckpointConfig, LocalConfig, ObjectConfig, PeerConfig, RamConfig
from hpctrain.checkpoint.retention import KeepBest, Retention
from hpctrain.checkpoint.schedule import TierSchedule
from hpctrain.errors import UsageError

FULL = CheckpointConfig(
    Path("/shared/run"), TierSchedule(every_s=60), Retention(3, 100, KeepBest("loss")), 4, {"parallelism": "fsdp2"},
    RamConfig(TierSchedule(every_steps=1), history=3), PeerConfig(TierSchedule(every_steps=5)),
    LocalConfig(Path("/local/run")), ObjectConfig("s3://bucket/run", TierSchedule(every_s=3600.0), Retention(9)),
    mttf_s=3600.0, overhead_cap=0.02, patience_s=30.0,
)


@pytest.mark.parametrize("config", [FULL, CheckpointConfig(Path("/shared/run")), CheckpointConfig(Path("a"), ram=None)])
def test_configuration_reads_back(config: CheckpointConfig) -> None:
    """All of it survives JSON, also tiers that are off."""
    assert config == CheckpointConfig.from_json(json.loads(json.dumps(config.to_json())))


def test_environment_holds_the_whole_configuration() -> None:
    """HPCTRAIN_CHECKPOINT is the configuration; each start still counts by its own HPCTRAIN_INCARNATION."""
    env = {"HPCTRAIN_CHECKPOINT": json.dumps(FULL.to_json()), "HPCTRAIN_CHECKPOINT_DIR": "/elsewhere"}
    assert FULL == CheckpointConfig.from_env(env)
    assert 7 == CheckpointConfig.from_env({**env, "HPCTRAIN_INCARNATION": "7"}).incarnation


def test_few_variables_are_enough() -> None:
    """A directory is all that is needed; the run directory names one, too, and a number of steps is taken."""
    assert Path("/c") == CheckpointConfig.from_env({"HPCTRAIN_CHECKPOINT_DIR": "/c"}).root
    config = CheckpointConfig.from_env({"HPCTRAIN_RUN_DIR": "/r", "HPCTRAIN_CHECKPOINT_EVERY_STEPS": "20"})
    assert (Path("/r/checkpoints"), TierSchedule(every_steps=20)) == (config.root, config.schedule)


@pytest.mark.parametrize(("env", "words"), [
    ({}, "no directory for checkpoints"),
    ({"HPCTRAIN_RUN_DIR": "/r", "HPCTRAIN_CHECKPOINT_EVERY_STEPS": "often"}, "HPCTRAIN_CHECKPOINT_EVERY_STEPS is 'often'"),
    ({"HPCTRAIN_RUN_DIR": "/r", "HPCTRAIN_CHECKPOINT_EVERY_STEPS": "0"}, "HPCTRAIN_CHECKPOINT_EVERY_STEPS: every_steps "),
    ({"HPCTRAIN_RUN_DIR": "/r", "HPCTRAIN_INCARNATION": "-1"}, "HPCTRAIN_INCARNATION is '-1'"),
    ({"HPCTRAIN_CHECKPOINT": "{"}, "HPCTRAIN_CHECKPOINT: "),
    ({"HPCTRAIN_CHECKPOINT": "[]"}, "HPCTRAIN_CHECKPOINT: the configuration is not an object"),
])
def test_bad_variable_is_named(env: dict[str, str], words: str) -> None:
    """One clear error with the variable's name."""
    with pytest.raises(UsageError) as caught:
        CheckpointConfig.from_env(env)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize(("change", "words"), [
    ({"root": 5}, "root: 5 is not a text"), ({"rot": "/r"}, "rot is not a known field"),
    ({"schedule": "often"}, "schedule: a schedule is"), ({"ram": {"history": -1}}, "ram.history: -1 is not"),
    ({"ram": {"histori": 1}}, "ram.histori is not a known field"), ({"local": {}}, "local.path is missing"),
    ({"object": {"url": "s3://b", "retention": {"keep_last": 0}}}, "object.retention: keep_last must be at least 1"),
    ({"mttf_s": "long"}, "mttf_s: 'long' is not a number"), ({"overhead_cap": 2}, "overhead_cap is a share"),
    ({"peer": {"schedule": {"every_steps": 0}}}, "peer.schedule: every_steps must be more than 0"),
])
def test_bad_field_is_named(change: dict[str, Any], words: str) -> None:
    """The error names the field with its path."""
    with pytest.raises(UsageError) as caught:
        CheckpointConfig.from_env({"HPCTRAIN_CHECKPOINT": json.dumps({"root": "/r", **change})})
    assert f"HPCTRAIN_CHECKPOINT: {words}" in str(caught.value)
