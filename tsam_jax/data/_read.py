"""What the readers share: the error, files, tables, images and class labels."""

import csv
import difflib
import gzip
import io
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

Where = Callable[[int], str]
"""Row -> what errors call it: its file and line, say."""

Column = str | int
"""A column by its name in the header, or by its index from 0."""


class DataError(ValueError):
    """Data that cannot be used; the message names the file and the row or image."""


def suggest(word: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown word: the nearest known one, or nothing."""
    near = difflib.get_close_matches(word.lower(), known, n=1)
    return f" Perhaps you meant `{near[0]}`." if near else ""


class Files(NamedTuple):
    """Files below a folder or in a zip archive.

    Attributes:
      root: the folder or the archive.
      names: sorted paths from the root, with "/", without hidden files.
      read: name -> content.
    """

    root: Path
    names: tuple[str, ...]
    read: Callable[[str], bytes]


def open_files(path: Path) -> Files:
    """Lists the files of a folder, or of a zip archive, below its top folder if it has just one."""
    if path.is_dir():
        names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
        files = Files(path, _visible(names), lambda name: (path / name).read_bytes())
    elif path.is_file():
        files = _open_archive(path)
    else:
        msg = f"{path}: there is no such folder or zip archive."
        raise DataError(msg)
    if not files.names:
        msg = f"{path}: is empty."
        raise DataError(msg)
    return files


def _open_archive(path: Path) -> Files:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        msg = f"{path}: is no zip archive that can be read: {error}."
        raise DataError(msg) from error
    names = _visible([info.filename for info in archive.infolist() if not info.is_dir()])
    top = names[0].partition("/")[0] + "/" if names else ""
    if not all(name.startswith(top) for name in names):
        top = ""

    def read(name: str) -> bytes:
        try:
            return archive.read(top + name)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            msg = f"{path}, {name}: is corrupt in the archive: {error}."
            raise DataError(msg) from error

    return Files(path, tuple(name.removeprefix(top) for name in names), read)


def _visible(names: Iterable[str]) -> tuple[str, ...]:
    """Sorts the names and drops hidden files and those that macOS adds to archives."""
    hidden = (".", "__MACOSX")
    return tuple(
        sorted(n for n in names if not any(p.startswith(hidden) for p in PurePosixPath(n).parts))
    )


def read_text(path: Path) -> str:
    """Reads a file in UTF-8, decompressed if its name ends in ".gz"."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except FileNotFoundError:
        msg = f"{path}: there is no such file."
        raise DataError(msg) from None
    except (OSError, EOFError, zlib.error) as error:  # gzip.BadGzipFile is an OSError
        msg = f"{path}: cannot be read: {error}."
        raise DataError(msg) from error
    return decode_text(content, path)


def decode_text(content: bytes, where: object) -> str:
    """Decodes UTF-8 without its byte order mark; `where` names the file in errors."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        msg = f"{where}, line {line}: byte {error.start} is no UTF-8; convert the file to UTF-8."
        raise DataError(msg) from None


class Rows(NamedTuple):
    """Rows of a table.

    Attributes:
      path: the file.
      header: names of the columns; () for a file without header.
      cells: the cells of each row, equally many in all rows.
      lines: the line of the file on which each row ends, from 1.
    """

    path: Path
    header: tuple[str, ...]
    cells: list[list[str]]
    lines: list[int]

    def where(self, row: int) -> str:
        """The row's file and line, for errors."""
        return f"{self.path}, line {self.lines[row]}"

    def column(self, column: Column) -> list[str]:
        """The cells of a column."""
        index, width = column, len(self.cells[0])
        if column in self.header:
            index = self.header.index(str(column))
        if isinstance(index, int) and 0 <= index < width:
            return [cells[index] for cells in self.cells]
        has = f"named {', '.join(map(repr, self.header))}" if self.header else "without names"
        msg = f"{self.path}: has no column {column!r}; it has {width} columns, {has}."
        raise DataError(msg)


def read_rows(
    path: Path, *, header: bool = True, delimiter: str | None = None, skip_short: bool = False
) -> Rows:
    r"""Reads a table.

    Tab-separated files are split at tabs and "\n" only: quotes in sentences mean nothing. Others
    are read as CSV, in which quotes hold cells together.

    Args:
      path: the file, UTF-8; decompressed if its name ends in ".gz".
      header: whether the first row names the columns.
      delimiter: between columns; None for a tab, or for a comma if the name has ".csv".
      skip_short: drop rows with too few cells instead of raising an error.

    Returns:
      The rows.

    Raises:
      DataError: if a row has another number of cells than the first, or the file has no rows.
    """
    text = read_text(path)
    if delimiter is None:
        delimiter = "," if ".csv" in path.suffixes[-2:] else "\t"
    rows = _split_tsv(text) if delimiter == "\t" else _parse_csv(text, delimiter, path)
    names = tuple(rows.pop(0)[1]) if header and rows else ()
    width = len(names) or (len(rows[0][1]) if rows else 0)
    if skip_short:
        rows = [row for row in rows if len(row[1]) >= width]
    if not rows:
        msg = f"{path}: has no rows."
        raise DataError(msg)
    for line, cells in rows:
        if len(cells) != width:
            msg = f"{path}, line {line}: has {len(cells)} columns instead of {width}."
            raise DataError(msg)
    return Rows(path, names, [cells for _, cells in rows], [line for line, _ in rows])


def _split_tsv(text: str) -> list[tuple[int, list[str]]]:
    text = text.rstrip("\r\n")  # blank lines at the end are no rows, as in CSV
    lines = text.split("\n") if text else []
    return [(i, line.removesuffix("\r").split("\t")) for i, line in enumerate(lines, start=1)]


def _parse_csv(text: str, delimiter: str, path: Path) -> list[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        msg = f"{path}, line {reader.line_num}: is no CSV: {error}."
        raise DataError(msg) from error


def decode_image(content: bytes, where: str, *, mode: str = "RGB") -> np.ndarray:
    """Decodes any format that Pillow reads into (height, width, channels), uint8; "L" is grey."""
    from PIL import Image

    if not content:
        msg = f"{where}: is empty."
        raise DataError(msg)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = np.asarray(Image.open(io.BytesIO(content)).convert(mode))
    except (OSError, ValueError, SyntaxError, EOFError, Warning) as error:
        msg = f"{where}: cannot be decoded as an image: {error}"
        raise DataError(msg) from error
    return image.reshape(*image.shape[:2], -1)


def stack_images(
    images: Iterable[np.ndarray], rows: Iterable[int], where: Where, size: int | None
) -> np.ndarray:
    """Stacks images of shape (height, width, channels), uint8, resized to `size` if it is given.

    Args:
      images: the images.
      rows: the row of each image.
      where: names a row in errors.
      size: side in pixels; None if all images have one size.

    Returns:
      Shape (n, height, width, channels), uint8.

    Raises:
      DataError: if the sizes differ.
    """
    stacked: list[np.ndarray] = []
    for row, image in zip(rows, images, strict=True):
        same = image if size is None else _resize(image, size)
        if stacked and same.shape != stacked[0].shape:
            shape, first = (" x ".join(map(str, found.shape)) for found in (same, stacked[0]))
            msg = (
                f"{where(row)}: is {shape}, and images before it are {first}."
                " Give `size=` a number of pixels to resize all images to."
            )
            raise DataError(msg)
        stacked.append(same)
    return np.stack(stacked)


def _resize(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes bilinearly to a square, whatever the ratio of the sides: the official DTD recipe."""
    from PIL import Image

    if size < 1:
        msg = f"`size` must be at least 1 pixel, got {size}."
        raise DataError(msg)
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    resized = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))
    return resized.reshape(size, size, image.shape[-1])


def to_indices(values: Sequence[str], classes: Sequence[str], where: Where) -> np.ndarray:
    """The index of each label among the classes, int32; raises DataError for other labels."""
    index = {name: i for i, name in enumerate(classes)}
    for row, value in enumerate(values):
        if value not in index:
            known = ", ".join(map(repr, classes[:10])) + (", ..." if len(classes) > 10 else "")
            msg = f"{where(row)}: label {value!r} is unknown; the classes are {known}."
            raise DataError(msg)
    return np.array([index[value] for value in values], np.int32)


def check_indices(labels: np.ndarray, num_classes: int, where: Where) -> np.ndarray:
    """Returns the labels as int32; raises DataError for labels outside 0..num_classes - 1."""
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        row = int(wrong[0])
        msg = (
            f"{where(row)}: label {labels[row]} is unknown; the classes are 0 to {num_classes - 1}."
        )
        raise DataError(msg)
    return labels.astype(np.int32)
