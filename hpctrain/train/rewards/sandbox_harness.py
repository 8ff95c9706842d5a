"""Tests an answer inside the sandbox, beside ``answer.py``, ``test_0.py``, ``test_1.py``, ... (entry point).

The first line of standard input is a word that nobody can guess; each test that passes is reported as that word and its
number. Standard library only.
"""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType


def main() -> None:
    """Load the answer once, then run every test with the answer's names."""
    word, sink = sys.stdin.readline().strip(), os.dup(1)
    tests = sorted(Path().glob("test_*.py"), key=lambda path: int(path.stem.removeprefix("test_")))
    sys.path.insert(0, "")
    answer = _load("answer", Path("answer.py"), {})
    names = {name: value for name, value in vars(answer).items() if not (name.startswith("__") and name.endswith("__"))}
    for number, test in enumerate(tests):
        try:
            _load(test.stem, test, names)
        except BaseException:  # noqa: BLE001, S112 - whatever it raises, SystemExit too, it has not passed
            continue
        os.write(sink, f"\n{word} {number}\n".encode())


def _load(name: str, path: Path, names: dict[str, object]) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(name)
    module = importlib.util.module_from_spec(spec)
    vars(module).update(names)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
