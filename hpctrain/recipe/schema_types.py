"""The types that the sections of a recipe are made of (pure; pydantic is the schema language)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

from hpctrain.recipe.units import (
    parse_count,
    parse_duration,
    parse_duration_or_auto,
    parse_memory,
    parse_steps_or_auto,
    parse_switch,
)

Duration = Annotated[
    int, BeforeValidator(parse_duration),
    WithJsonSchema({
        "description": "seconds, or 90s, 30m, 2h, 1d, HH:MM:SS, D-HH:MM:SS",
        "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": "^[0-9]"}],
    }),
]
"""Seconds; written as seconds, ``30s``, ``90m``, ``2h``, ``1d``, ``HH:MM:SS`` or ``D-HH:MM:SS``."""
MemorySize = Annotated[
    int, BeforeValidator(parse_memory),
    WithJsonSchema({
        "description": "a number and a unit, such as 64GiB, 512MiB, 80GB",
        "anyOf": [{"type": "integer", "minimum": 2**20}, {"type": "string", "pattern": "^[0-9.]+ *[kKMGT]?i?B$"}],
    }),
]
"""Bytes; written with a unit: ``64GiB``, ``512MiB``, ``80GB``, ``1TiB``."""
DurationOrAuto = Annotated[
    int | Literal["auto"], BeforeValidator(parse_duration_or_auto),
    WithJsonSchema({
        "description": "auto, or seconds, 90s, 30m, 2h, 1d, HH:MM:SS, D-HH:MM:SS",
        "anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1}, {"type": "string", "pattern": "^[0-9]"}],
    }),
]
"""A :data:`Duration`, or ``auto`` for one that is computed."""
StepsOrAuto = Annotated[
    int | Literal["auto"], BeforeValidator(parse_steps_or_auto),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1}]}),
]
"""A number of steps, or ``auto`` for one that is computed."""
Switch = Annotated[
    bool | Literal["auto"], BeforeValidator(parse_switch),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "boolean"}]}),
]
"""On, off, or ``auto``: on where it can work."""
Count = Annotated[
    int, BeforeValidator(parse_count), WithJsonSchema({"type": "number", "minimum": 1}), Field(ge=1, le=10**18),
]
"""A whole number that may be written as ``15e9``."""
Text = Annotated[str, WithJsonSchema({"type": ["string", "number", "boolean"]})]
"""Text; a plain number or word such as ``1e-4`` or ``true`` is taken exactly as it is written."""
PATTERN_HELP: dict[str, str] = {
    r"^[A-Za-z0-9_][A-Za-z0-9_.@:+-]*$": "letters, digits and _ . @ : + - only",
    r"^[A-Za-z0-9_\[(][A-Za-z0-9_.@:+\-&|*\[\]()!,]*$": "letters, digits and Slurm's own operators & | * [ ] ( ) ! , only",
    r"^[A-Za-z_][A-Za-z0-9_]*$": "the name of a variable has letters, digits and _ only, and no digit first",
    r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,79}$": "letters, digits and _ . - only, at most 80, and none of _ . - first",
}
"""What the patterns below mean, for messages."""
_WORD, _EXPRESSION, _VARIABLE, _RUN_NAME = PATTERN_HELP
SlurmWord = Annotated[str, StringConstraints(pattern=_WORD, max_length=128)]
"""A name that Slurm itself gives meaning to (partition, account, QOS, reservation)."""
SlurmExpression = Annotated[str, StringConstraints(pattern=_EXPRESSION, max_length=512)]
"""A constraint or license expression of Slurm: no blanks, quotes or shell characters beyond Slurm's own operators."""
EnvName = Annotated[str, StringConstraints(pattern=_VARIABLE, max_length=256)]
RunName = Annotated[str, StringConstraints(pattern=_RUN_NAME)]


class Strict(BaseModel):
    """Base of all sections: unknown keys are errors, values are never silently converted, instances are frozen."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True, use_attribute_docstrings=True,
    )
