"""Rows of tables in text files: TSV without quotes, CSV with them, compressed or not."""

import csv
import io
from pathlib import Path
from typing import NamedTuple

from tsam_jax.data._errors import DataError
from tsam_jax.data._files import decode_text, read_bytes

Column = str | int
"""A column by its name in the header, or by its index from 0."""


class Rows(NamedTuple):
    """The rows of a table.

    Attributes:
      path: the file.
      header: names of the columns; () for a file without header.
      cells: row -> its cells, all rows of the same length.
      lines: row -> the line of the file on which it ends, from 1.
    """

    path: Path
    header: tuple[str, ...]
    cells: list[list[str]]
    lines: list[int]

    def where(self, row: int) -> str:
        """What errors call a row."""
        return f"{self.path}, line {self.lines[row]}"

    def column(self, column: Column) -> list[str]:
        """The cells of a column.

        Args:
          column: name or index.

        Returns:
          One cell a row.

        Raises:
          DataError: if there is no such column.
        """
        width = len(self.cells[0])
        if isinstance(column, int) and 0 <= column < width:
            return [cells[column] for cells in self.cells]
        if column in self.header:
            index = self.header.index(str(column))
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
      path: the file, UTF-8; a last suffix ".gz" is decompressed.
      header: whether the first row names the columns.
      delimiter: between columns; None for a tab, or for a comma where the name says ".csv".
      skip_short: leave out rows with too few cells instead of refusing the file.

    Returns:
      The rows.

    Raises:
      DataError: if a row has another number of cells than the first, or there is none.
    """
    text = decode_text(read_bytes(path), path)
    if delimiter is None:
        delimiter = "," if ".csv" in path.suffixes[-2:] else "\t"
    rows = _tsv(text) if delimiter == "\t" else _csv(text, delimiter, path)
    if header:
        names, rows = tuple(rows[0][1]) if rows else (), rows[1:]
    else:
        names = ()
    if not rows:
        msg = f"{path}: has no rows."
        raise DataError(msg)
    width = len(names) or len(rows[0][1])
    if skip_short:
        rows = [row for row in rows if len(row[1]) >= width]
    for line, cells in rows:
        if len(cells) != width:
            msg = f"{path}, line {line}: has {len(cells)} columns instead of {width}."
            raise DataError(msg)
    return Rows(path, names, [cells for _, cells in rows], [line for line, _ in rows])


def _tsv(text: str) -> list[tuple[int, list[str]]]:
    lines = text.removesuffix("\n").split("\n") if text else []
    return [(i, line.removesuffix("\r").split("\t")) for i, line in enumerate(lines, start=1)]


def _csv(text: str, delimiter: str, path: Path) -> list[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        msg = f"{path}, line {reader.line_num}: is no CSV: {error}."
        raise DataError(msg) from error
