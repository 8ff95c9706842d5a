"""Settings come from files and variables, and a wrong one is named with its place."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hpctrain.errors import RecipeError
from hpctrain.settings_file import load_settings, settings_files


@pytest.fixture
def env(ugly_dir: Path) -> dict[str, str]:
    """A home with awkward characters, and a site file that does not exist yet."""
    (ugly_dir / ".config/hpctrain").mkdir(parents=True)
    return {"HOME": str(ugly_dir), "HPCTRAIN_SITE_CONFIG": str(ugly_dir / "site.toml"), "USER": "alice"}


def write_site(env: dict[str, str], text: str) -> Path:
    path, _ = settings_files(env)
    path.write_text(text)
    return path


def write_user(env: dict[str, str], text: str) -> Path:
    _, path = settings_files(env)
    path.write_text(text)
    return path


def test_without_any_file_runs_go_to_the_home_directory(env: dict[str, str]) -> None:
    """No file and no variable leave the built-in defaults, with an absolute runs directory."""
    settings = load_settings(env)
    assert settings.runs_dir == f"{env['HOME']}/hpctrain-runs"
    assert (settings.slurm_timeout_s, settings.slurm_retries, settings.cluster) == (20.0, 3, "")


def test_user_wins_over_site_and_variables_over_both(env: dict[str, str]) -> None:
    """Each later source replaces only what it names."""
    write_site(env, 'runs_dir = "/site"\nslurm_retries = 9\nslurm_timeout_s = 1.5\n')
    write_user(env, 'runs_dir = "~/mine"\nslurm_retries = 7\n')
    settings = load_settings({**env, "HPCTRAIN_SLURM_RETRIES": "0", "HPCTRAIN_CLUSTER": "dev"})
    assert settings.runs_dir == f"{env['HOME']}/mine"
    assert (settings.slurm_timeout_s, settings.slurm_retries, settings.cluster) == (1.5, 0, "dev")


def test_runs_directory_may_hold_variables(env: dict[str, str]) -> None:
    """A site can give every user a directory of their own."""
    write_site(env, 'runs_dir = "/scratch/$USER/runs"\n')
    assert load_settings(env).runs_dir == "/scratch/alice/runs"


def test_unset_variable_in_a_path_is_refused(env: dict[str, str]) -> None:
    """An unset variable must not silently shorten a path."""
    path = write_site(env, '\nruns_dir = "/scratch/$PROJECT_SPACE/runs"\n')
    with pytest.raises(RecipeError, match="PROJECT_SPACE") as caught:
        load_settings(env)
    assert caught.value.where == f"{path}:2"


def test_relative_runs_directory_is_refused_in_a_file_and_allowed_in_a_variable(env: dict[str, str]) -> None:
    """A file has no current directory; a variable is typed in one."""
    assert load_settings({**env, "HPCTRAIN_RUNS_DIR": "here"}).runs_dir == str(Path("here").absolute())
    write_user(env, 'runs_dir = "here"\n')
    with pytest.raises(RecipeError, match="absolute"):
        load_settings(env)


def test_recipe_tables_are_kept_as_layers_weakest_first(env: dict[str, str]) -> None:
    """Each file's [recipe] table goes into the overlay under its own name."""
    site = write_site(env, '[recipe]\nresources.partition = "gpu"\n')
    user = write_user(env, '[recipe.resources]\naccount = "me"\n')
    assert load_settings(env).recipe_layers == (
        (str(site), {"resources": {"partition": "gpu"}}),
        (str(user), {"resources": {"account": "me"}}),
    )


def test_gpu_memory_is_read_with_units_and_merged(env: dict[str, str]) -> None:
    """The user's table adds to the site's."""
    write_site(env, '[gpu_memory]\nh100 = "80GiB"\na100 = "40GiB"\n')
    write_user(env, '[gpu_memory]\na100 = "80GB"\n')
    assert load_settings(env).gpu_memory_bytes == {"h100": 80 * 2**30, "a100": 80 * 10**9}


@pytest.mark.parametrize(
    ("text", "line", "says", "advises"),
    [
        ("# hi\nrun_dir = '/x'\n", 2, "unknown setting 'run_dir'", "runs_dir"),
        ("slurm_retries = 1\nslurm_timeout_s = 'long'\n", 2, "number of seconds", ""),
        ("slurm_timeout_s = 0\n", 1, "above 0", ""),
        ("slurm_retries = true\n", 1, "whole number", ""),
        ("cluster = 3\n", 1, "quotes", ""),
        ("[gpu_memory]\nh100 = '80'\n", 2, "not a memory size", ""),
        ("gpu_memory = 3\n", 1, "must be a table", "[gpu_memory]"),
        ("runs_dir = /x\n", 1, "not valid TOML", "quotes"),
        ("[slurm]\ntimeout = 3\n", 1, "unknown setting 'slurm'", ""),
    ],
)
def test_wrong_file_is_named_with_its_line(env: dict[str, str], text: str, line: int, says: str, advises: str) -> None:
    """One sentence says what is wrong and where, another what to do."""
    path = write_user(env, text)
    with pytest.raises(RecipeError) as caught:
        load_settings(env)
    assert caught.value.where == f"{path}:{line}"
    assert says in caught.value.message
    assert advises in caught.value.advice


def test_wrong_variable_is_named(env: dict[str, str]) -> None:
    """A variable has no line, so its own name is the place."""
    with pytest.raises(RecipeError, match="HPCTRAIN_SLURM_TIMEOUT_S: 'soon'"):
        load_settings({**env, "HPCTRAIN_SLURM_TIMEOUT_S": "soon"})


def test_binary_file_is_refused(env: dict[str, str]) -> None:
    """A file that is not text is an error of the user's, not a traceback."""
    settings_files(env)[1].write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="not UTF-8"):
        load_settings(env)


def test_toml_parser_is_not_imported_without_a_file(env: dict[str, str]) -> None:
    """Commands of users without settings files do not pay for a parser."""
    from hpctrain import process

    program = "import sys; from hpctrain.settings_file import load_settings as f; f(); print('tomllib' in sys.modules)"
    result = process.run([sys.executable, "-c", program], timeout_s=30, env={**env, "XDG_CONFIG_HOME": "/nonexistent"})
    assert result.stdout.strip() == "False", result.stderr
