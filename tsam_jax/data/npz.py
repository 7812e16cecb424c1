"""Images, encoded images or vectors in an .npz file."""

import os
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tsam_jax.data._errors import DataError, brief, list_some, reason, warn
from tsam_jax.data._files import decode_text
from tsam_jax.data._images import check_side, decode_image, stack_images
from tsam_jax.data._tables import check_indices
from tsam_jax.data.splits import Kind, Records, Source, array_records

PREFIXES = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
CONTENTS = {
    "inputs": "inputs",
    "images": "inputs",
    "x": "inputs",
    "jpeg": "jpeg",
    "offsets": "offsets",
    "labels": "labels",
    "y": "labels",
}
CHANNELS = {1, 2, 3, 4}
"""Axis lengths that identify the channel axis."""

MAX_CLASSES = 100_000
"""A larger label is taken for a number, not a class: a network has one output for each class."""

ROUNDING = 1e-5
"""Tolerance for pixels outside 0..1, such as from arithmetic in half precision."""

LARGEST = float(np.finfo(np.float32).max)

KEYS = (
    "train_inputs, or train_images, or train_jpeg with train_offsets; train_labels; the same for"
    " val and test; class_names"
)


class _Part(NamedTuple):
    """A part of the file.

    Attributes:
      records: the examples.
      kind: kind of the inputs.
      shape: shape of an input; () for encoded images.
    """

    records: Records
    kind: Kind
    shape: tuple[int, ...] = ()


def open_source(location: str, *, size: int | None = None) -> Source:
    """Open "npz:PATH".

    Inputs are under one of two keys:

    - `train_images` (or `train_inputs`, or `x_train`): images of shape
      (n, height, width, channels), (n, channels, height, width) or (n, height, width), uint8 or
      floating point in 0..1; or vectors of shape (n, features), floating point. Channels come
      first if the first axis of an image has length 1 to 4 and the last is longer.
    - `train_jpeg`, uint8: encoded images of any format, concatenated; image i is bytes
      `train_offsets[i]` to `train_offsets[i + 1]`.

    The other keys:

    - `train_labels` (or `y_train`): shape (n,) or (n, 1). Integers from 0 to `MAX_CLASSES` - 1 are
      classes; floating point means regression.
    - `class_names`, optional: shape (num_classes,), strings.
    - The same keys with `val` and `test`, optional. If there is val but no test, val is the test
      part. Missing parts are carved from train.

    Args:
      location: the file.
      size: side in pixels to which all images are resized; None to keep their size, which must
        then be the same for all.

    Returns:
      The source, of kind "image" or "vector".

    Raises:
      DataError: if the file is corrupt, or an array does not have the shape, dtype or values above.
    """
    path = Path(location)
    arrays = _read(path)
    parts = {part: _part(path, arrays, keys, size) for part, keys in _keys(path, arrays).items()}
    if "train" not in parts:
        msg = f"{path}: has no training part; expected keys are {KEYS}, got {list_some(arrays)}."
        raise DataError(msg)
    records = {part: found.records for part, found in parts.items()}
    kinds = {found.kind for found in parts.values()}
    regression = {bool(r.labels.dtype == np.float32) for r in records.values()}
    if len(kinds) > 1 or len(regression) > 1:
        msg = f"{path}: all parts must have the same kind of inputs and of labels."
        raise DataError(msg)
    shapes = {part: found.shape for part, found in parts.items() if found.shape}
    if len(set(shapes.values())) > 1:
        msg = f"{path}: all parts must have inputs of equal shape, got {list_some(shapes.items())}."
        raise DataError(msg)
    names = _class_names(path, arrays)
    if regression == {True}:
        if names:
            msg = f"{path}: labels must be integers if there are class_names, got floating point."
            raise DataError(msg)
        return Source(f"npz:{location}", records, None, kind=kinds.pop())
    num_classes = len(names) or int(records["train"].labels.max()) + 1
    for part, part_records in records.items():
        check_indices(part_records.labels, num_classes, _where(path, part))
    if not names and min(int(r.labels.min()) for r in records.values()) > 0:
        warn(f"{path}: no example has label 0; labels start at 0, so class 0 exists but is empty.")
    return Source(f"npz:{location}", records, num_classes, names, kind=kinds.pop())


def _read(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays with known keys; returns empty arrays for other keys."""
    if not path.is_file() and not path.is_dir():
        msg = f"{path}: no such file."
        raise DataError(msg)
    try:
        with path.open("rb") as file:  # np.load leaves a corrupt file open
            arrays = np.load(file, allow_pickle=False)
            if isinstance(arrays, np.lib.npyio.NpzFile):
                keys = list(arrays)
                used = {key for of_part in _keys(path, keys).values() for key in of_part.values()}
                used.add("class_names")
                entries = zipfile.ZipFile(file).infolist()
                sizes = {entry.filename.removesuffix(".npy"): entry.file_size for entry in entries}
                _check_memory(path, sum(sizes.get(key, 0) for key in used))
                return {key: arrays[key] if key in used else np.empty(0) for key in keys}
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and numpy's header parser raise many types
        msg = f"{path}: cannot be read as .npz: {reason(error)}."
        raise DataError(msg) from error
    msg = f"{path}: must be an .npz file, got a single array; save it with `numpy.savez`."
    raise DataError(msg)


def _check_memory(path: Path, size: int) -> None:
    """Raises DataError if the arrays do not fit in the machine's memory."""
    if not hasattr(os, "sysconf"):
        return
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > memory:
        msg = (
            f"{path}: needs {size / 2**30:.1f} GiB of memory; this machine has"
            f" {memory / 2**30:.1f} GiB."
        )
        raise DataError(msg)


def _class_names(path: Path, arrays: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Returns the class names; () if the file has none."""
    if "class_names" not in arrays:
        return ()
    array = arrays["class_names"]
    if array.ndim != 1 or array.dtype.kind not in "USiu" or not len(array):
        msg = (
            f"{path}, class_names: must be strings of shape (num_classes,), got {array.dtype} of"
            f" shape {array.shape}."
        )
        raise DataError(msg)
    if array.dtype.kind == "S":
        names = [decode_text(name, f"{path}, class_names") for name in array.tolist()]
    else:
        names = [str(name) for name in array.tolist()]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        msg = f"{path}, class_names: {brief(twice)!r} appears twice."
        raise DataError(msg)
    return tuple(names)


def _keys(path: Path, arrays: Iterable[str]) -> dict[str, dict[str, str]]:
    """Maps part and content to the key of their array; other keys are ignored."""
    keys: dict[str, dict[str, str]] = {}
    for key in arrays:
        first, _, second = key.partition("_")
        prefix, content = (second, first) if first in {"x", "y"} else (first, second)
        if prefix in PREFIXES and content in CONTENTS:
            of_part = keys.setdefault(PREFIXES[prefix], {})
            other = of_part.setdefault(CONTENTS[content], key)
            if other != key:
                msg = f"{path}: {other} and {key} mean the same; keep one of them."
                raise DataError(msg)
    return keys


def _part(
    path: Path, arrays: Mapping[str, np.ndarray], keys: Mapping[str, str], size: int | None
) -> _Part:
    """Reads a part."""
    if ("inputs" in keys) == ("jpeg" in keys) or "labels" not in keys:
        msg = (
            f"{path}: a part must have inputs and labels, got only {list_some(keys.values())};"
            f" expected keys are {KEYS}."
        )
        raise DataError(msg)
    labels = _check_labels(f"{path}, {keys['labels']}", arrays[keys["labels"]])
    if "inputs" in keys:
        where = f"{path}, {keys['inputs']}"
        inputs = _check_inputs(where, arrays[keys["inputs"]], len(labels), size)
        kind: Kind = "image" if inputs.ndim == 4 else "vector"
        return _Part(array_records(inputs, labels), kind, inputs.shape[1:])
    where = f"{path}, {keys['jpeg']}"
    if "offsets" not in keys:
        msg = f"{where}: also needs offsets, such as train_offsets for train_jpeg."
        raise DataError(msg)
    return _encoded(where, arrays[keys["jpeg"]], arrays[keys["offsets"]], labels, size)


def _where(path: Path, part: str) -> Callable[[int], str]:
    return lambda row: f"{path}, {part} example {row}"


def _check_labels(where: str, labels: np.ndarray) -> np.ndarray:
    """Returns labels as int32, or as float32 for regression."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or not len(labels) or labels.dtype.kind not in "iuf":
        msg = f"{where}: must be numbers of shape (n,), got {labels.dtype} of shape {labels.shape}."
        raise DataError(msg)
    if labels.dtype.kind != "f":
        wrong = np.flatnonzero((labels < -(2**31)) | (labels >= MAX_CLASSES))
        if len(wrong):
            msg = (
                f"{where}, row {wrong[0]}: a class must be from 0 to {MAX_CLASSES - 1}, got"
                f" {labels[wrong[0]]}."
            )
            raise DataError(msg)
        return labels.astype(np.int32)
    wrong = np.flatnonzero(~(np.abs(labels) <= LARGEST))
    if len(wrong):
        msg = f"{where}, row {wrong[0]}: must be finite in float32, got {labels[wrong[0]]}."
        raise DataError(msg)
    return labels.astype(np.float32)


def _check_inputs(where: str, inputs: np.ndarray, count: int, size: int | None) -> np.ndarray:
    """Returns images as uint8 or float32 with a channel axis, or vectors as float32."""
    floating = inputs.dtype.kind == "f"
    dtype_is_right = floating or (inputs.dtype == np.uint8 and inputs.ndim != 2)
    if inputs.ndim not in {2, 3, 4} or not dtype_is_right or not inputs.size:
        msg = (
            f"{where}: must be images, shape (n, height, width, channels), uint8 or floating point"
            f" in 0..1, or vectors, shape (n, features), floating point; got {inputs.dtype} of"
            f" shape {inputs.shape}."
        )
        raise DataError(msg)
    if len(inputs) != count:
        msg = f"{where}: must have as many rows as labels, {count}, got {len(inputs)}."
        raise DataError(msg)
    if inputs.ndim == 2:
        _check_range(where, inputs, -LARGEST, LARGEST, "entries must be finite in float32")
        if size is not None:
            msg = f"{where}: `size` applies to images only, but these are vectors."
            raise DataError(msg)
        return inputs.astype(np.float32)
    if floating:
        _check_range(
            where,
            inputs,
            -ROUNDING,
            1 + ROUNDING,
            "floating-point pixels must be in 0..1; save pixels from 0 to 255 as uint8",
        )
        inputs = inputs.astype(np.float32)
    images = _channels_last(where, inputs) if inputs.ndim == 4 else inputs[..., None]
    check_side(size)
    if size is None or images.shape[1:3] == (size, size):
        return images
    if floating:
        msg = f"{where}: `size` applies to uint8 images only, but these are {images.dtype}."
        raise DataError(msg)
    return stack_images(images, range(count), lambda row: f"{where}, row {row}", size)


def _check_range(where: str, inputs: np.ndarray, low: float, high: float, words: str) -> None:
    """Raises DataError for the first row with NaN or an entry outside low..high."""
    for row, entries in enumerate(inputs):
        if not (entries.min() >= low and entries.max() <= high):
            msg = f"{where}, row {row}: {words}."
            raise DataError(msg)


def _channels_last(where: str, images: np.ndarray) -> np.ndarray:
    """Finds the channel axis and moves it last."""
    first, height, last = images.shape[1:]
    if last in CHANNELS:
        return images
    if first in CHANNELS:
        return np.ascontiguousarray(np.moveaxis(images, 1, -1))
    if last < min(first, height):  # more than 4 channels, such as spectral bands
        return images
    msg = (
        f"{where}: must have shape (n, height, width, channels), got {images.shape}, in which no"
        " axis looks like channels."
    )
    raise DataError(msg)


def _encoded(
    where: str, content: np.ndarray, offsets: np.ndarray, labels: np.ndarray, size: int | None
) -> _Part:
    """Makes a part of concatenated encoded images, which are decoded on demand."""
    count = len(labels)
    if (
        content.dtype != np.uint8
        or content.ndim != 1
        or offsets.dtype.kind not in "iu"
        or offsets.shape != (count + 1,)
        or offsets[0] < 0
        or offsets[-1] > len(content)
        or (np.diff(offsets.astype(np.int64)) < 0).any()
    ):
        msg = (
            f"{where}: must be a vector of uint8 with {count + 1} non-decreasing offsets into it"
            f" (one more than labels), got {content.dtype} of shape {content.shape} with offsets of"
            f" shape {offsets.shape}."
        )
        raise DataError(msg)

    def name(row: int) -> str:
        return f"{where}, image {row}"

    def read(rows: np.ndarray) -> np.ndarray:
        files = (content[offsets[row] : offsets[row + 1]].tobytes() for row in rows)
        images = (decode_image(file, name(row)) for row, file in zip(rows, files, strict=True))
        return stack_images(images, rows, name, size)

    return _Part(Records(labels, read), "image")
