"""Is a directory a model, and is all of it there? (adapter over the file system; nothing is loaded)"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpctrain.errors import NotFoundError
from hpctrain.jobs.lineage import MODEL_FILE
from hpctrain.recipe.load import local_model_config
from hpctrain.recipe.model_files import safetensors_extent

CONFIG, ADAPTER, BYTES = "config.json", "adapter_config.json", "hpctrain_tokenizer.json"
_INDEX = "model.safetensors.index.json"
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt")
_SAMPLES, _SAMPLE_BYTES = 64, 1 << 16
_HINT = "give a directory that a run has left (RUN/model) or that save_pretrained() has written"


@dataclass(frozen=True, slots=True)
class ModelDirectory:
    """A whole model, or an adapter to one.

    Attributes:
        path: absolute.
        is_adapter: it holds an adapter; the weights that it is for are at ``base``.
        is_reward: it marks answers (a sequence classifier with one label) instead of writing them.
        has_tokenizer: transformers finds a tokenizer in it.
        has_bytes: our byte tokenizer is described in it.
    """

    path: str
    is_adapter: bool
    base: str
    is_reward: bool
    has_tokenizer: bool
    has_bytes: bool

    @property
    def weights_bytes(self) -> int:
        """Size of its files of weights, of an adapter those of the model that it is for; 0 where they are elsewhere."""
        folder = Path(self.base or self.path)
        first = next((found for pattern in _WEIGHTS if (found := list(folder.glob(pattern)))), [])
        return sum(file.stat().st_size for file in first)

    @property
    def identity(self) -> str:
        """Changes when a file of it does; reads samples of its files."""
        return _identity(Path(self.path), self.base)


def inspect(path: str | Path) -> ModelDirectory:
    """Look at a model directory.

    Raises:
        NotFoundError: it is not one, or a part of it is missing or cut off; the part is named.
    """
    folder = Path(path).expanduser().absolute()
    if not folder.is_dir():
        raise NotFoundError("there is no such model directory", where=str(folder), hint=_HINT)
    adapter = (folder / ADAPTER).is_file()
    if not adapter and not (folder / CONFIG).is_file():
        raise NotFoundError(f"it holds neither {CONFIG} nor {ADAPTER}, so it is no model", where=str(folder), hint=_HINT)
    _require_weights(folder)
    base, reward = "", False
    if adapter:
        values = _json(folder / ADAPTER)
        base = str(values.get("base_model_name_or_path") or "")
        reward = values.get("task_type") == "SEQ_CLS"
        if Path(base).is_absolute():
            inspect(base)
    else:
        names = _json(folder / CONFIG).get("architectures") or []
        reward = any("SequenceClassification" in str(name) for name in names)
    known = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
    return ModelDirectory(str(folder), adapter, base, reward, any((folder / name).is_file() for name in known),
                          (folder / BYTES).is_file())


def _require_weights(folder: Path) -> None:
    """All files that the index names, each as long as its own header says."""
    if (folder / _INDEX).is_file():
        names = {str(name) for name in _dict(_json(folder / _INDEX).get("weight_map")).values()}
        missing = sorted(name for name in names if not (folder / name).is_file())
        if missing:
            raise NotFoundError(f"{len(missing)} of its {len(names)} files of weights are missing, such as {missing[0]}",
                                where=str(folder), hint="copy the model again, or export the checkpoint again")
    elif not any(next(folder.glob(pattern), None) for pattern in _WEIGHTS):
        raise NotFoundError("it holds no weights (*.safetensors)", where=str(folder), hint=_HINT)
    for file in folder.glob("*.safetensors"):
        _require_whole(file)


def _require_whole(file: Path) -> None:
    _, end = safetensors_extent(file)
    if end is None:
        raise NotFoundError("its beginning is damaged or cut off", where=str(file))
    whole = file.stat().st_size
    if end > whole:
        raise NotFoundError(f"it is cut off: {whole} bytes instead of {end}", where=str(file),
                            hint="copy the model again, or export the checkpoint again")


def _json(file: Path) -> dict[str, Any]:
    try:
        return _dict(json.loads(file.read_bytes()))
    except (OSError, ValueError) as error:
        raise NotFoundError(f"it cannot be read: {error}", where=str(file)) from None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _identity(folder: Path, base: str) -> str:
    """Names, sizes and a sample of the contents: it only spares measuring again what was measured a moment ago.

    Not times, and not our record of where the model comes from, which holds some: a run that was stopped in its evaluation
    saves the same model once more before it goes on.
    """
    digest = hashlib.sha256(base.encode())
    suffixes = (".json", ".safetensors", ".bin", ".pt", ".model", ".jinja")
    files = (file for file in folder.iterdir() if file.is_file() and file.suffix in suffixes and file.name != MODEL_FILE)
    for file in sorted(files):
        digest.update(json.dumps([file.name, file.stat().st_size]).encode())
        with file.open("rb") as handle:
            for place in range(0, file.stat().st_size, max(_SAMPLE_BYTES, file.stat().st_size // _SAMPLES)):
                handle.seek(place)
                digest.update(handle.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def locate(name: str) -> str:
    """The directory of a model: the name itself, or where the cache of the Hugging Face hub has that id.

    Raises:
        NotFoundError: it is neither.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path.absolute())
    cached = local_model_config(name)
    if cached is None:
        raise NotFoundError(f"there is no model {name!r}: neither a directory nor in this machine's cache of the hub",
                            hint=_HINT)
    return str(cached.parent)
