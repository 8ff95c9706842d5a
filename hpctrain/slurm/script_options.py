"""Read the ``#SBATCH`` lines of a batch script as sbatch does (pure)."""

from __future__ import annotations

import shlex

_SHORT = {
    "A": "account", "D": "chdir", "H": "hold", "J": "job-name", "N": "nodes", "k": "no-kill", "p": "partition",
    "q": "qos", "t": "time", "w": "nodelist", "x": "exclude",
}
_FLAGS = frozenset({"hold", "no-kill", "requeue", "no-requeue", "exclusive", "contiguous"})


def script_options(script: str) -> dict[str, str]:
    """Options by long name; a flag has the value "". Lines after the first command do not count."""
    options: dict[str, str] = {}
    for line in script.splitlines()[1:]:
        if line.startswith("#SBATCH"):
            _read(shlex.split(line[len("#SBATCH") :], comments=True), options)
        elif line.strip() and not line.startswith("#"):
            break
    return options


def _read(words: list[str], options: dict[str, str]) -> None:
    rest = iter(words)
    for word in rest:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
        else:
            name, equals, value = _SHORT.get(word[1:2], word[1:2]), word[2:], word[2:]
        if not equals and name not in _FLAGS:
            value = next(rest, "")
        options[name] = value
