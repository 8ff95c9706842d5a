"""Breaks a running job on purpose, and compares what happened with what was promised."""
