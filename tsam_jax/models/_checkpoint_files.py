"""Reading of safetensors checkpoints and their config.json; nothing is unpickled."""

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
_LONGEST = 200  # longest excerpt of another library's message, in characters
_OTHER_FILES = {
    b"version https://git-lfs": "is a Git LFS pointer, not the file; run `git lfs pull`",
    b"PK\x03\x04": "contains pickled code; convert it with the safetensors library",
    b"\x80\x02": "contains pickled code; convert it with the safetensors library",
}
_RENAMED = {
    "LayerNorm.gamma": "LayerNorm.weight",
    "LayerNorm.beta": "LayerNorm.bias",
    ".mlp.linear_1.": ".mlp.0.",
    ".mlp.linear_2.": ".mlp.3.",
}


class Checkpoint(NamedTuple):
    """A checkpoint: its tensors in float32, by name, and its config.json if it has one."""

    path: Path
    config: dict[str, Any] | None
    tensors: dict[str, np.ndarray]


class PretrainedError(ValueError):
    """A checkpoint cannot be loaded; the message names it and says why."""


def read(path: Path) -> Checkpoint:
    """Reads a checkpoint from a folder or a single file.

    Args:
      path: a folder with model.safetensors or model.safetensors.index.json, or a file.

    Returns:
      A `Checkpoint`; only a folder can provide a config.json.

    Raises:
      PretrainedError: if a file is missing, or its content does not match its name.
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
            f" model.safetensors or model.safetensors.index.json, got {path}. Other checkpoints,"
            " such as pytorch_model.bin, contain pickled code; convert them with the safetensors"
            " library."
        )
        raise PretrainedError(msg)
    config = path / "config.json"
    return Checkpoint(path, _json(config) if _is_file(config) else None, tensors)


def describe(path: Path) -> tuple[dict[str, Any], set[str]]:
    """Reads what identifies a checkpoint, without its tensors.

    Args:
      path: as for `read`.

    Returns:
      The config.json of the checkpoint, or, if it has none, the names of its tensors.

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
    """Reads a checkpoint that is split into files; the index maps each tensor to its file."""
    files = _json(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        msg = f"{index} must have a `weight_map` from tensor names to file names."
        raise PretrainedError(msg)
    tensors: dict[str, np.ndarray] = {}
    for file in sorted(set(files.values())):
        if Path(file).name != file or not _is_file(index.parent / file):
            msg = f"{index} lists {file!r}, which is not a file in its folder."
            raise PretrainedError(msg)
        part = _tensors(index.parent / file)
        if repeated := sorted(tensors.keys() & part.keys()):
            msg = f"{index} lists two files that contain the tensor {repeated[0]}."
            raise PretrainedError(msg)
        tensors |= part
    named = {_modern(name) for name in files}
    if tensors.keys() != named:
        odd = ", ".join(sorted(tensors.keys() ^ named)[:20])
        msg = f"{index} does not match its files: these tensors are in only one of them: {odd}."
        raise PretrainedError(msg)
    return tensors


def _tensors(path: Path) -> dict[str, np.ndarray]:
    with _opened(path) as file:
        names = list(file.keys())
        tensors = {_modern(name): _array(path, name, file) for name in names}
    if len(tensors) < len(names):
        msg = f"{path} contains a tensor twice, under its current name and an older one."
        raise PretrainedError(msg)
    return tensors


def _array(path: Path, name: str, file: Any) -> np.ndarray:
    """Reads a tensor in float32; integers (buffers of positions and counts) keep their dtype."""
    kind = file.get_slice(name).get_dtype()
    if kind not in (*_FLOATS, *_OTHERS):
        msg = (
            f"{path}: tensor {name} has the unsupported dtype {kind}; convert it to float32 or"
            " bfloat16."
        )
        raise PretrainedError(msg)
    array = np.asarray(file.get_tensor(name))
    if kind in _OTHERS:
        return array
    with np.errstate(over="ignore"):  # `pretrained` raises an error for infinite values
        return array.astype(np.float32)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Opens a safetensors file; raises PretrainedError for other files."""
    try:
        with path.open("rb") as file:
            start = file.read(32)
        _refuse_others(path, start)
        with safe_open(path, framework="np") as file:
            yield file
    except (SafetensorError, OSError) as error:
        msg = f"{path} is not a complete safetensors file: {str(error)[:_LONGEST]}"
        raise PretrainedError(msg) from error


def _refuse_others(path: Path, start: bytes) -> None:
    """Raises PretrainedError for files often mistaken for safetensors, by their first bytes."""
    for magic, what in _OTHER_FILES.items():
        if start.startswith(magic):
            msg = f"{path} {what}."
            raise PretrainedError(msg)


def _is_file(path: Path) -> bool:
    """Returns `path.is_file()`, or False if the file system raises, such as for a long name."""
    try:
        return path.is_file()
    except OSError:
        return False


def _modern(name: str) -> str:
    """Replaces older tensor names, as in published checkpoints of BERT and torchvision's ViT."""
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
        msg = f"{path} is not a JSON file: {str(error)[:_LONGEST]}"
        raise PretrainedError(msg) from error
    if not isinstance(content, dict):
        msg = f"{path} must contain a JSON object, got a {type(content).__name__}."
        raise PretrainedError(msg)
    return content
