"""Arrays in an .npz file: images, encoded images, or vectors."""

import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from tsam_jax.data._read import DataError, check_indices, decode_image, stack_images
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
KEYS = (
    "train_inputs, or train_images, or train_jpeg with train_offsets; train_labels; the same with"
    " val and test; class_names"
)


def open_source(location: str, *, size: int | None = None) -> Source:
    """Opens "npz:PATH".

    Keys, of which those of val and test may be missing:

    - `train_images` (or `train_inputs`, or `x_train`): shape (n, height, width, channels) or
      (n, height, width), uint8 or floating point in 0..1; or (n, features), floating point;
    - or `train_jpeg`, uint8: encoded images one after the other, of any format; image i is
      bytes `train_offsets[i]` to `train_offsets[i + 1]`;
    - `train_labels` (or `y_train`): shape (n,) or (n, 1); integers from 0 are classes, floating
      point is regression;
    - `class_names`: shape (num_classes,), strings.

    A val part without a test part is the test part; parts that are missing are carved from train.

    Args:
      location: the file.
      size: side in pixels to which all images are resized; None if they have one size.

    Returns:
      The source, of kind "image" or "vector".

    Raises:
      DataError: if the file is corrupt, or an array does not have the shape or dtype above.
    """
    path = Path(location)
    arrays = _read(path)
    parts = {part: _part(path, arrays, keys, size) for part, keys in _keys(path, arrays).items()}
    if "train" not in parts:
        msg = f"{path}: has no training part; its keys are {', '.join(arrays)}, not {KEYS}."
        raise DataError(msg)
    records = {part: found for part, (found, _) in parts.items()}
    kinds = {kind for _, kind in parts.values()}
    regression = {bool(r.labels.dtype == np.float32) for r in records.values()}
    if len(kinds) > 1 or len(regression) > 1:
        msg = f"{path}: all parts must be of one kind of inputs and of labels."
        raise DataError(msg)
    names = tuple(str(name) for name in arrays.get("class_names", ()))
    if regression == {True}:
        return Source(f"npz:{location}", records, None, kind=kinds.pop())
    num_classes = len(names) or int(records["train"].labels.max()) + 1
    for part, part_records in records.items():
        check_indices(part_records.labels, num_classes, _where(path, part))
    return Source(f"npz:{location}", records, num_classes, names, kind=kinds.pop())


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:  # np.load leaves a corrupt file open
            arrays = np.load(file, allow_pickle=False)
            if isinstance(arrays, np.lib.npyio.NpzFile):
                return dict(arrays)
    except FileNotFoundError:
        msg = f"{path}: there is no such file."
        raise DataError(msg) from None
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        msg = f"{path}: is no .npz that can be read: {error}"
        raise DataError(msg) from error
    msg = f"{path}: is one array and no .npz."
    raise DataError(msg)


def _keys(path: Path, arrays: Iterable[str]) -> dict[str, dict[str, str]]:
    """Part -> content -> the key that has it; other keys are ignored."""
    keys: dict[str, dict[str, str]] = {}
    for key in arrays:
        first, _, second = key.partition("_")
        prefix, content = (second, first) if first in {"x", "y"} else (first, second)
        if prefix in PREFIXES and content in CONTENTS:
            of_part = keys.setdefault(PREFIXES[prefix], {})
            other = of_part.setdefault(CONTENTS[content], key)
            if other != key:
                msg = f"{path}: {other} and {key} are the same; keep one of them."
                raise DataError(msg)
    return keys


def _part(
    path: Path, arrays: Mapping[str, np.ndarray], keys: Mapping[str, str], size: int | None
) -> tuple[Records, Kind]:
    """The records of a part and their kind."""
    if ("inputs" in keys) == ("jpeg" in keys) or "labels" not in keys:
        msg = f"{path}: {', '.join(keys.values())} are no part of a data set; its keys are {KEYS}."
        raise DataError(msg)
    labels = _check_labels(f"{path}, {keys['labels']}", arrays[keys["labels"]])
    if "inputs" in keys:
        where = f"{path}, {keys['inputs']}"
        inputs = _check_inputs(where, arrays[keys["inputs"]], len(labels), size)
        return array_records(inputs, labels), "image" if inputs.ndim == 4 else "vector"
    where = f"{path}, {keys['jpeg']}"
    if "offsets" not in keys:
        msg = f"{where}: needs offsets, such as train_offsets for train_jpeg."
        raise DataError(msg)
    return _encoded(where, arrays[keys["jpeg"]], arrays[keys["offsets"]], labels, size)


def _where(path: Path, part: str) -> Callable[[int], str]:
    return lambda row: f"{path}, {part} example {row}"


def _check_labels(where: str, labels: np.ndarray) -> np.ndarray:
    """Labels as int32, or as float32 for regression."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or not len(labels) or labels.dtype.kind not in "iuf":
        msg = f"{where}: must be numbers of shape (n,), got {labels.dtype} of shape {labels.shape}."
        raise DataError(msg)
    if labels.dtype.kind != "f":
        return labels.astype(np.int32)
    wrong = np.flatnonzero(~np.isfinite(labels))
    if len(wrong):
        msg = f"{where}, row {wrong[0]}: is {labels[wrong[0]]}."
        raise DataError(msg)
    return labels.astype(np.float32)


def _check_inputs(where: str, inputs: np.ndarray, count: int, size: int | None) -> np.ndarray:
    """Images as uint8 or float32 with channels, or vectors as float32."""
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
        msg = f"{where}: has {len(inputs)} rows, and its labels have {count}."
        raise DataError(msg)
    if floating:
        finite = np.isfinite(inputs).reshape(len(inputs), -1).all(axis=1)
        if not finite.all():
            msg = f"{where}, row {np.argmin(finite)}: has an entry that is not finite."
            raise DataError(msg)
        inputs = inputs.astype(np.float32)
    if inputs.ndim == 2:
        return inputs
    images = inputs if inputs.ndim == 4 else inputs[..., None]
    if size is None or images.shape[1:3] == (size, size):
        return images
    if floating:
        msg = f"{where}: `size` resizes uint8 images only, and these are {images.dtype}."
        raise DataError(msg)
    return stack_images(images, range(count), lambda row: f"{where}, row {row}", size)


def _encoded(
    where: str, content: np.ndarray, offsets: np.ndarray, labels: np.ndarray, size: int | None
) -> tuple[Records, Kind]:
    """Records of encoded images, back to back."""
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
            f"{where}: must be bytes, uint8, with {count + 1} offsets into them that do not"
            f" decrease, one more than labels; got {content.dtype} of shape {content.shape} and"
            f" offsets of shape {offsets.shape}."
        )
        raise DataError(msg)

    def name(row: int) -> str:
        return f"{where}, image {row}"

    def read(rows: np.ndarray) -> np.ndarray:
        files = (content[offsets[row] : offsets[row + 1]].tobytes() for row in rows)
        images = (decode_image(file, name(row)) for row, file in zip(rows, files, strict=True))
        return stack_images(images, rows, name, size)

    return Records(labels, read), "image"
