"""Tables and class labels, shared by several readers."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tsam_jax.data._errors import DataError, brief, list_some, reason, warn
from tsam_jax.data._files import read_text

Where = Callable[[int], str]
"""Row -> its name in errors, such as its file and line."""

Column = str | int
"""A column by its name in the header, or by its index from 0."""


class Rows(NamedTuple):
    """Rows of a table.

    Attributes:
      path: the file.
      header: names of the columns; () for a file without a header.
      cells: the cells of each row, the same number in every row.
      lines: the line of the file on which each row ends, counted from 1.
    """

    path: Path
    header: tuple[str, ...]
    cells: list[list[str]]
    lines: list[int]

    def where(self, row: int) -> str:
        """Names the row's file and line, for errors."""
        return f"{self.path}, line {self.lines[row]}"

    def column(self, column: Column) -> list[str]:
        """Returns the cells of a column, given by name or by index (an integer or its digits)."""
        index, width = column, len(self.cells[0])
        if column in self.header:
            index = self.header.index(str(column))
            if self.header.count(str(column)) > 1:
                places = [str(i) for i, name in enumerate(self.header) if name == column]
                msg = (
                    f"{self.path}: has {len(places)} columns named {brief(column)!r}, at indices"
                    f" {list_some(places)}; rename all but one, or pass an index."
                )
                raise DataError(msg)
        elif isinstance(column, str) and column.isascii() and column.isdecimal():
            index = int(column)
        if isinstance(index, int) and 0 <= index < width:
            return [cells[index] for cells in self.cells]
        has = f"named {list_some(map(repr, self.header))}" if self.header else "without names"
        hint = "If the delimiter is wrong, pass `delimiter=`."
        hint = hint if width == 1 else "Name the columns by `text=` and `label=`."
        columns = "1 column" if width == 1 else f"{width} columns"
        msg = f"{self.path}: has no column {brief(column)!r}; it has {columns}, {has}. {hint}"
        raise DataError(msg)

    def keep(self, rows: Sequence[int]) -> "Rows":
        """Returns the table with only the given rows."""
        cells, lines = [self.cells[i] for i in rows], [self.lines[i] for i in rows]
        return self._replace(cells=cells, lines=lines)


def read_rows(
    path: Path, *, header: bool = True, delimiter: str | None = None, skip_short: bool = False
) -> Rows:
    r"""Reads a table.

    Tab-separated files are split at tabs and "\n" only; quotes have no meaning. Other files are
    read as CSV, where a quoted cell may contain delimiters and line breaks.

    Args:
      path: the file, in UTF-8; decompressed if its name ends in ".gz".
      header: whether the first row names the columns.
      delimiter: column delimiter; None for a comma in ".csv" files and a tab in others.
      skip_short: skip rows with too few cells, with a warning, instead of raising an error.

    Returns:
      The rows.

    Raises:
      DataError: if a row and the first row differ in their number of cells, or the file has no
        rows.
    """
    text = read_text(path)
    if delimiter is None:
        delimiter = "," if ".csv" in path.name.lower()[-7:] else "\t"
    delimiter = "\t" if delimiter in {"\\t", "tab"} else delimiter  # easy to type in a shell
    if len(delimiter) != 1 or delimiter in '\r\n"':
        msg = f"`delimiter` must be one character or `tab`, got {brief(delimiter)!r}."
        raise DataError(msg)
    rows = _split_tsv(text) if delimiter == "\t" else _parse_csv(text, delimiter, path)
    names = tuple(name.strip() for name in rows.pop(0)[1]) if header and rows else ()
    width = len(names) or (len(rows[0][1]) if rows else 0)
    short = [line for line, cells in rows if len(cells) < width] if skip_short else []
    if short:
        warn(f"{path}, line {short[0]}: has too few cells; rows skipped for this: {len(short)}.")
        rows = [row for row in rows if len(row[1]) >= width]
    if not rows:
        msg = f"{path}: has no rows."
        raise DataError(msg)
    for line, cells in rows:
        if len(cells) != width:
            msg = f"{path}, line {line}: must have {width} cells, got {len(cells)}."
            raise DataError(msg)
    return Rows(path, names, [cells for _, cells in rows], [line for line, _ in rows])


def _split_tsv(text: str) -> list[tuple[int, list[str]]]:
    text = text.rstrip("\r\n")  # ignore blank lines at the end, as the CSV reader does
    lines = text.split("\n") if text else []
    return [(i, line.removesuffix("\r").split("\t")) for i, line in enumerate(lines, start=1)]


def _parse_csv(text: str, delimiter: str, path: Path) -> list[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        msg = f"{path}, line {reader.line_num}: cannot be read as CSV: {reason(error)}."
        raise DataError(msg) from error


def to_indices(values: Sequence[str], classes: Sequence[str], where: Where) -> np.ndarray:
    """Returns the class index of each label, int32; raises DataError for unknown labels."""
    index = {name: i for i, name in enumerate(classes)}
    for row, value in enumerate(values):
        if value not in index:
            known = list_some(map(repr, classes), most=10)
            msg = f"{where(row)}: label {brief(value)!r} is unknown; the classes are {known}."
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
