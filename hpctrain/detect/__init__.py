"""Finds out that a job is in trouble although all its processes live: hangs, losses, throughput, log lines, nodes."""
