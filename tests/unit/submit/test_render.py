"""The batch script: its whole text for every shipped recipe, and nothing of a recipe executed, ever."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from hpctrain import __version__, process, resources
from hpctrain.errors import RecipeError
from hpctrain.recipe.catalogue import is_generated
from hpctrain.recipe.resolve import read_resolved
from hpctrain.recipe.schema import Recipe
from hpctrain.submit.plan import Place, make_plan
from hpctrain.submit.render import output_pattern, render, sbatch_word, slurm_time
from hpctrain.submit.run import batch_template
from tests.unit.submit.builders import COMMAND, PLACE, PRETRAIN, cluster, plan

GOLDEN = Path(__file__).parents[2] / "golden" / "sbatch"
UPDATE = bool(os.environ.get("UPDATE_GOLDEN"))
PACKAGE = "/venv/lib/hpctrain"
TEMPLATE_TEXT = batch_template()

EVERY_OPTION = {**COMMAND, "resources": {
    "nodes": 3, "spares": 1, "gpus_per_node": 8, "gpu_type": "h100", "cpus_per_node": 96, "memory_per_node": "1TiB",
    "time_limit": "1-12:30:01", "partition": "gpu", "account": "lab.a", "qos": "high", "reservation": "res1",
    "constraint": "[rack1*2&rack2*2]", "container": "nvcr.io#nvidia/pytorch:25.01-py3",
    "container_mounts": ["/data:/data:ro"],
}, "resilience": {"requeue": False, "stop_before_limit": 300}}
MINIMAL = {**COMMAND, "resources": {"exclusive": True}}


def compare(name: str, script: str) -> None:
    """Compare with the stored text; UPDATE_GOLDEN=1 stores it."""
    path = GOLDEN / f"{name}.sh"
    text = script.replace(f"hpctrain {__version__}.", "hpctrain @VERSION@.")
    if UPDATE:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert path.read_text() == text


SHIPPED = resources.shipped_recipes().items()
HAND_WRITTEN = [name for name, path in SHIPPED if not is_generated(path.read_text(encoding="utf-8"))]
"""The others are in test_catalogue_scripts.py, all in one go."""


@pytest.mark.parametrize("name", HAND_WRITTEN)
def test_shipped_recipes(name: str, tmp_path: Path) -> None:
    """Each shipped recipe gives exactly the stored script, which bash and shellcheck accept."""
    # Not resolve(): it would refuse recipes whose data is for the user to fill in.
    recipe = read_resolved(resources.shipped_recipes()[name]).model_copy(update={"workdir": "/work"})
    script = render(make_plan(recipe, None, PLACE), TEMPLATE_TEXT, package_dir=PACKAGE)
    compare(name.replace("/", "-"), script)
    check_shell(script, tmp_path)


@pytest.mark.parametrize(("name", "base"), [("every_option", EVERY_OPTION), ("minimal", MINIMAL)])
def test_options(name: str, base: dict[str, Any], tmp_path: Path) -> None:
    """Every option of a recipe stands in the script where it belongs."""
    script = render(plan(base, cluster()), TEMPLATE_TEXT, package_dir=PACKAGE)
    compare(name, script)
    check_shell(script, tmp_path)


def check_shell(script: str, tmp_path: Path) -> None:
    path = tmp_path / "job.sh"
    path.write_text(script)
    parsed = process.run(["bash", "-n", str(path)], timeout_s=20)
    assert parsed.ok, parsed.stderr
    if process.find("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    checked = process.run(["shellcheck", str(path)], timeout_s=60)
    assert checked.ok, checked.stdout


def test_times_are_whole_minutes_rounded_up() -> None:
    """Slurm's limits have the grain of a minute; a job never gets less than it asked for."""
    assert slurm_time(1) == "0-00:01:00"
    assert slurm_time(86400 + 3600 + 61) == "1-01:02:00"


def test_values_that_no_script_can_carry_are_refused() -> None:
    """A line break or NUL in a header is an error of the recipe, as is a backslash in the output's path."""
    for bad in ("a\nb", "a\0b", "a\rb", "\x7f"):
        with pytest.raises(RecipeError, match="control character"):
            sbatch_word(bad)
    with pytest.raises(RecipeError, match="backslash"):
        output_pattern("/a\\b")
    assert output_pattern("/a%j") == "/a%%j"


# -- hostile strings -----------------------------------------------------------------------------------------------------

HOSTILE = (
    "$(>CANARY)", "`>CANARY`", "';>CANARY;'", '";>CANARY;"', "\n>CANARY\n", "\\\n>CANARY", "a;>CANARY", "a|>CANARY",
    "a&>CANARY", "-x", "--wrap=>CANARY", "${IFS}>CANARY", "a b", "a'b\"c`d$e\\f", "#", "\u2028>CANARY\u2028", "ü>CANARY",
    "\0>CANARY", "~", "*", "", "{{ 7*7 }}", "{% raw %}", "\n#SBATCH --wrap=x\n", "!!", "\x1b[2J>CANARY", "\r>CANARY\r",
    "EOF\n>CANARY",
)


def string_fields(model: type[BaseModel], path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all fields of a recipe that can hold a string, also inside lists and tables."""
    for name, field in model.model_fields.items():
        for kind in _kinds(field.annotation):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from string_fields(kind, (*path, name))
            elif kind is str:
                yield (*path, name)
            elif get_origin(kind) is list and str in _kinds(get_args(kind)[0]):
                yield (*path, name, 0)
            elif get_origin(kind) is dict:
                yield (*path, name, "KEY")


def _kinds(annotation: Any) -> Iterator[Any]:
    """The alternatives of an annotation, without Optional and Annotated around them."""
    origin = get_origin(annotation)
    if origin is not None and origin not in (list, dict, tuple):
        for argument in get_args(annotation)[: 1 if hasattr(annotation, "__metadata__") else None]:
            yield from _kinds(argument)
    else:
        yield annotation


FIELDS = sorted(set(string_fields(Recipe)), key=str)


def with_value(base: dict[str, Any], path: tuple[Any, ...], value: str) -> dict[str, Any]:
    """A recipe with one string replaced."""
    if path == ("command", 0):
        return {**base, "command": [value, value]}
    out: dict[str, Any] = dict(base)
    *parents, last = path
    node = out
    for key in parents:
        child = node.get(key) if isinstance(key, str) else None
        if last == 0 and key == parents[-1]:
            node[key] = [value]
            return out
        node[key] = dict(child) if isinstance(child, dict) else {}
        node = node[key]
    node[last] = value
    return out


class Bench:
    """Runs scripts under the real bash with a stand-in for Python that notes its arguments."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.canary = folder / "CANARY"
        self.argv = folder / "argv"
        self.stub = folder / "py th'on\"$x"
        self.stub.write_text(f'#!/bin/sh\nprintf "%s\\\\0" "$@" > "{self.argv}"\n')
        self.stub.chmod(0o700)

    def run(self, script: str) -> list[str]:
        """The words that reached the coordinator; fails if anything of the script was executed beside it."""
        self.argv.unlink(missing_ok=True)
        path = self.folder / "job.sh"
        path.write_bytes(script.encode())
        result = process.run(["/bin/bash", str(path)], timeout_s=20, cwd=str(self.folder), env={"PATH": "/nonexistent"})
        assert result.returncode == 0, (result.stderr, script)
        assert not self.canary.exists(), script
        assert result.stderr == ""
        return self.argv.read_bytes().decode().split("\0")[:-1]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with tempfile.TemporaryDirectory() as folder:
        yield Bench(Path(folder))


def test_bench_notices_an_execution(bench: Bench) -> None:
    """The check itself can fail: a script that carries a value unquoted is caught."""
    script = render(plan(place=Place("r", "/r", str(bench.stub))), TEMPLATE_TEXT, package_dir=PACKAGE)
    with pytest.raises(AssertionError):
        bench.run(script.replace("run_dir=/r", f"run_dir=$(>{bench.canary})"))
    bench.canary.unlink()


def test_all_string_fields_are_found() -> None:
    """The property below really reaches deep fields, lists and tables."""
    expected = {("env", "KEY"), ("command", 0), ("resources", "container_mounts", 0), ("resources", "constraint"), ("name",)}
    assert expected <= set(FIELDS)
    assert len(FIELDS) > 15


def check_harmless(bench: Bench, base: dict[str, Any], field: tuple[Any, ...], value: str) -> bool:
    """Render and run a recipe with a hostile value; False if the recipe was refused."""
    try:
        recipe = Recipe.model_validate(with_value(base, field, value))
        made = make_plan(recipe, None, Place("run-1", "/runs/run-1", str(bench.stub)))
        script = render(made, TEMPLATE_TEXT, package_dir=PACKAGE)
    except (ValidationError, RecipeError):
        return False
    words = bench.run(script)
    assert words[:4] == ["-m", "hpctrain.agent", "coordinate", "--run-dir"]
    directives = [line for line in script.split("\n") if line.startswith("#SBATCH")]
    assert all(line.startswith("#SBATCH --") for line in directives)
    assert not any(line.startswith("#SBATCH --wrap") for line in directives)
    container = made.container
    if container is not None and container.runtime == "pyxis":
        assert f"--container-image={container.image}" in words
    return True


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: ".".join(map(str, field)))
def test_no_hostile_string_is_executed(field: tuple[Any, ...], bench: Bench) -> None:
    """Every known trick in every string field: refused by the recipe's schema, or carried and never executed."""
    for base in (COMMAND, PRETRAIN):
        with_image = {**base, "resources": {"container": "img", "gpus_per_node": 1}}
        for value in HOSTILE:
            check_harmless(bench, with_image, field, value.replace("CANARY", str(bench.canary)))


@settings(max_examples=60, deadline=None)
@given(field=st.sampled_from(FIELDS), value=st.text(st.characters(codec="utf-8"), max_size=40))
def test_no_text_at_all_is_executed(field: tuple[Any, ...], value: str, bench: Bench) -> None:
    """Any text in any string field never changes what the script runs."""
    check_harmless(bench, {**COMMAND, "resources": {"container": "img", "gpus_per_node": 1}}, field, value)


@settings(max_examples=60, deadline=None)
@given(value=st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)))
def test_run_directory_may_have_any_name(value: str, bench: Bench) -> None:
    """The path of the run directory arrives at the coordinator unchanged, or is refused."""
    run_dir = "/runs/" + value.replace("CANARY", str(bench.canary))
    try:
        script = render(plan(place=Place("run-1", run_dir, str(bench.stub))), TEMPLATE_TEXT, package_dir=PACKAGE)
    except RecipeError:
        return
    assert bench.run(script)[4] == run_dir


def test_signals_are_forwarded_and_the_exit_code_kept(tmp_path: Path) -> None:
    """USR1 and TERM reach the coordinator while the shell waits, and its exit code becomes the job's."""
    stub, code = tmp_path / "python", tmp_path / "coordinator.py"
    code.write_text(
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGUSR1, lambda *a: print('got USR1', flush=True))\n"
        "signal.signal(signal.SIGTERM, lambda *a: (print('got TERM', flush=True), sys.exit(7)))\n"
        f"pathlib.Path({str(tmp_path / 'ready')!r}).touch()\nwhile True: time.sleep(1)\n"
    )
    # Through sh: an interpreter whose path has a blank cannot stand in a "#!" line.
    stub.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(code))}\n")
    stub.chmod(0o700)
    script = tmp_path / "job.sh"
    script.write_text(render(plan(place=Place("r", "/r", str(stub))), TEMPLATE_TEXT, package_dir=PACKAGE))
    driver = (
        f'bash "{script}" & pid=$!; until [ -e "{tmp_path}/ready" ]; do sleep 0.02; done; sleep 0.1;'
        "kill -USR1 $pid; sleep 0.3; kill -TERM $pid; wait $pid; echo code $?"
    )
    result = process.run(["bash", "-c", driver], timeout_s=30)
    assert result.stdout.split("\n")[:3] == ["got USR1", "got TERM", "code 7"], result
