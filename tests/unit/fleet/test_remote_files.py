"""Which files of a recipe are sent, where they come to lie, and what becomes of them there."""

from __future__ import annotations

import hashlib
import io
import os
import time
from pathlib import Path

import pytest

from hpctrain.errors import NotFoundError, RecipeError, StorageError, UsageError
from hpctrain.fleet.remote_feed import Feed, object_name, to_send, tree_of
from hpctrain.fleet.remote_parcel import Item, gather, refuse_too_much, size
from hpctrain.fleet.remote_store import KEEP_OBJECTS_S, KEEP_TREES_S, Store
from hpctrain.recipe.resolve import resolve
from hpctrain.settings import Settings

TRAIN = """
version: 1
name: tiny
method: pretrain
model: {config: {model_type: llama, hidden_size: 64, intermediate_size: 128, num_hidden_layers: 1,
                 num_attention_heads: 2, vocab_size: 258}}
training: {steps: 2, global_batch_size: 4}
resources: {nodes: 1}
data: {source: files, sequence_length: 32, paths: [PATHS]}
"""
COMMAND = "version: 1\nname: tiny\ncommand: [COMMAND]\n"


@pytest.fixture
def project(ugly_dir: Path) -> Path:
    """A project directory with blanks and quotes in its path."""
    place = ugly_dir / "a project"
    place.mkdir()
    return place


def write(project: Path, name: str, text: str = "x\n", mode: int = 0o644) -> Path:
    path = project / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def names(parcel, project: Path) -> list[str]:
    return [os.path.relpath(item.path, project) for item in parcel.items]


def test_relative_paths_go_along_and_stay_as_they_are(project):
    """Files, globs and directories of a recipe and of its parents are sent; nothing needs to be replaced."""
    files = ("a.txt", "more/b.md", "more/c.jsonl", "more/not-data.bin", "glob/1.txt", "glob/2.txt", "glob/.hidden.txt")
    for name in files:
        write(project, name)
    write(project, "base/base.yaml", TRAIN.replace("PATHS", "../a.txt, ../more, '../glob/*.txt'"))
    write(project, "r.yaml", "extends: base/base.yaml\nname: tiny2\n")
    parcel = gather("r.yaml", (), project)

    sent = ["a.txt", "base/base.yaml", "glob/1.txt", "glob/2.txt", "more/b.md", "more/c.jsonl", "r.yaml"]
    assert sent == names(parcel, project)
    assert parcel.argument == "r.yaml" and parcel.sets == () and parcel.notes == ()


def test_absolute_and_home_paths_are_replaced(project, monkeypatch):
    """What exists here under an absolute path is sent and named by a relative one; what does not is the cluster's."""
    monkeypatch.setenv("HOME", str(project.parent))
    data = write(project.parent, "data/d.txt")
    write(project, "r.yaml", TRAIN.replace("PATHS", f"'{str(data).replace(chr(39), chr(39) * 2)}', ~/data/d.txt, "
                                                    "/cluster/only.txt, cluster:/scratch/*.jsonl"))
    parcel = gather(str(project / "r.yaml"), (), project)

    assert ["r.yaml", "../data/d.txt"] == names(parcel, project)
    assert parcel.argument == "./r.yaml"
    assert parcel.sets == ('data.paths=["../data/d.txt", "../data/d.txt", "/cluster/only.txt", "cluster:/scratch/*.jsonl"]',)
    assert len(parcel.notes) == 1 and "/cluster/only.txt" in parcel.notes[0]


def test_set_wins_over_what_it_replaces(project):
    """Only what the recipe comes to in the end is sent, and a --set is relative to the current directory."""
    write(project, "a.txt")
    write(project, "sub/b.txt")
    write(project, "sub/r.yaml", TRAIN.replace("PATHS", "../a.txt"))
    parcel = gather("r.yaml", ["data.paths=[b.txt]"], project / "sub")

    assert ["sub/b.txt", "sub/r.yaml"] == names(parcel, project)


def test_missing_relative_path_is_told_here(project):
    """A relative path that leads nowhere is an error before anything is sent, with the line and what to write."""
    write(project, "r.yaml", TRAIN.replace("PATHS", "nothing.txt"))
    with pytest.raises(RecipeError, match=r"data.paths\[0\]: there is no .*nothing.txt on this machine") as caught:
        gather("r.yaml", (), project)
    assert caught.value.where == "r.yaml:9" and "cluster:/" in caught.value.advice


def test_command_takes_its_files_and_the_modules_beside_it(project):
    """Words that are files or directories, what follows '=' in them, and Python modules; nothing hidden, no environment."""
    for name in ("train.py", "lib/model.py", "conf/a.json", "b.json", "notes.md", ".ssh/id", ".secret.py", "venv/x.py",
                 "venv/pyvenv.cfg", "lib/__pycache__/model.pyc"):
        write(project, name)
    write(project, "run.sh", mode=0o755)
    write(project, "r.yaml", COMMAND.replace("COMMAND", "run.sh, train.py, conf, --file=b.json, /usr/bin/env, ., 3"))
    parcel = gather("r.yaml", (), project)

    assert ["b.json", "conf/a.json", "lib/model.py", "r.yaml", "run.sh", "train.py"] == names(parcel, project)
    assert [item.path.name for item in parcel.items if item.executable] == ["run.sh"]


def test_workdir_is_sent_as_a_whole(project):
    """With a workdir of this machine its files go along, and hidden ones do not."""
    for name in ("code/train.py", "code/data.bin", "code/.git/config", "beside.py"):
        write(project, name)
    write(project, "r.yaml", COMMAND.replace("COMMAND", "train.py") + "workdir: code\n")
    parcel = gather("r.yaml", (), project)

    assert ["code/data.bin", "code/train.py", "r.yaml"] == names(parcel, project)
    assert project / "code" in parcel.folders


def test_recipe_in_the_home_directory_takes_no_more_than_its_modules(project, monkeypatch):
    """Beside a recipe at home lies everything: directories are not searched for modules there."""
    monkeypatch.setenv("HOME", str(project))
    for name in ("train.py", "helper.py", "other/project.py"):
        write(project, name)
    write(project, "r.yaml", COMMAND.replace("COMMAND", "train.py"))

    assert ["helper.py", "r.yaml", "train.py"] == names(gather("r.yaml", (), project), project)


@pytest.mark.parametrize("argument", ["quickstart", "cluster:/home/alice/r.yaml", "no-such-recipe"])
def test_what_is_not_here_is_the_other_machines(project, argument):
    """Shipped recipes and recipes on the cluster send nothing; the other machine knows them, or says that it does not."""
    parcel = gather(argument, (), project)

    assert parcel.items == () and parcel.argument == argument.removeprefix("cluster:")


@pytest.mark.parametrize(("argument", "expected"), [
    ("../a project/r.yaml", "../a project/r.yaml"), ("./r.yaml", "./r.yaml"), ("sub/../r.yaml", "./r.yaml"),
])
def test_argument_leads_to_the_recipe_there_too(project, argument, expected):
    """The recipe is named as it was typed, unless that goes through a directory that is not sent."""
    (project / "sub").mkdir()
    write(project, "r.yaml", COMMAND.replace("COMMAND", "x"))

    assert expected == gather(argument, (), project).argument


def test_extends_of_an_absolute_path_is_refused(project):
    """A parent by absolute path cannot be replaced: that is said, with its line."""
    base = write(project, "base.yaml", COMMAND)
    write(project, "r.yaml", "extends: '" + str(base).replace("'", "''") + "'\n")
    with pytest.raises(RecipeError, match="absolute path on this machine") as caught:
        gather("r.yaml", (), project)
    assert caught.value.where == "r.yaml:1"


def test_too_much_is_refused(project):
    """Files beyond the limit are an error that names the largest and says where such files belong."""
    write(project, "big.txt", "x" * 3000)
    write(project, "r.yaml", TRAIN.replace("PATHS", "big.txt"))
    with pytest.raises(RecipeError, match=r"at most 2\.0 KiB are sent: .*big\.txt \(2\.9 KiB\)") as caught:
        refuse_too_much(gather("r.yaml", (), project), 2048)
    assert "cluster:/path" in caught.value.advice


def test_too_many_are_refused(project, monkeypatch):
    """A recipe beside thousands of files is an error, not an upload of all of them."""
    monkeypatch.setattr("hpctrain.fleet.remote_parcel.MOST_FILES", 3)
    for number in range(5):
        write(project, f"{number}.py")
    write(project, "r.yaml", COMMAND.replace("COMMAND", "0.py"))
    with pytest.raises(RecipeError, match="more than 3 files"):
        gather("r.yaml", (), project)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file_is_told(project):
    """A file that cannot be read is named."""
    write(project, "a.txt", mode=0)
    write(project, "r.yaml", TRAIN.replace("PATHS", "a.txt"))
    with pytest.raises(NotFoundError, match="cannot be sent"):
        gather("r.yaml", (), project)


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**40 * 2048, "2048 TiB")])
def test_sizes(count, text):
    """Sizes are written as people write them."""
    assert text == size(count)


def planted(project: Path, root: Path, argument: str = "r.yaml", sets: tuple[str, ...] = ()) -> tuple[Path, object]:
    """Send a parcel as the two ends do; the tree's directory that is the current one."""
    parcel = gather(argument, sets, project)
    objects = {item.path: object_name(item) for item in parcel.items}
    store = Store(root)
    for item in to_send(parcel, objects, set(store.missing(list(objects.values())))):
        store.receive(objects[item.path], item.size_bytes, item.path.open("rb").read)
    tree = tree_of(parcel, objects)
    place = store.plant("a" * 32, tree["files"], tree["folders"])
    return place / tree["folder"], parcel


def test_recipe_means_there_what_it_means_here(project, tmp_path, monkeypatch):
    """The recipe that arrives resolves to the same values, with its files below the tree, and messages name its lines."""
    write(project, "data/d.txt")
    write(project, "data/e.txt", "y\n")
    write(project, "r.yaml", TRAIN.replace("PATHS", f"data, '{str(project / 'data/e.txt').replace(chr(39), chr(39) * 2)}'"))
    monkeypatch.chdir(project)
    here = resolve("r.yaml").recipe
    place, parcel = planted(project, tmp_path / "store")
    monkeypatch.chdir(place)
    there = resolve(parcel.argument, parcel.sets, Settings("/runs"))

    tree = str(tmp_path / "store/trees" / ("a" * 32))
    assert [f"{tree}{path}" for path in here.data.paths] == there.recipe.data.paths
    assert there.recipe.model_dump(exclude={"data", "workdir"}) == here.model_dump(exclude={"data", "workdir"})
    assert there.origins["training.steps"] == "r.yaml:7"


def test_nothing_is_sent_twice_and_damage_is_noticed(project, tmp_path):
    """What lies there is not asked for again; a file that was changed there is."""
    write(project, "a.txt")
    write(project, "r.yaml", TRAIN.replace("PATHS", "a.txt"))
    place, parcel = planted(project, tmp_path / "store")
    objects = [object_name(item) for item in parcel.items]
    store = Store(tmp_path / "store")
    assert store.missing(objects) == []

    (place / "a.txt").chmod(0o600)
    (place / "a.txt").write_text("changed in place\n")
    assert store.missing(objects) == [object_name(parcel.items[0])]


def test_store_is_private_and_its_files_are_read_only(project, tmp_path):
    """Nobody else may look in, and a job cannot change a file that another run shares."""
    write(project, "run.sh", mode=0o755)
    write(project, "r.yaml", COMMAND.replace("COMMAND", "run.sh"))
    place, _ = planted(project, tmp_path / "store")

    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700
    assert (place / "run.sh").stat().st_mode & 0o777 == 0o500
    assert (place / "r.yaml").stat().st_mode & 0o777 == 0o400


def test_what_is_damaged_on_the_way_is_refused(tmp_path):
    """An object whose content is not what its name says, or that ends early, leaves nothing."""
    store = Store(tmp_path / "store")
    name = hashlib.sha256(b"right").hexdigest()
    with pytest.raises(StorageError, match="changed while it was being sent"):
        store.receive(name, 5, io.BytesIO(b"wrong").read)
    with pytest.raises(StorageError, match="the connection ended"):
        store.receive(name, 5, io.BytesIO(b"ri").read)
    assert store.missing([name]) == [name]
    assert list((tmp_path / "store/objects").iterdir()) == []


@pytest.mark.parametrize("path", ["../out", "/etc/passwd", "a/../../b", "a\0b"])
def test_no_path_leads_out_of_the_tree(tmp_path, path):
    """A request cannot write anywhere else."""
    with pytest.raises(UsageError):
        Store(tmp_path / "store").plant("a" * 32, {path: "0" * 64}, [])
    with pytest.raises(UsageError):
        Store(tmp_path / "store").plant("a" * 32, {}, [path])


@pytest.mark.parametrize("name", ["", "..", "../" + "0" * 61, "0" * 63, "G" * 64])
def test_no_other_names_of_objects(tmp_path, name):
    """Objects are named by their hash alone."""
    with pytest.raises(UsageError):
        Store(tmp_path / "store").missing([name])


def test_prune_keeps_what_runs_need(project, tmp_path):
    """Trees of runs stay; those without one go after a day, and objects that nothing uses after a month."""
    write(project, "a.txt")
    write(project, "r.yaml", TRAIN.replace("PATHS", "a.txt"))
    planted(project, tmp_path / "store")
    store, now = Store(tmp_path / "store"), time.time()
    store.record("a" * 32, {"run": "tiny-1", "items": []})
    tree, objects = tmp_path / "store/trees" / ("a" * 32), tmp_path / "store/objects"

    store.prune(now + 2 * KEEP_OBJECTS_S, lambda name: name == "tiny-1")
    assert tree.exists() and len(list(objects.iterdir())) == 2
    store.prune(now + KEEP_TREES_S / 2, lambda _: False)
    assert tree.exists()
    with store.carrying_out("b" * 32):
        pass
    store.prune(now + 2 * KEEP_TREES_S, lambda _: False)
    assert not list(tree.parent.iterdir()) and len(list(objects.iterdir())) == 2
    store.prune(now + 2 * KEEP_OBJECTS_S, lambda _: False)
    assert list(objects.iterdir()) == []


def test_feed_sends_all_and_then_waits(tmp_path):
    """The request, then the files in full, also one that has become shorter; then only an interrupt, once, and the end."""
    whole, shorter = tmp_path / "a", tmp_path / "b"
    whole.write_bytes(b"A" * 70_000)
    shorter.write_bytes(b"B")
    feed = Feed(b"{}\n", [(whole, 70_000), (shorter, 3)])
    data = b""
    while len(data) < 3 + 70_003:
        data += feed.read(2**16)
    assert data == b"{}\n" + b"A" * 70_000 + b"B\0\0"
    assert feed.interrupt() and not feed.interrupt()
    assert feed.read(1) == b"i"
    feed.close()
    assert feed.read(1) == b""


def test_dry_run_sends_recipes_alone(project):
    """The tree of a dry run holds what is in the recipes and a model's config.json, and names of the rest."""
    write(project, "a.txt", "secret")
    write(project, "r.yaml", TRAIN.replace("PATHS", "a.txt"))
    tree = tree_of(gather("r.yaml", (), project), {})
    texts = {Path(path).name: text for path, text in tree["files"].items()}

    assert texts["a.txt"] == "" and texts["r.yaml"].startswith("\nversion: 1")


def test_object_names_tell_programs_apart(tmp_path):
    """The same content as a program is another object, because its mode is another."""
    path = write(tmp_path, "a")
    plain = object_name(Item(path, 2, executable=False))
    assert object_name(Item(path, 2, executable=True)) == plain + "x"
