"""Nodes as an administrator sees them: state, evidence, what happens next."""
