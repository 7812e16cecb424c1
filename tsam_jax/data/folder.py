"""A folder, or a zip archive, of images in one sub-folder for each class."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from tsam_jax.data._read import (
    DataError,
    Files,
    decode_image,
    open_files,
    stack_images,
    to_indices,
)
from tsam_jax.data.splits import Records, Source

LEVELS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def open_source(location: str, *, size: int | None = None) -> Source:
    """Opens "folder:PATH".

    PATH/CLASS/IMAGE, from which the validation and the test part are carved; or with folders of
    parts above the classes: PATH/train/CLASS/IMAGE, and val and test where they exist. With val
    and no test, val is the test part, and the validation part is carved from train.

    Args:
      location: the folder or archive. Only files with the suffix of an image format are read.
      size: side in pixels to which all images are resized; None if they have one size.

    Returns:
      The source, of kind "image"; its classes are the folders' names in alphabetical order.

    Raises:
      DataError: if there are not at least two classes, each with an image, or a class is not in
        train.
    """
    files = open_files(Path(location))
    parts = _parts(files)
    names = sorted({_class_of(files, name) for name in parts["train"]})
    if len(names) < 2:
        msg = f"{files.root}: must have a folder of images for each of at least two classes."
        raise DataError(msg)
    records = {
        part: image_records(files, paths, [_class_of(files, p) for p in paths], names, size)
        for part, paths in parts.items()
    }
    return Source(f"folder:{location}", records, len(names), tuple(names), kind="image")


def image_records(
    files: Files,
    names: Sequence[str],
    labels: Sequence[str],
    classes: Sequence[str],
    size: int | None,
) -> Records:
    """Makes records of the files `names`, decoded on demand; `size` as in `open_source`."""

    def where(row: int) -> str:
        return f"{files.root / names[row]}"

    def read(rows: np.ndarray) -> np.ndarray:
        images = (decode_image(files.read(names[row]), where(row)) for row in rows)
        return stack_images(images, rows, where, size)

    return Records(to_indices(labels, classes, where), read)


def _parts(files: Files) -> Mapping[str, list[str]]:
    """Part -> its images."""
    images = [name for name in files.names if PurePosixPath(name).suffix.lower() in SUFFIXES]
    tops = {PurePosixPath(name).parts[0] for name in images}
    if not tops & {"train", "training"}:
        return {"train": images}
    parts: dict[str, list[str]] = {}
    for name in images:
        top = PurePosixPath(name).parts[0]
        if top not in LEVELS:
            msg = (
                f"{files.root / name}: {top!r} is beside the training folder and is no part;"
                f" parts are {', '.join(LEVELS)}."
            )
            raise DataError(msg)
        parts.setdefault(LEVELS[top], []).append(name)
    return parts


def _class_of(files: Files, name: str) -> str:
    """The folder that an image is in, below its part."""
    folders = PurePosixPath(name).parts[:-1]
    if folders and folders[0] in LEVELS:
        folders = folders[1:]
    if not folders:
        msg = f"{files.root / name}: is in no folder of a class."
        raise DataError(msg)
    return folders[0]
