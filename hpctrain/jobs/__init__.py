"""Runs on disk and what can be told about them."""
