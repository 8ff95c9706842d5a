"""Holds section 4 of the design: which kind of file may import what, and which domain may know which."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass

import pytest

from tests.source_tree import ROOT, Module, functions, is_standard, modules, package


def nothing(wrong: Iterable[str]) -> None:
    """Fail with one violation per line."""
    found = list(wrong)
    assert not found, "\n".join(["", *found])


# ---------------------------------------------------------------- what only some files may import


@dataclass(frozen=True)
class Owner:
    """The files that may import an outside module, and why it is these."""

    paths: tuple[str, ...]
    reason: str


TRAINING = ("hpctrain/train/", "hpctrain/checkpoint/", "hpctrain/agent/", "hpctrain/evaluate/", "hpctrain/health/deep/",
            "hpctrain/sharding.py", "hpctrain/process_group.py")
OWNERS: dict[str, Owner] = {
    "subprocess": Owner(("hpctrain/process.py",), "every program is started from an argument list, with a timeout"),
    "click": Owner(("hpctrain/cli/",), "services are called from Python and from the command line alike"),
    "rich": Owner(("hpctrain/cli/",), "only the command line draws"),
    "plotext": Owner(("hpctrain/cli/",), "only the command line draws"),
    "torch": Owner((*TRAINING, "hpctrain/testing/openai_model.py"), "nothing else needs the seconds that its import takes"),
    "transformers": Owner(("hpctrain/train/", "hpctrain/checkpoint/callbacks_transformers.py",
                           "hpctrain/testing/openai_model.py", "hpctrain/evaluate/hugging_face.py"),
                          "models and tokenizers belong to the trainer; its Trainer gets a callback"),
    "lm_eval": Owner(("hpctrain/evaluate/suites/harness.py",), "an optional suite"),
    "lightning": Owner(("hpctrain/checkpoint/callbacks_lightning.py",), "its Trainer gets a callback"),
    "tokenizers": Owner(("hpctrain/train/byte_tokenizer.py",), "one tokenizer is made by ourselves"),
    "trl": Owner(("hpctrain/train/tune/",), "its trainers carry the methods that tune a model"),
    "peft": Owner(("hpctrain/train/tune/", "hpctrain/evaluate/"), "adapters are trained, and added to their models"),
    "bitsandbytes": Owner(("hpctrain/train/tune/model.py",), "frozen weights in four bits, where it runs"),
    "datasets": Owner(("hpctrain/train/", "hpctrain/data/hub.py"), "tables of the trainer; sets are loaded in one file"),
    "huggingface_hub": Owner(("hpctrain/submit/hub_probe.py",), "the hub is asked in one place"),
    "pyarrow": Owner(("hpctrain/data/parquet_file.py",), "parquet files are read in one file"),
    "numpy": Owner(TRAINING, "arrays live where tensors live"),
    "safetensors": Owner(TRAINING, "weights live where tensors live"),
    "tensorboard": Owner(("hpctrain/train/",), "curves are written by the trainer"),
    "mlflow": Owner(("hpctrain/train/mlflow_log.py",), "it runs in a process of its own, unnoticed by the training"),
    "xxhash": Owner(("hpctrain/checkpoint/", "hpctrain/train/staging.py"), "checksums of shards and of copies"),
    "pydantic": Owner(("hpctrain/recipe/",), "the schema language of recipes, and nothing else's"),
    "pydantic_core": Owner(("hpctrain/recipe/",), "pydantic's own errors"),
    "yaml": Owner(("hpctrain/recipe/",), "recipes are the only YAML"),
    "tomllib": Owner(("hpctrain/settings_file.py", "hpctrain/recipe/"), "site and user settings are the only TOML"),
    "tomli": Owner(("hpctrain/settings_file.py", "hpctrain/recipe/"), "tomllib for Python 3.10"),
    "jinja2": Owner(("hpctrain/submit/render.py", "hpctrain/recipe/chat_template.py"),
                    "one template engine, for the batch script; chat templates are tried as transformers will"),
    "ClusterShell": Owner(("hpctrain/slurm/nodelist.py",), "node names are folded and expanded in one place"),
    "pynvml": Owner(("hpctrain/health/probe_nvml.py",), "one GPU probe"),
    "psutil": Owner(("hpctrain/health/probe_psutil.py",), "one process probe"),
    "fsspec": Owner(("hpctrain/checkpoint/object_files.py",), "object stores, behind one library"),
    "pyslurm": Owner(("hpctrain/slurm/via_pyslurm.py",), "an optional adapter that sites build themselves"),
    "paramiko": Owner(("hpctrain/fleet/ssh.py",), "one SSH adapter"),
}


def test_outside_modules_have_owners() -> None:
    """Every module from outside (and subprocess) is imported only by the files that own it."""
    wrong = []
    for module in [*package(), *modules("healthchecks")]:
        for imported in module.imports:
            owner = OWNERS.get(imported.top)
            if owner is None and (is_standard(imported.top) or imported.top in ("hpctrain", "healthchecks")):
                continue
            if owner is None:
                wrong.append(f"{module.where(imported.line)}: {imported.top} has no owner in this file's table")
            elif not module.path.startswith(owner.paths):
                wrong.append(f"{module.where(imported.line)}: {imported.top} belongs to {owner.paths}: {owner.reason}")

    nothing(wrong)


REACHED = {
    "accelerate": "transformers' Trainer stands on it",
    "tensorboard": "through torch.utils.tensorboard",
    "safetensors": "transformers writes weights with it",
    "tomli": "by name, on Python 3.10 only",
    "py-spy": "a program that agents run, where it is installed",
}
"""Requirements that no import names."""


def test_requirements_are_used() -> None:
    """Every requirement of the package is imported somewhere in it: nothing is installed for nothing."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    names = {"pyyaml": "yaml", "clustershell": "ClusterShell"}
    lines = setup["options"]["install_requires"].split("\n") + setup["options.extras_require"]["train"].split("\n")
    required = {names.get(key.lower(), key) for line in lines if (key := re.split(r"[<>=;\s]", line)[0])}
    imported = {imported.top for module in package() for imported in module.imports}

    nothing(required - imported - set(REACHED))


# ---------------------------------------------------------------- kinds of file

IMPURE = {
    "asyncio", "ctypes", "fcntl", "getpass", "http", "logging", "mmap", "multiprocessing", "pwd", "random", "resource",
    "secrets", "select", "selectors", "shutil", "socket", "socketserver", "ssl", "subprocess", "sys",
    "tempfile", "threading", "time", "urllib", "uuid",
}
"""Standard modules that reach outside the values a pure function is given."""
IMPURE_CALLS = {
    "open", "print", "input", "now", "utcnow", "today", "getenv", "cwd", "home", "expanduser", "read_text", "read_bytes",
    "write_text", "write_bytes", "exists", "is_file", "is_dir", "mkdir", "iterdir", "glob", "rglob", "unlink", "stat",
    "touch", "signal", "kill", "killpg",
}
VALUE_LIBRARIES = {"pydantic", "pydantic_core", "yaml", "ClusterShell", "jinja2"}
"""Outside libraries that a pure file may use where it owns them: they turn values into values."""
OS_VALUES = {"PathLike", "fspath", "path", "sep", "pathsep"}
"""What a pure file may use of ``os``: names of things, not the things."""


def test_every_module_names_its_kind() -> None:
    """The first paragraph of a module says what kind of file it is; packages, public fakes and __main__ need not."""
    free = ("hpctrain/testing/", "hpctrain/__main__.py")

    nothing(m.path for m in package() if not m.is_package and not m.path.startswith(free) and not m.kind)


def test_every_module_has_a_docstring() -> None:
    """Every file with code begins with what it is for."""
    everything = modules("hpctrain", *BESIDE, "tests")

    nothing(m.path for m in everything if m.tree.body and not ast.get_docstring(m.tree))


def test_pure_modules_import_only_values() -> None:
    """A pure file imports other pure files, the standard library without its outside parts, and libraries of values."""
    everything = {module.name: module for module in package()}
    wrong = []
    for module in _pure():
        for imported in module.imports:
            if imported.top == "hpctrain":
                target = everything.get(imported.name)
                clean = target is not None and (target.kind == "pure" or _is_empty(target))
            else:
                clean = (is_standard(imported.top) and imported.top not in IMPURE) or imported.top in VALUE_LIBRARIES
            if not clean:
                wrong.append(f"{module.where(imported.line)}: {imported.name}")

    nothing(wrong)


def test_pure_modules_touch_nothing() -> None:
    """A pure file reads no clock, no environment and no file, and prints nothing."""
    wrong = []
    for module in _pure():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and _called(node) in IMPURE_CALLS:
                wrong.append(f"{module.where(node.lineno)}: {_called(node)}()")
            is_os = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"
            if is_os and node.attr not in OS_VALUES:
                wrong.append(f"{module.where(node.lineno)}: os.{node.attr}")

    nothing(wrong)


def _pure() -> list[Module]:
    return [module for module in [*package(), *modules("healthchecks")] if module.kind == "pure"]


def _is_empty(module: Module) -> bool:
    """A package whose import runs nothing; that of hpctrain itself is held by test_startup.py."""
    return module.name == "hpctrain" or (module.is_package and not module.imports)


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


# ---------------------------------------------------------------- directions between domains

CONTRACTS = {
    "hpctrain.jobs.event", "hpctrain.jobs.layout", "hpctrain.recipe.units", "hpctrain.slurm.model",
    "hpctrain.submit.plan_model", "hpctrain.train.environment",
}
"""Pure modules that say what domains agree on: names in the environment, files of a run, the plan, Slurm's values, units."""

NEVER: dict[str, tuple[set[str], str]] = {
    "train": ({"slurm", "submit", "devcluster", "watchdog", "agent", "fleet"}, "a training process also runs without Slurm"),
    "endpoint": ({"slurm", "submit", "devcluster", "watchdog", "agent", "train", "checkpoint", "jobs"}, "all ask it"),
    "checkpoint": ({"slurm", "submit", "devcluster", "watchdog", "agent", "train", "jobs"}, "it is the trainer's library"),
    "evaluate": ({"slurm", "submit", "devcluster", "watchdog", "agent", "train", "fleet"}, "the trainer calls it"),
    "recipe": ({"slurm", "submit", "devcluster", "jobs", "agent", "train", "checkpoint"}, "a recipe is data"),
    "slurm": ({"submit", "recipe", "jobs", "agent", "train", "checkpoint"}, "the port knows Slurm and nothing of ours"),
    "data": ({"slurm", "submit", "devcluster", "jobs", "agent", "train", "checkpoint", "watchdog", "fleet"},
             "rows are read the same before a submission, in a job and on a laptop"),
    "devcluster": ({"submit", "recipe", "jobs", "agent", "train", "checkpoint"}, "a cluster does not know what runs on it"),
    "jobs": ({"submit", "agent", "train", "devcluster"}, "the record of a run outlives what made it"),
    "health": ({"slurm", "submit", "jobs", "agent", "train", "recipe", "devcluster"}, "the prolog imports it"),
    "watchdog": ({"agent", "train", "devcluster", "checkpoint", "recipe"}, "it outlives what it watches"),
    "submit": ({"train", "checkpoint"}, "it starts the trainer as a program, on other nodes"),
}
ABOVE = {"api", "__main__", "cli", "testing"}
"""What stands above the domains; every other root module knows none of them."""


@pytest.mark.parametrize("domain", sorted(NEVER))
def test_directions(domain: str) -> None:
    """A domain never imports one that stands above it or beside it."""
    forbidden, reason = NEVER[domain]
    wrong = [
        f"{module.where(imported.line)}: {imported.name}: {reason}"
        for module in package() if module.domain == domain
        for imported in module.imports if _domain(imported.name) in forbidden and not _is_contract(domain, imported.name)
    ]

    nothing(wrong)


def test_nothing_imports_the_command_line() -> None:
    """Only the command line itself, and ``python -m hpctrain``, import hpctrain.cli."""
    wrong = [
        module.where(imported.line) for module in package() if module.domain not in ("cli", "__main__")
        for imported in module.imports if _domain(imported.name) == "cli"
    ]

    nothing(wrong)


def test_fakes_are_for_tests() -> None:
    """The product never imports its own fakes."""
    wrong = [
        module.where(imported.line) for module in package() if module.domain != "testing"
        for imported in module.imports if _domain(imported.name) == "testing"
    ]

    nothing(wrong)


def test_small_roots_know_no_domain() -> None:
    """The shared root modules import each other at most, so that every domain may use them."""
    domains = _domains()
    wrong = [
        f"{module.where(imported.line)}: {imported.name}"
        for module in package() if module.domain and module.domain not in domains | ABOVE
        for imported in module.imports if _domain(imported.name) in domains and imported.name not in CONTRACTS
    ]

    nothing(wrong)


def test_domains_form_no_cycle() -> None:
    """Following imports from domain to domain never leads back."""
    domains = _domains()
    edges: dict[str, set[str]] = {domain: set() for domain in domains}
    for module in package():
        if module.domain in domains:
            known = {_domain(imported.name) for imported in module.imports if imported.name not in CONTRACTS}
            edges[module.domain] |= known & domains - {module.domain}

    nothing([" -> ".join(found)] if (found := _cycle(edges)) else [])


def test_health_checks_know_only_readings() -> None:
    """A check imports the standard library, the two modules that define its input and output, and the Xid policy."""
    allowed = {"hpctrain.health.reading", "hpctrain.health.finding", "hpctrain.health.xid", "hpctrain.health.xid_table"}
    wrong = [
        f"{module.where(imported.line)}: {imported.name}" for module in modules("healthchecks")
        for imported in module.imports if not is_standard(imported.top) and imported.name not in allowed
    ]

    nothing(wrong)


def test_health_imports_only_the_standard_library() -> None:
    """hpctrain.health runs in a prolog: standard library and the GPU and process probes, no other package."""
    wrong = [
        f"{module.where(imported.line)}: {imported.name}" for module in package()
        if module.domain == "health" and "/deep/" not in module.path
        for imported in module.imports
        if not is_standard(imported.top) and imported.top not in ("hpctrain", "healthchecks", "pynvml", "psutil")
    ]

    nothing(wrong)


def _is_contract(domain: str, name: str) -> bool:
    """The trainer gets no exception: it must run where nothing was submitted."""
    return name in CONTRACTS and domain != "train"


def _domain(name: str) -> str:
    parts = name.split(".")
    return parts[1] if parts[0] == "hpctrain" and len(parts) > 1 else ""


def _domains() -> set[str]:
    folders = {path.name for path in (ROOT / "hpctrain").iterdir() if (path / "__init__.py").is_file()}
    return folders - {"cli", "testing"}


def _cycle(edges: dict[str, set[str]]) -> list[str]:
    """One cycle as a list of names, [] if there is none."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name):], name]
        if name in done:
            return []
        for target in sorted(edges[name]):
            found = visit(target, [*path, name])
            if found:
                return found
        done.add(name)
        return []

    return next((found for name in sorted(edges) if (found := visit(name, []))), [])


# ---------------------------------------------------------------- form

LONGEST_MODULE = 400
LONGEST_FUNCTION = 80
BESIDE = ("healthchecks", "scripts", "benchmarks")
"""Folders of Python beside the package."""


def test_modules_stay_short() -> None:
    """No file grows past what can be read in one sitting."""
    lengths = {module.path: module.text.count("\n") for module in modules("hpctrain", *BESIDE)}

    nothing(f"{path}: {lines} lines" for path, lines in lengths.items() if lines > LONGEST_MODULE)


def test_functions_stay_short() -> None:
    """No function grows past one screen and a half."""
    wrong = [
        f"{module.where(function.lineno)}: {function.name}" for module in modules("hpctrain", *BESIDE)
        for function in functions(module.tree) if (function.end_lineno or 0) - function.lineno > LONGEST_FUNCTION
    ]

    nothing(wrong)


def test_public_names_are_documented() -> None:
    """Every public function, class and method has a docstring; an adapter's method may lean on its protocol's."""
    protocol = {
        method.name for module in modules("hpctrain", *BESIDE)
        for cls in ast.walk(module.tree) if isinstance(cls, ast.ClassDef)
        if any(getattr(base, "id", "") == "Protocol" for base in cls.bases)
        for method in cls.body if isinstance(method, ast.FunctionDef) and ast.get_docstring(method)
    }
    wrong = [
        f"{module.where(node.lineno)}: {node.name}" for module in modules("hpctrain", *BESIDE)
        for node in _public(module.tree) if not ast.get_docstring(node) and node.name not in protocol
    ]

    nothing(wrong)


def _public(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    top = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    inner = [child for node in top if isinstance(node, ast.ClassDef) for child in node.body if isinstance(child, kinds)]
    return top + [node for node in inner if not node.name.startswith("_") and not _is_twin(node)]


def _is_twin(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    """Overloads and setters share another function's docstring."""
    names = {getattr(d, "id", getattr(d, "attr", "")) for d in node.decorator_list}
    return bool(names & {"overload", "setter"})


def test_every_test_states_a_behaviour() -> None:
    """Every test function has a docstring that says, in a sentence, what must hold."""
    wrong = [
        f"{module.where(function.lineno)}: {function.name}" for module in modules("tests")
        for function in functions(module.tree)
        if function.name.startswith("test_") and not (ast.get_docstring(function) or "").rstrip().endswith(".")
    ]

    nothing(wrong)


INTERPRETERS = {"hpctrain/agent/python_command.py": "it is the interpreter of a rank: it runs the user's own program file"}


def test_no_shell_and_no_eval() -> None:
    """Nothing is handed to a shell or to the interpreter as text, anywhere in the project's code."""
    calls = {"eval", "exec", "system", "popen"}
    wrong = []
    for module in modules("hpctrain", *BESIDE):
        for node in ast.walk(module.tree):
            if isinstance(node, ast.keyword) and node.arg == "shell":
                wrong.append(f"{module.path}:{node.value.lineno}: shell=")
            if isinstance(node, ast.Call) and _is_text_run(node, calls) and module.path not in INTERPRETERS:
                wrong.append(f"{module.where(node.lineno)}: {_called(node)}()")

    nothing(wrong)


def _is_text_run(node: ast.Call, names: set[str]) -> bool:
    """``eval(...)`` or ``os.system(...)``, not ``model.eval()``."""
    if isinstance(node.func, ast.Name):
        return node.func.id in names
    owner = node.func.value if isinstance(node.func, ast.Attribute) else None
    return isinstance(owner, ast.Name) and owner.id in ("os", "builtins") and _called(node) in names


# ---------------------------------------------------------------- packaging and portability

ACCELERATOR = re.compile(r"^(nvidia|cuda|triton)(-|$)")

TEXT = {".py", ".sh", ".md", ".cfg", ".toml", ".txt", ".in", ".yaml", ".yml", ".json", ".tmpl", ".j2", ".conf", ".service"}


def _project_files() -> list[tuple[str, str]]:
    """(path, text) of every text file that belongs to the project."""
    folders = ("hpctrain", *BESIDE, "tests", "docs", "recipes", "slurm_scripts", "docker-slurm", ".ci")
    paths = [path for path in ROOT.iterdir() if path.is_file()]
    paths += [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [(str(path.relative_to(ROOT)), path.read_text(errors="replace")) for path in sorted(paths)
            if "__pycache__" not in path.parts and (path.suffix in TEXT or path.parent.name == ".ci")]


def test_packages_are_listed() -> None:
    """setup.cfg lists exactly the packages of the tree, since 'find:' cannot also ship the folders beside it."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    found = {module.name for module in package() if module.is_package}
    shipped = {line.split("=")[0].strip() for line in setup["options"]["package_dir"].strip().split("\n")}

    assert found | shipped == listed


def test_everything_that_is_installed_is_pinned() -> None:
    """constraints.txt names every package that hpctrain[train,test,object] brings in, but for accelerators."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.partition("==")[0] for line in lines if line and not line.startswith("#")}
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    todo = [line for key in ("train", "test", "object") for line in setup["options.extras_require"][key].split("\n")]
    todo += setup["options"]["install_requires"].split("\n")
    seen: set[str] = set()
    while todo:
        line = todo.pop()
        name = re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", line.strip())[0]).lower()
        if not name or name in seen or "extra ==" in line or ACCELERATOR.match(name):
            continue
        try:
            todo += importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another Python or platform
        seen.add(name)

    assert {"torch", "transformers", "pytest"} <= seen
    nothing(seen - pinned)


def test_no_file_names_the_machine_it_was_written_on() -> None:
    """No file holds the path of this checkout or of this environment."""
    here = {str(ROOT), sys.prefix} - {"/", "/usr", "/usr/local"}

    files = _project_files()

    nothing(f"{path}: {place}" for path, text in files for place in here if re.search(re.escape(place) + r"\b", text))


def test_the_package_index_is_the_users_choice() -> None:
    """No file hard-codes where Python packages come from: pip's own settings and our variable decide."""
    fixed = re.compile(r"(index-url|find-links|INDEX_URL|FIND_LINKS)[ =]+[\"']?https?://")

    nothing(path for path, text in _project_files() if fixed.search(text))
