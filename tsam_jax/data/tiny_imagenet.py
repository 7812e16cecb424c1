"""Tiny ImageNet: 200 classes, 64 x 64 pixels, 100,000 training and 10,000 validation images.

Source: Le and Yang, "Tiny ImageNet Visual Recognition Challenge", Stanford CS231N, 2015; this
module reads the layout of tiny-imagenet-200.zip.
"""

from pathlib import Path

from tsam_jax.data._errors import DataError
from tsam_jax.data._files import Files, decode_text, open_files
from tsam_jax.data.folder import image_records
from tsam_jax.data.splits import Source


def open_source(location: str, *, size: int | None = None) -> Source:
    """Open "tiny-imagenet:PATH".

    The official train part is the training part, from which the validation part is carved. The
    official val part is the test part, as the labels of the official test part are not public.

    Args:
      location: tiny-imagenet-200.zip, or the folder that it unpacks to.
      size: side in pixels to which all images are resized; None to keep 64.

    Returns:
      The source, of kind "image"; its classes are those of wnids.txt in alphabetical order, the
      numbering that a reader of the training folders gets.

    Raises:
      DataError: if a file of the layout, or an image that it lists, is missing.
    """
    files = open_files(Path(location))
    classes = sorted(_lines(files, "wnids.txt"))
    train = [n for n in files.names if n.startswith("train/") and n.endswith(".JPEG")]
    annotations = [line.split("\t") for line in _lines(files, "val/val_annotations.txt")]
    short = [i for i, cells in enumerate(annotations, start=1) if len(cells) < 2]
    if short:
        msg = f"{files.root / 'val/val_annotations.txt'}, line {short[0]}: has no class."
        raise DataError(msg)
    val = [f"val/images/{cells[0]}" for cells in annotations]
    missing = sorted(set(val) - set(files.names)) or ([] if train else ["train/*/images/*.JPEG"])
    if missing:
        msg = f"{files.root}: {missing[0]} is missing; unpack the archive again."
        raise DataError(msg)
    parts = {
        "train": image_records(files, train, [n.split("/")[1] for n in train], classes, size),
        "test": image_records(files, val, [cells[1] for cells in annotations], classes, size),
    }
    names = _words(files)
    shown = tuple(names.get(name, name) for name in classes)
    return Source(f"tiny-imagenet:{location}", parts, len(classes), shown, kind="image")


def _words(files: Files) -> dict[str, str]:
    """Maps classes to the first of their words; {} if the file of words is missing."""
    if "words.txt" not in files.names:
        return {}
    pairs = (line.partition("\t") for line in _lines(files, "words.txt"))
    return {name: words.split(",")[0] for name, _, words in pairs}


def _lines(files: Files, name: str) -> list[str]:
    if name not in files.names:
        msg = f"{files.root}: is not Tiny ImageNet's folder or archive: it has no {name}."
        raise DataError(msg)
    return [line for line in decode_text(files.read(name), files.root / name).splitlines() if line]
