"""The schema for editors (pure)."""

from __future__ import annotations

from typing import Any

from hpctrain.recipe.schema import SCHEMA_VERSION, Recipe


def json_schema() -> dict[str, Any]:
    """JSON Schema of a recipe file.

    It says more than :class:`Recipe`, because a file may also hold ``extends``, and requires less, because a parent
    may bring what a file leaves out.
    """
    schema = Recipe.model_json_schema()
    properties = {
        "extends": {
            "title": "Extends", "type": "string",
            "description": "A recipe to start from: a path relative to this file, or the name of a shipped recipe.",
        },
        **schema["properties"],
    }
    for definition in (schema, *schema.get("$defs", {}).values()):
        if definition.get("type") == "object":
            definition.pop("required", None)
            definition["description"] = _one_line(definition.get("description", ""))
    for definition in (properties, *(item.get("properties", {}) for item in schema.get("$defs", {}).values())):
        for field in definition.values():
            if "description" in field:
                field["description"] = _one_line(field["description"])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema", **schema,
        "title": f"hpctrain recipe, version {SCHEMA_VERSION}", "properties": properties,
    }


def _one_line(text: str) -> str:
    return " ".join(text.replace("``", "'").split())
