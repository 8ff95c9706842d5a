"""A checkpoint as a Hugging Face model directory (service).

The configuration and tokenizer come from the run's recipe, or from a directory that has them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hpctrain.checkpoint.manifest import Manifest
from hpctrain.checkpoint.store import Reader
from hpctrain.checkpoint.weight_files import ADAPTED, WeightFile, model_shapes, plan_files
from hpctrain.checkpoint.weights import sync_file, write_weights
from hpctrain.errors import CheckpointError, NotFoundError, RecipeError, first_line
from hpctrain.files import PRIVATE_FILE, make_private_dir, storage_errors, sync_dir
from hpctrain.jobs.layout import RunDir
from hpctrain.recipe.schema import Model, Recipe
from hpctrain.recipe.schema_method import TUNING
from hpctrain.train.hugging_face import dtype_option, quiet
from hpctrain.train.model import load_config
from hpctrain.train.model_card import write_model_card
from hpctrain.train.tokenizers import build_tokenizer

TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model",
                   "chat_template*", "generation_config.json", "hpctrain_tokenizer.json")
"""What lies beside a configuration and belongs to a model's user."""


@dataclass(frozen=True)
class Dress:
    """What surrounds the weights.

    Attributes:
        config: transformers configuration, None for weights alone.
        save_rest: puts tokenizer files into a directory.
        reward: the model gives one number, not tokens.
        adapter: peft's configuration, where the weights are those of an adapter; ``config`` is None then.
        generation: how the model writes, and what ends its answers; None: as its configuration says.
    """

    config: Any
    save_rest: Callable[[Path], None]
    reward: bool = False
    adapter: Any = None
    generation: Any = None


def bare() -> Dress:
    """Weights alone: of a model that transformers does not know."""
    return Dress(None, lambda _folder: None)


def dress_from_recipe(recipe: Recipe) -> Dress:
    """As the trainer itself would leave its final model.

    Raises:
        RecipeError, NotFoundError: see :func:`hpctrain.train.model.load_config`.
    """
    quiet()
    if recipe.model is None:
        raise RecipeError("it names no model", where="model")
    if recipe.method in TUNING:
        return _tuned(recipe, recipe.model)
    tokenizer = build_tokenizer(recipe.tokenizer, recipe.model.path if recipe.method == "cpt" else None)
    return Dress(load_config(recipe.model, tokenizer.vocab_size, tokenizer.end_of_text), tokenizer.save)


def _tuned(recipe: Recipe, model: Model) -> Dress:
    from hpctrain.train.tune.tokenizer import load_tokenizer, save_tokenizer

    tokenizer = load_tokenizer(recipe)
    if recipe.adapter is not None:
        from hpctrain.train.tune.model import adapter_config

        adapter = adapter_config(recipe.adapter, reward=recipe.method == "reward")
        adapter.base_model_name_or_path, adapter.inference_mode = model.path, True
        return Dress(None, lambda folder: save_tokenizer(tokenizer, folder, recipe), adapter=adapter)
    config = load_config(model, len(tokenizer), tokenizer.eos_token_id)
    config.pad_token_id = tokenizer.pad_token_id  # as trl sets it
    if recipe.method == "reward":
        config.num_labels = 1
    return Dress(config, lambda folder: save_tokenizer(tokenizer, folder, recipe), recipe.method == "reward",
                 generation=_generation(model, tokenizer))


def _generation(model: Model, tokenizer: Any) -> Any:
    """How the model that was tuned writes: it may end its answers with other tokens than its configuration names."""
    import transformers

    settings: Any = transformers.GenerationConfig  # untyped
    try:
        found = settings.from_pretrained(model.path)
    except Exception:  # noqa: BLE001 - transformers raises many classes for "not there"
        return None
    found.pad_token_id = tokenizer.pad_token_id
    return found


def with_card(dress: Dress, run_dir: RunDir, checkpoint: Mapping[str, Any]) -> Dress:
    """The same, with a model card and the run's lineage.

    Args:
        checkpoint: ``step`` and ``name`` of the checkpoint that the weights come from.
    """
    def save_rest(folder: Path) -> None:
        dress.save_rest(folder)
        write_model_card(folder, None, run_dir, checkpoint=checkpoint)

    return replace(dress, save_rest=save_rest)


def dress_from_folder(folder: Path) -> Dress:
    """From the directory of a model of the same architecture.

    Raises:
        NotFoundError: transformers finds no configuration there.
    """
    quiet()
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder)
    except Exception as error:  # noqa: BLE001 - transformers raises many classes for "not there"
        first = first_line(error)
        raise NotFoundError(f"no configuration of a model: {first}", where=str(folder)) from None

    def save_rest(target: Path) -> None:
        for pattern in TOKENIZER_FILES:
            for file in folder.glob(pattern):
                if file.is_file():
                    shutil.copyfile(file, target / file.name)

    return Dress(config, save_rest)


def export(
    source: Reader, where: str, manifest: Manifest, target: Path, dress: Dress, *, dtype: str | None, max_file_bytes: int,
    on_bytes: Callable[[int], None],
) -> list[WeightFile]:
    """Write a model directory, whole or not at all; what was written.

    Args:
        source: of the checkpoint's shards.
        where: it lies, for messages.
        target: it must not exist.
        dtype: what floating-point tensors become; None keeps what is stored.

    Raises:
        CheckpointError: the checkpoint is damaged, or holds another model than the configuration describes.
        StorageError: it cannot be written.
    """
    shapes = model_shapes(manifest.table())
    model = None if dress.config is None else _bare_model(dress.config, reward=dress.reward)
    if model is not None:
        twins = _check_names(model, shapes, where)
        shapes = {name: value for name, value in shapes.items() if name not in twins}
    if dress.adapter is not None:
        dress.adapter.target_modules = _adapted(shapes, where)
    files = plan_files(shapes, dtype=dtype, max_file_bytes=max_file_bytes)
    partial = target.with_name(f".{target.name}.partial")
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        make_private_dir(partial)
        try:
            write_weights(source, where, manifest, files, partial, dtype=dtype, on_bytes=on_bytes)
            if dress.adapter is not None:
                dress.adapter.save_pretrained(partial)
            if model is not None:
                if dress.generation is not None:
                    model.generation_config = dress.generation
                _save_config(model, dtype or _most(shapes), partial)
            dress.save_rest(partial)
            _finish(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return files


def _adapted(shapes: Mapping[str, Any], where: str) -> set[str]:
    """The layers that an adapter was put on, as peft names them.

    Raises:
        CheckpointError: the checkpoint holds another model.
    """
    other = next((name for name in shapes if ADAPTED not in name and ".modules_to_save." not in name), None)
    found = {name.partition(ADAPTED)[0].removeprefix("base_model.model.") for name in shapes if ADAPTED in name}
    if other is not None or not found:
        raise CheckpointError(f"it holds no adapter, although the recipe has one: {other or 'it is empty'}", where=where,
                              hint="--weights-only writes what is saved")
    return found


def _bare_model(config: Any, *, reward: bool) -> Any:
    """The model without memory: it knows how its weights are named and tied."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    kind: Any = AutoModelForSequenceClassification if reward else AutoModelForCausalLM
    with torch.device("meta"):
        return kind.from_config(config, **dtype_option(torch.float32))  # type: ignore[no-untyped-call,unused-ignore]


def _check_names(model: Any, shapes: dict[str, Any], where: str) -> set[str]:
    """Compare names and shapes; the names of weights that are another one's twin, which readers tie again themselves."""
    first: dict[int, str] = {}
    twins = set()
    for name, value in model.state_dict(keep_vars=True).items():
        if first.setdefault(id(value), name) != name:
            twins.add(name)
        elif name not in shapes:
            raise _other_model(f"it has no {name}", where)
        elif shapes[name][0] != tuple(value.shape):
            raise _other_model(f"{name} has shape {shapes[name][0]}, the configuration says {tuple(value.shape)}", where)
    extra = sorted(set(shapes) - set(first.values()) - twins)
    if extra:
        raise _other_model(f"it has {extra[0]}, which the configuration does not know", where)
    return twins


def _other_model(problem: str, where: str) -> CheckpointError:
    return CheckpointError(
        f"the configuration does not describe this model: {problem}", where=where,
        hint="name the directory of a model with the same architecture: --config DIR; or --weights-only",
    )


def _save_config(model: Any, dtype: str, folder: Path) -> None:
    model.config.architectures = [type(model).__name__]
    for key in dtype_option(torch.float32):
        setattr(model.config, key, getattr(torch, dtype))
    model.config.save_pretrained(folder)
    if model.can_generate() and model.generation_config is not None:
        model.generation_config.save_pretrained(folder)


def _most(shapes: dict[str, Any]) -> str:
    """The data type of the first weight, which is that of nearly all."""
    return next((str(dtype) for _, dtype in shapes.values()), "float32")


def _finish(partial: Path, target: Path) -> None:
    for file in partial.iterdir():
        file.chmod(PRIVATE_FILE)
        sync_file(file)
    sync_dir(partial)
    partial.rename(target)
    sync_dir(target.parent)
