"""The systems that ``benchmarks/recovery.py`` compares: one adapter each, and the programs that they run."""
