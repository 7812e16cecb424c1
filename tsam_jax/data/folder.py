"""Images in a folder or a zip archive, with one subfolder for each class."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from tsam_jax.data._errors import DataError, brief, list_some, warn
from tsam_jax.data._files import Files, open_files
from tsam_jax.data._images import decode_image, image_suffixes, stack_images
from tsam_jax.data._parts import like_part, part_of
from tsam_jax.data._tables import to_indices
from tsam_jax.data.splits import Records, Source


def open_source(location: str, *, size: int | None = None) -> Source:
    """Open "folder:PATH".

    There are two layouts:

    - PATH/CLASS/IMAGE: the validation and test parts are carved from these images.
    - PATH/train/CLASS/IMAGE, optionally with val and test folders. If there is val but no test,
      val is the test part, and the validation part is carved from train.

    Part folders may have any name in `_parts.PARTS`, in any case: `Train`, `training_set`, `dev`.
    Without a training folder that contains classes, folders with these names count as classes.
    Links are followed.

    Args:
      location: the folder or archive. Files with the suffix of a format that Pillow reads are
        images; a warning counts the others.
      size: side in pixels to which all images are resized; None to keep their size, which must
        then be the same for all.

    Returns:
      The source, of kind "image"; its classes are the folder names in alphabetical order.
      `_images.decode_image` describes the pixels.

    Raises:
      DataError: if there are fewer than two classes with images, a class is missing from train, or
        the folders look like parts but do not follow the second layout.
    """
    files = open_files(Path(location))
    images = _images(files)
    parts = _parts(files, images)
    classes = {
        part: [_class_of(files, p, depth) for p in paths] for part, (paths, depth) in parts.items()
    }
    names = sorted(set(classes["train"]))
    if not images:
        msg = f"{files.root}: contains no images."
        raise DataError(msg)
    if len(names) < 2:
        msg = f"{files.root}: must have at least two classes, each a folder of images."
        raise DataError(msg)
    records = {
        part: image_records(files, paths, classes[part], names, size)
        for part, (paths, _) in parts.items()
    }
    return Source(f"folder:{location}", records, len(names), tuple(names), kind="image")


def image_records(
    files: Files,
    names: Sequence[str],
    labels: Sequence[str],
    classes: Sequence[str],
    size: int | None,
) -> Records:
    """Make records of the files `names`, which are decoded on demand.

    Args:
      files: the folder or archive.
      names: the file of each image.
      labels: the class name of each image.
      classes: all class names; a label is an index into them.
      size: as in `open_source`.

    Returns:
      The records.
    """

    def where(row: int) -> str:
        return f"{files.root / names[row]}"

    def read(rows: np.ndarray) -> np.ndarray:
        images = (decode_image(files.read(names[row]), where(row)) for row in rows)
        return stack_images(images, rows, where, size)

    return Records(to_indices(labels, classes, where), read)


def _images(files: Files) -> list[str]:
    """Returns the names of images; warns about other files and folders without images."""
    suffixes = image_suffixes()
    images: list[str] = []
    others: list[str] = []
    for name in files.names:
        found = PurePosixPath(name).suffix.lower() in suffixes
        (images if found else others).append(name)
    above = {str(folder) for name in images for folder in PurePosixPath(name).parents}
    bare = [folder for folder in files.folders if folder not in above]
    said = []
    if others:
        kinds = Counter(PurePosixPath(name).suffix.lower() or "no suffix" for name in others)
        said.append(
            f"skipped {len(others)} of {len(files.names)} files that have no image suffix"
            f" ({list_some(f'{n} {kind}' for kind, n in kinds.most_common())})"
        )
    if bare:
        said.append(f"folders without images: {len(bare)} ({list_some(bare)})")
    if said:
        warn(f"{files.root}: {'; '.join(said)}.")
    return images


def _parts(files: Files, images: Sequence[str]) -> Mapping[str, tuple[list[str], int]]:
    """Maps each part to its images and to the number of folders above their classes."""
    tops: dict[str, list[PurePosixPath]] = {}
    for path in map(PurePosixPath, images):
        if len(path.parts) > 1:
            tops.setdefault(path.parts[0], []).append(path)
    part = {top: part_of(top) for top in tops}
    nested = {top: any(len(path.parts) > 2 for path in paths) for top, paths in tops.items()}
    if not any(part[top] == "train" and nested[top] for top in tops):
        _check_classes(files, tops)
        return {"train": (list(images), 0)}
    parts: dict[str, tuple[list[str], int]] = {}
    for name in images:
        top = PurePosixPath(name).parts[0]
        if top not in tops:
            _class_of(files, name, 1)  # raises
        found = part[top]
        if found is None:
            msg = (
                f"{files.root / top}: {brief(top)!r} is next to the training folder but is not the"
                " name of a part; rename it to train, val or test, or move it."
            )
            raise DataError(msg)
        parts.setdefault(found, ([], 1))[0].append(name)
    for found in parts:
        same = [top for top in sorted(tops) if part[top] == found]
        if len(same) > 1:
            msg = f"{files.root}: {list_some(same)} all name the {found} part; keep one of them."
            raise DataError(msg)
    return parts


def _check_classes(files: Files, tops: Mapping[str, Sequence[PurePosixPath]]) -> None:
    """Raises DataError for folders that look like parts but would be read as classes."""
    like = {top: part_of(top) or like_part(top) for top in tops}
    found = set(like.values())
    if (found - {None} and None not in found and len(tops) > 1) or (
        "train" in found and found & {"validation", "test"}
    ):
        msg = (
            f"{files.root}: {list_some(sorted(tops))} look like parts, not classes; parts must have"
            " the layout train/CLASS/IMAGE, val/CLASS/IMAGE, test/CLASS/IMAGE."
        )
        raise DataError(msg)
    below = {path.parts[1] for paths in tops.values() for path in paths if len(path.parts) > 2}
    inner = {part_of(name) for name in below}
    if "train" in inner and inner & {"validation", "test"}:
        msg = (
            f"{files.root}: has part folders inside class folders; move the parts to the top, as in"
            " train/CLASS/IMAGE."
        )
        raise DataError(msg)


def _class_of(files: Files, name: str, depth: int) -> str:
    """Returns an image's class: the name of its folder at level `depth` below the root."""
    folders = PurePosixPath(name).parts[depth:-1]
    if not folders:
        place = " ".join(str(files.root / name).split())  # a name in an archive may have lines
        msg = f"{place}: must be in the folder of a class."
        raise DataError(msg)
    return folders[0]
