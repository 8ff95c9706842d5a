"""From one argument to one checked recipe."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from hpctrain import process
from hpctrain.errors import HpctrainError, NotFoundError, RecipeError
from hpctrain.recipe.node import find
from hpctrain.recipe.parse import parse_document
from hpctrain.recipe.resolve import dump_resolved, read_resolved, resolve
from hpctrain.settings import Settings

Write = Callable[..., str]


def test_layers_in_their_order(write: Write, minimal: str) -> None:
    """Site defaults are under parents, parents under the recipe, --set on top, and each value says so."""
    write(minimal + "  seed: 1\n  log_every_steps: 7\nresources: {partition: from-parent}\n", "parent.yaml")
    child = write("extends: parent.yaml\ntraining:\n  seed: 2\n", "child.yaml")
    site = Settings("/runs", recipe_layers=(("/etc/site.toml", {"resources": {"partition": "site", "account": "lab"}}),))

    resolved = resolve(child, ["training.steps=3"], site)

    recipe = resolved.recipe
    assert (recipe.training.steps, recipe.training.seed, recipe.training.log_every_steps) == (3, 2, 7)
    assert (recipe.resources.partition, recipe.resources.account) == ("from-parent", "lab")
    parent = str(Path(child).with_name("parent.yaml"))
    assert resolved.origins["training.steps"] == "--set training.steps"
    assert resolved.origins["training.seed"] == f"{child}:3"
    assert resolved.origins["training.log_every_steps"] == f"{parent}:13"
    assert resolved.origins["resources.account"] == "/etc/site.toml"
    assert "checkpoint.keep_last" not in resolved.origins


def test_home_of_nobody_is_a_recipe_error(write: Write, minimal: str) -> None:
    """'~name' of a user who does not exist is a path that does not exist, not a crash."""
    with pytest.raises(NotFoundError):
        resolve("~nobody-of-this-name/recipe.yaml")
    with pytest.raises(HpctrainError):
        resolve(write(minimal), ["model.path=~nobody-of-this-name"])


def test_two_sets_of_which_one_can_hold_are_refused(write: Write, minimal: str) -> None:
    """Each --set is laid over the one before, but two choices on one command line are a mistake, not an order."""
    with pytest.raises(RecipeError, match=r"only one of training\.steps and training\.epochs"):
        resolve(write(minimal), ["training.steps=10", "training.epochs=1"])
    twice = ["training.epochs=1", "training.epochs=null", "training.steps=10", "training.steps=11"]
    assert resolve(write(minimal), twice).recipe.training.steps == 11


def test_all_problems_at_once_each_with_its_line(write: Write, minimal: str) -> None:
    """A recipe with five mistakes is told all five, in the order of the file."""
    wrong = "resources:\n  nodes: two\n  time_limit: 10:30\n  memory_per_node: 64\n"
    path = write(minimal.replace("steps: 10", "stpes: 10") + wrong)

    with pytest.raises(RecipeError) as error:
        resolve(path, ["checkpoint.keep_last=0"])

    text = str(error.value)
    assert f"{path}:10: training.stpes: unknown key; did you mean 'steps'?" in text
    assert f"{path}:13: resources.nodes: expected a whole number, got 'two'" in text
    assert f"{path}:14: resources.time_limit: '10:30' is not a duration" in text
    assert f"{path}:15: resources.memory_per_node: 64 is not a memory size" in text
    assert "--set checkpoint.keep_last: must be at least 1, got 0" in text
    assert error.value.exit_code == 3
    assert "pydantic" not in text and "Traceback" not in text


@pytest.mark.parametrize(("line", "message"), [
    ("trainig: {steps: 1}", "trainig: unknown key; did you mean 'training'?"),
    ("learning_rate: 1", "unknown key here; 'learning_rate' belongs under 'training.optimizer.learning_rate'"),
    ("env: {A-B: x}", "the name of a variable has letters"),
    ("resources: {partition: 'a b'}", "letters, digits and _ . @ : + - only"),
    ("resources: {nodes: true}", "expected a whole number, got true"),
    ("resources: {nodes: 2.0}", "expected a whole number, got 2"),
    ("resources: {exclusive: yes}", "expected true or false, got 'yes'"),
    ("resources: [1]", "resources: expected a section with keys, got a list"),
    ("checkpoint: {resume: Auto}", "did you mean 'auto'?"),
    ("resources: {time_limit: 99999d}", "longer than ten years"),
    ("command: []", "command: "),
    ("tracking: {tensorboard: null, x: 1}", "tracking.x: unknown key; known here: tensorboard"),
])
def test_messages_say_what_was_expected(write: Write, minimal: str, line: str, message: str) -> None:
    """One mistake is one message with line, key, and what would have been right."""
    path = write(minimal + line + "\n")

    with pytest.raises(RecipeError) as error:
        resolve(path)

    assert message in str(error.value)
    assert str(error.value).startswith(f"{path}:12: ")


def test_missing_sections_are_named(write: Write) -> None:
    """What nothing sets is asked for by name."""
    with pytest.raises(RecipeError, match="name: is required") as error:
        resolve(write("version: 1\nmethod: cpt\n"))

    assert error.value.hint or error.value.advice


def test_words_that_look_like_numbers_are_text_where_text_is_wanted(write: Write) -> None:
    """In env and command, 1e-4, true and 010 arrive exactly as they were written."""
    path = write("version: 1\nname: 2026\ncommand: [/bin/echo, 1e-4, 1_000, true, 0]\nenv: {A: 1, B: false, C: 010}\n")

    recipe = resolve(path, ["env.D=1.50"]).recipe

    assert recipe.name == "2026"
    assert recipe.command == ["/bin/echo", "1e-4", "1_000", "true", "0"]
    assert recipe.env == {"A": "1", "B": "false", "C": "010", "D": "1.50"}


def test_paths_belong_to_the_file_that_writes_them(
    write: Write, minimal: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A parent's relative path is relative to the parent, one from --set to the current directory."""
    files = minimal.replace("source: python-docs", "source: files\n  paths: [one.txt]")
    write(files, "base/parent.yaml")
    write("text", "base/one.txt")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "two.txt").write_text("text")
    child = write("extends: ../base/parent.yaml\n", "sub/child.yaml")
    monkeypatch.chdir(tmp_path / "here")

    first, second = resolve(child).recipe.data, resolve(child, ["data.paths=[two.txt]"]).recipe.data

    assert first is not None and first.paths == [str(tmp_path / "base" / "one.txt")]
    assert second is not None and second.paths == [str(tmp_path / "here" / "two.txt")]


@pytest.mark.parametrize(("change", "message"), [
    ("source: files\n  paths: [none.txt]", "data.paths[0]: no such file or directory"),
    ("source: files\n  paths: ['*.none']", "no file matches"),
    ("source: files\n  paths: [.]", "holds none of .txt"),
    ("source: huggingface\n  name: ./none", "data.name: no such file"),
])
def test_missing_data_is_told_with_its_line(write: Write, minimal: str, change: str, message: str) -> None:
    """Files that are not there are found before a job is queued."""
    path = write(minimal.replace("source: python-docs", change), "empty/r.yaml")

    with pytest.raises(RecipeError) as error:
        resolve(path)

    assert message in str(error.value)
    assert str(error.value).startswith(f"{path}:")


@pytest.mark.parametrize("argument", ["none.yaml", "quikstart", "", "a\0b", "pretrain/llama3_1_8b", "x/y/z.yaml"])
def test_missing_recipe_is_not_found(argument: str) -> None:
    """What is neither a file nor a shipped recipe is a NotFoundError with a suggestion."""
    with pytest.raises(NotFoundError):
        resolve(argument)


def test_near_names_are_suggested(write: Write, minimal: str) -> None:
    """A misspelt name leads to the shipped recipe, a misspelt file to the file beside it."""
    path = write(minimal, "my-recipe.yaml")

    with pytest.raises(NotFoundError) as shipped:
        resolve("quikstart")
    with pytest.raises(NotFoundError) as beside:
        resolve(path.replace("my-recipe", "my-recpie"))

    assert "'quickstart'" in shipped.value.advice
    assert path in beside.value.advice


def test_a_file_wins_over_a_shipped_name(
    write: Write, minimal: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:
    """A file called like a shipped recipe is the one that is read; a directory of that name is not."""
    write(minimal, "quickstart")
    (tmp_path / "elsewhere" / "quickstart").mkdir(parents=True)

    monkeypatch.chdir(tmp_path)
    assert resolve("quickstart").recipe.name == "t"
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert resolve("quickstart").recipe.name == "quickstart"


def test_unreadable_files_are_told(tmp_path: Path) -> None:
    """A directory, bytes that are not text and a huge file are recipe errors, not tracebacks."""
    (tmp_path / "latin.yaml").write_bytes(b"name: x\nb: \xe9\n")
    (tmp_path / "huge.yaml").write_bytes(b"#" * (2 << 20))

    for name, message in (("", "is a directory"), ("latin.yaml", "not UTF-8"), ("huge.yaml", "larger than")):
        with pytest.raises(RecipeError, match=message):
            resolve(str(tmp_path / name))
    with pytest.raises(RecipeError) as error:
        resolve(str(tmp_path / "latin.yaml"))
    assert error.value.where.endswith("latin.yaml:2")


def test_a_byte_order_mark_is_no_part_of_the_recipe(tmp_path: Path, minimal: str) -> None:
    """A file saved by an editor that adds a mark reads like any other."""
    (tmp_path / "r.yaml").write_bytes(b"\xef\xbb\xbf" + minimal.encode())

    assert resolve(str(tmp_path / "r.yaml")).recipe.name == "t"


def test_circles_of_extends_are_refused(write: Write) -> None:
    """Recipes that extend each other are told as a circle, at the line that closes it."""
    write("extends: b.yaml\n", "a.yaml")
    path = write("extends: a.yaml\n", "b.yaml")

    with pytest.raises(RecipeError, match=r"circle: b.yaml -> a.yaml -> b.yaml"):
        resolve(path)


@pytest.mark.parametrize(("value", "message"), [
    ("none.yaml", "no such recipe"), ("[a]", "one path or name"), ("3", "one path or name"),
])
def test_wrong_extends_is_told_at_its_line(write: Write, minimal: str, value: str, message: str) -> None:
    """A parent that is not there, or is not a name, is an error at the extends line."""
    path = write(minimal + f"extends: {value}\n")

    with pytest.raises(HpctrainError, match=message) as error:
        resolve(path)

    assert error.value.where == f"{path}:12"


def test_resolved_text_is_the_same_recipe_again(write: Write, minimal: str, tmp_path: Path) -> None:
    """What validate --resolved prints can be submitted and read back without a difference."""
    nasty = 'a"b\\c $(id) `x` # no: yes\n\ttab \u2028 é 😀'
    path = write(minimal + "resources: {time_limit: 1-02:03:04, memory_per_node: 64GiB}\nenv: {E: ''}\n"
                 "description: 'yes'\ncheckpoint: {every: 90s}\n")
    resolved = resolve(path, [f"env.A={nasty}", "training.optimizer.learning_rate=1e-7", "model.config.x=[{a: 1}, []]",
                              "model.config.head_dim=null"])

    again = tmp_path / "recipe.resolved.yaml"
    again.write_text(dump_resolved(resolved), encoding="utf-8")

    assert read_resolved(again) == resolved.recipe
    assert resolve(str(again)).recipe == resolved.recipe
    assert resolved.recipe.env["A"] == nasty


def test_resolved_text_says_where_each_value_is_from(write: Write, minimal: str) -> None:
    """Each line names the file and line, the option, or that it is a default; durations and sizes also in words."""
    path = write(minimal + "resources: {time_limit: 2h, memory_per_node: 64GiB}\n")

    lines = {line.split(":")[0].strip(): line for line in dump_resolved(resolve(path, ["training.steps=5"])).splitlines()}

    assert lines["steps"].endswith("# --set training.steps")
    assert lines["seed"].endswith("# default")
    assert lines["time_limit"].endswith(f"# {path}:12 (2 h 00 min)")
    assert lines["memory_per_node"].endswith(f"# {path}:12 (64.0 GiB)")


def test_resolved_text_means_the_same_to_a_plain_yaml_reader(write: Write, minimal: str) -> None:
    """Another program that reads it with PyYAML's own rules gets the same values."""
    import yaml

    resolved = resolve(write(minimal), ["env.A=on", "env.B=1:30", "training.optimizer.epsilon=1e-12", "env.C=0x1f"])

    values = yaml.safe_load(dump_resolved(resolved))

    expected = resolved.recipe.model_dump(mode="json")
    assert values == expected


KEYS = ["name", "model", "model.config", "model.path", "data", "data.paths", "data.sequence_length", "tokenizer.kind",
        "training",
        "training.steps", "training.tokens", "training.epochs", "training.optimizer.betas", "training.global_batch_size",
        "resources", "resources.nodes", "resources.memory_per_node", "resources.time_limit", "resources.gpus_per_node",
        "resources.container", "resources.container_mounts", "checkpoint.every", "env", "env.X", "command", "workdir",
        "model.config.num_attention_heads", "model.config.vocab_size", "model.config.model_type", "version", "extends"]
WORDS = ["null", "", "[]", "{}", "[1, a]", "{a: 1}", "1e400", "1e18", "-1", "true", "0", "gpt2", "/", "~", "..", "mixtral",
         "9" * 30]
VALUES = st.one_of(st.text(max_size=20), st.integers().map(str), st.floats().map(str), st.sampled_from(WORDS))
SETS = st.lists(st.builds("{}={}".format, st.sampled_from(KEYS), VALUES), min_size=1, max_size=3)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(sets=SETS)
def test_any_value_anywhere_is_a_recipe_or_a_recipe_error(sets: list[str], write: Write, minimal: str) -> None:
    """Whatever is written after any key: a recipe comes out that survives a round trip, or RecipeError."""
    path = write(minimal)
    try:
        resolved = resolve(path, sets)
    except HpctrainError as error:
        assert isinstance(error, RecipeError | NotFoundError)
        return
    Path(path).write_text(dump_resolved(resolved), encoding="utf-8")
    assert read_resolved(Path(path)) == resolved.recipe


def test_reading_needs_no_torch() -> None:
    """Resolving imports neither torch nor transformers."""
    code = ("from hpctrain.recipe.resolve import resolve; resolve('quickstart'); import sys; "
            "print({'torch', 'transformers'} & {*sys.modules})")

    assert process.run([sys.executable, "-c", code], timeout_s=60).stdout.strip() == "set()"


def test_a_line_is_found_for_every_problem_of_a_shipped_recipe() -> None:
    """The shipped recipe's own lines are named, so that a user knows what to set."""
    with pytest.raises(RecipeError, match="no file matches '/path/to/your/corpus") as error:
        resolve("pretrain/llama3_1_8b_1node_8gpu")

    file, line = error.value.where.rsplit(":", 1)
    text = Path(file).read_text(encoding="utf-8")
    assert "/path/to/your/corpus" in text.splitlines()[int(line) - 1]
    assert find(parse_document(text, file), ("data", "paths", 0)) is not None


def test_unknown_key_in_an_item_of_a_list_names_those_known_there(write: Write, minimal: str) -> None:
    """What a reward may say is named where a reward says something else."""
    with pytest.raises(RecipeError, match=r"rewards\[0\]\.zzzz: unknown key; known here: kind, name, weight"):
        resolve(write(minimal + "\nrewards: [{kind: math, zzzz: 3}]\n"))
