"""Reads safetensors files, and the config.json beside them; no pickle."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax  # noqa: F401  (registers bfloat16 with NumPy)
import numpy as np
from safetensors import SafetensorError, safe_open

_FLOATS = ("F64", "F32", "F16", "BF16")
_OTHERS = ("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64")
_LONGEST = 200  # characters of a library's message
_OTHER_FILES = {
    b"version https://git-lfs": "is a Git LFS pointer, not the file: run `git lfs pull`",
    b"PK\x03\x04": "holds pickled programs: convert it with the safetensors library",
    b"\x80\x02": "holds pickled programs: convert it with the safetensors library",
}
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
    if _is_file(path):
        return Checkpoint(path, None, _tensors(path))
    single, index = path / "model.safetensors", path / "model.safetensors.index.json"
    if _is_file(single):
        tensors = _tensors(single)
    elif _is_file(index):
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
    return Checkpoint(path, _json(config) if _is_file(config) else None, tensors)


def describe(path: Path) -> tuple[dict[str, Any], set[str]]:
    """Reads no tensors.

    Args:
      path: as for `read`.

    Returns:
      The config.json of the checkpoint and, if it has none, the names of its tensors.

    Raises:
      PretrainedError: if there is no checkpoint.
    """
    if _is_file(path / "config.json"):
        return _json(path / "config.json"), set()
    if not _is_file(path):
        return {}, set(read(path).tensors)
    with _opened(path) as file:
        return {}, set(file.keys())


def _shards(index: Path) -> dict[str, np.ndarray]:
    """The tensors of several files, which the index names for each."""
    files = _json(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        msg = f"{index} must have a `weight_map` from the names of tensors to those of files."
        raise PretrainedError(msg)
    tensors: dict[str, np.ndarray] = {}
    for file in sorted(set(files.values())):
        if Path(file).name != file or not _is_file(index.parent / file):
            msg = f"{index} names a file {file!r} that is not beside it."
            raise PretrainedError(msg)
        part = _tensors(index.parent / file)
        if repeated := sorted(tensors.keys() & part.keys()):
            msg = f"{index} names files that both have a tensor {repeated[0]}."
            raise PretrainedError(msg)
        tensors |= part
    named = {_modern(name) for name in files}
    if tensors.keys() != named:
        odd = ", ".join(sorted(tensors.keys() ^ named)[:20])
        msg = f"{index} and the files that it names disagree about the tensors {odd}."
        raise PretrainedError(msg)
    return tensors


def _tensors(path: Path) -> dict[str, np.ndarray]:
    with _opened(path) as file:
        names = list(file.keys())
        tensors = {_modern(name): _array(path, name, file) for name in names}
    if len(tensors) < len(names):
        msg = f"{path} has tensors of the same name, in today's spelling and an older one."
        raise PretrainedError(msg)
    return tensors


def _array(path: Path, name: str, file: Any) -> np.ndarray:
    """A tensor in float32; integers, which are buffers of positions and counts, as they are."""
    kind = file.get_slice(name).get_dtype()
    if kind not in (*_FLOATS, *_OTHERS):
        msg = (
            f"{path}: tensor {name} is stored as {kind}, which is not supported: convert it to"
            " float32 or bfloat16."
        )
        raise PretrainedError(msg)
    array = np.asarray(file.get_tensor(name))
    if kind in _OTHERS:
        return array
    with np.errstate(over="ignore"):  # `pretrained` refuses what is not finite
        return array.astype(np.float32)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open safetensors file; PretrainedError if it is none."""
    try:
        with path.open("rb") as file:
            start = file.read(32)
        _refuse_others(path, start)
        with safe_open(path, framework="np") as file:
            yield file
    except (SafetensorError, OSError) as error:
        msg = f"{path} is no complete safetensors file: {str(error)[:_LONGEST]}"
        raise PretrainedError(msg) from error


def _refuse_others(path: Path, start: bytes) -> None:
    """Names what people take for a checkpoint's file, by its first bytes."""
    for magic, what in _OTHER_FILES.items():
        if start.startswith(magic):
            msg = f"{path} {what}."
            raise PretrainedError(msg)


def _is_file(path: Path) -> bool:
    """`Path.is_file`, False also for what the file system refuses, such as a name too long."""
    try:
        return path.is_file()
    except OSError:
        return False


def _modern(name: str) -> str:
    """The name of today; published checkpoints of BERT and of torchvision's ViT have older ones."""
    for old, new in _RENAMED.items():
        name = name.replace(old, new)
    return name


def _json(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes()
        _refuse_others(path, text)
        content = json.loads(text)
    except PretrainedError:
        raise
    except (ValueError, OSError, RecursionError) as error:
        msg = f"{path} is no JSON file: {str(error)[:_LONGEST]}"
        raise PretrainedError(msg) from error
    if not isinstance(content, dict):
        msg = f"{path} must hold a JSON object, got a {type(content).__name__}."
        raise PretrainedError(msg)
    return content
