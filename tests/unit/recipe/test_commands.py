"""The commands before a submission, as a user types them."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from hpctrain.cli.main import invoke
from hpctrain.recipe.catalogue import catalogue
from hpctrain.recipe.resolve import resolve

Write = Callable[..., str]


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of the developer, and a Slurm configuration that leads nowhere."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HPCTRAIN_SITE_CONFIG", str(tmp_path / "site.toml"))
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "no-slurm.conf"))
    monkeypatch.chdir(tmp_path)


def test_list_shows_every_shipped_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    """One line per recipe with method, size and nodes; the same facts as JSON."""
    assert invoke(["recipes", "list"]) == 0
    text = capsys.readouterr().out
    assert "8.03 B" in text and "2 x 8" in text and "command" in text

    assert invoke(["recipes", "list", "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["kind"] == "recipes" and document["schema_version"] == 1
    sizes = {item["name"]: item["parameters"] for item in document["recipes"]}
    assert sizes["pretrain/llama3_1_8b_1node_8gpu"] == 8_030_261_248


def test_show_prints_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    """The text is the file's own, comments included."""
    assert invoke(["recipes", "show", "quickstart"]) == 0
    assert capsys.readouterr().out.startswith("# A first run")
    assert invoke(["recipes", "show", "quikstart"]) == 4
    assert "'quickstart'" in capsys.readouterr().err


def test_schema_describes_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    """The exported schema knows extends, explains every field, and requires nothing that a parent may bring."""
    assert invoke(["recipes", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)

    sections = [schema, *schema["$defs"].values()]
    assert "extends" in schema["properties"]
    for section in sections:
        assert "required" not in section and section["additionalProperties"] is False
        fields = section["properties"].items()
        assert [name for name, field in fields if not field.get("description") and "$ref" not in field] == []


def test_schema_accepts_the_shipped_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    """An editor that uses the schema shows no error in a recipe that ships."""
    jsonschema = pytest.importorskip("jsonschema")
    from hpctrain.recipe.node import to_plain
    from hpctrain.recipe.parse import parse_document
    from hpctrain.resources import shipped_recipes

    invoke(["recipes", "schema"])
    schema = json.loads(capsys.readouterr().out)
    for name, path in shipped_recipes().items():
        jsonschema.validate(to_plain(parse_document(path.read_text(encoding="utf-8"), name)), schema)


def test_validate_shows_the_arithmetic(capsys: pytest.CaptureFixture[str]) -> None:
    """A good recipe prints its batch, length and memory, and says that no cluster was asked."""
    assert invoke(["validate", "quickstart"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("OK  quickstart")
    assert "32 samples = 4 ranks x 8 x 1 pass; x 128 tokens = 4,096 tokens per step" in text
    assert "771,456 x (4 + 4 + 8) B / 1 rank" in text
    assert "cluster not checked: SLURM_CONF names a file that does not exist" in text


def test_validate_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """The same facts with units in their names, and with --resolved all values and origins."""
    assert invoke(["validate", "quickstart", "--set", "training.steps=6", "--resolved", "-o", "json"]) == 0
    facts = json.loads(capsys.readouterr().out)["validation"]

    assert facts["valid"] and facts["ranks"] == 4 and facts["tokens"] == 6 * 4096
    assert facts["resolved"]["training"]["steps"] == 6
    assert facts["origins"]["training.steps"] == "--set training.steps"


def test_validate_refuses_with_exit_code_3(capsys: pytest.CaptureFixture[str], write: Write, minimal: str) -> None:
    """A wrong recipe is one message on standard error, nothing on standard output, exit code 3."""
    assert invoke(["validate", write(minimal.replace("method", "metod"))]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "metod: unknown key; did you mean 'method'?" in captured.err
    assert "Traceback" not in captured.err


def test_site_defaults_are_used_and_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, write: Write, minimal: str,
) -> None:
    """A [recipe] table of the site's file is laid under the recipe, and its mistakes name the file."""
    (tmp_path / "site.toml").write_text('[recipe.resources]\naccount = "lab"\n')
    assert invoke(["validate", write(minimal), "--resolved"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "account:" in line)
    assert "lab" in line and "site.toml" in line

    (tmp_path / "site.toml").write_text('[recipe.resources]\nacount = "lab"\n')
    assert invoke(["validate", write(minimal)]) == 3
    error = capsys.readouterr().err
    assert "site.toml" in error and "did you mean 'account'?" in error


def test_init_writes_a_recipe_that_validates(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A first recipe carries the file's name and can be validated at once; its mode follows the umask of a user's file."""
    assert invoke(["init", "my-run.yaml"]) == 0
    assert resolve("my-run.yaml").recipe.name == "my-run"
    assert stat.S_IMODE((tmp_path / "my-run.yaml").stat().st_mode) == 0o644
    assert "my-run.yaml" in capsys.readouterr().err


def test_init_never_overwrites(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file or a dangling link of that name is left as it is."""
    (tmp_path / "recipe.yaml").write_text("mine")
    (tmp_path / "link.yaml").symlink_to(tmp_path / "nowhere")

    assert invoke(["init"]) == 3
    assert invoke(["init", "link.yaml"]) == 3
    assert (tmp_path / "recipe.yaml").read_text() == "mine"
    assert "not overwritten" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["link.yaml", "recipe.yaml"]


def test_init_brings_the_script_of_a_command_recipe(tmp_path: Path) -> None:
    """The copied example runs: its script lies beside it."""
    assert invoke(["init", "mine.yaml", "--from", "command/torchrun_style"]) == 0

    assert (tmp_path / "torchrun_style.py").is_file()
    assert resolve("mine.yaml").recipe.workdir == str(tmp_path)


@pytest.mark.parametrize(("arguments", "code"), [
    (["init", "no/such/dir/r.yaml"], 9), (["init", "--from", "quickstrat"], 4), (["validate", "none.yaml"], 4),
    (["validate"], 2),
])
def test_mistakes_have_their_exit_codes(arguments: list[str], code: int, tmp_path: Path) -> None:
    """Each kind of mistake has its own exit code, and nothing is written."""
    assert invoke(arguments) == code
    assert os.listdir(tmp_path) == []


def test_init_of_every_shipped_recipe(tmp_path: Path) -> None:
    """Each shipped recipe can be copied and then is complete, or says what is the user's to set."""
    from hpctrain.errors import RecipeError

    (tmp_path / "corpus.txt").write_text("text")
    for index, entry in enumerate(catalogue()):
        file = f"r{index}.yaml"
        if entry.method == "command" or entry.generated:  # those are resolved in test_catalogue.py
            continue
        assert invoke(["init", file, "--from", entry.name]) == 0
        try:
            assert resolve(file, ["data.paths=[corpus.txt]", "data.source=files"]).recipe.name == f"r{index}"
        except RecipeError as error:
            pytest.fail(str(error))


def test_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A dry run prints what it would write."""
    assert invoke(["init", "--dry-run"]) == 0
    assert "name: recipe" in capsys.readouterr().out
    assert os.listdir(tmp_path) == []
