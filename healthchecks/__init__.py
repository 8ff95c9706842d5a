"""The checks themselves: one per file, each a pure function from a Reading to Findings (pure).

A file ``NAME.py`` here defines ``CHECK``, a :class:`hpctrain.health.finding.Check` whose name is ``NAME``.
"""
