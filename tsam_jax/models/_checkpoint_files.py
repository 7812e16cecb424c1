"""Reads safetensors files, and the config.json beside them; no pickle."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

_RENAMED = {
    "LayerNorm.gamma": "LayerNorm.weight",
    "LayerNorm.beta": "LayerNorm.bias",
    ".mlp.linear_1.": ".mlp.0.",
    ".mlp.linear_2.": ".mlp.3.",
}


class Checkpoint(NamedTuple):
    """The tensors of a checkpoint in float32, by name, and its config.json, if there is one."""

    path: Path
    config: dict[str, Any] | None
    tensors: dict[str, np.ndarray]


class PretrainedError(ValueError):
    """A checkpoint that cannot be loaded: the message says which, and why."""


def read(path: Path) -> Checkpoint:
    """Reads a folder, or one file.

    Args:
      path: a folder with model.safetensors or model.safetensors.index.json; or a file.

    Returns:
      A `Checkpoint`; config.json is read from a folder only.

    Raises:
      PretrainedError: if a file is missing, or is not what its name says.
    """
    if path.is_file():
        return Checkpoint(path, None, _tensors(path))
    single, index = path / "model.safetensors", path / "model.safetensors.index.json"
    if single.is_file():
        tensors = _tensors(single)
    elif index.is_file():
        tensors = _shards(index)
    else:
        msg = (
            f"`load_pretrained(path=...)` must be a safetensors file, or a folder with"
            f" model.safetensors or model.safetensors.index.json, got {path}. Checkpoints of other"
            " kinds (pytorch_model.bin) hold pickled programs: convert them with the"
            " safetensors library."
        )
        raise PretrainedError(msg)
    config = path / "config.json"
    return Checkpoint(path, _json(config) if config.is_file() else None, tensors)


def describe(path: Path) -> tuple[dict[str, Any], set[str]]:
    """Reads no tensors.

    Args:
      path: as for `read`.

    Returns:
      The config.json of the checkpoint and, if it has none, the names of its tensors.

    Raises:
      PretrainedError: if there is no checkpoint.
    """
    if (path / "config.json").is_file():
        return _json(path / "config.json"), set()
    if not path.is_file():
        return {}, set(read(path).tensors)
    try:
        with safe_open(path, framework="flax") as file:
            return {}, set(file.keys())
    except (SafetensorError, OSError) as error:
        msg = f"{path} is no complete safetensors file: {error}"
        raise PretrainedError(msg) from error


def _shards(index: Path) -> dict[str, np.ndarray]:
    """The tensors of several files, which the index names for each."""
    files = _json(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        msg = f"{index} must have a `weight_map` from the names of tensors to those of files."
        raise PretrainedError(msg)
    tensors: dict[str, np.ndarray] = {}
    for file in sorted(set(files.values())):
        if Path(file).name != file or not (index.parent / file).is_file():
            msg = f"{index} names a file {file!r} that is not beside it."
            raise PretrainedError(msg)
        tensors |= _tensors(index.parent / file)
    named = {_modern(name) for name in files}
    if tensors.keys() != named:
        odd = ", ".join(sorted(tensors.keys() ^ named)[:20])
        msg = f"{index} and the files that it names disagree about the tensors {odd}."
        raise PretrainedError(msg)
    return tensors


def _tensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, framework="flax") as file:  # NumPy alone does not know bfloat16
            names = file.keys()
            arrays = {name: np.asarray(file.get_tensor(name)) for name in names}
    except (SafetensorError, OSError) as error:
        msg = f"{path} is no complete safetensors file: {error}"
        raise PretrainedError(msg) from error
    return {_modern(name): _float32(x) for name, x in arrays.items()}


def _modern(name: str) -> str:
    """The name of today; published checkpoints of BERT and of torchvision's ViT have older ones."""
    for old, new in _RENAMED.items():
        name = name.replace(old, new)
    return name


def _float32(x: np.ndarray) -> np.ndarray:
    """Integers, which are buffers of positions and counts, stay as they are."""
    return x if x.dtype.kind in "iub" else x.astype(np.float32)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        msg = f"{path} is no JSON file: {error}"
        raise PretrainedError(msg) from error
    if not isinstance(content, dict):
        msg = f"{path} must hold a JSON object, got a {type(content).__name__}."
        raise PretrainedError(msg)
    return content
