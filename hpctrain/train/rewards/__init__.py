"""Judgements of what a model writes, as numbers: one file per kind, and :mod:`.build` that makes them from a recipe."""
