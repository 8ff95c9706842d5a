"""Nodes over SSH: where Slurm cannot reach."""
