"""A table of sentences: TSV or CSV, one or two columns of text and one of labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tsam_jax.data._read import Column, DataError, Rows, Where, read_rows, to_indices
from tsam_jax.data.splits import Source
from tsam_jax.data.tokens import Text, text_records

STEMS = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
SUFFIXES = (".tsv", ".csv", ".txt", ".tsv.gz", ".csv.gz", ".txt.gz")


def open_source(
    location: str,
    *,
    text: Column | Sequence[Column] = "sentence",
    label: Column = "label",
    header: bool = True,
    delimiter: str | None = None,
    classes: Sequence[str] | None = None,
    regression: bool = False,
    **tokenization: Any,
) -> Source:
    """Opens "table:PATH".

    Args:
      location: a file, from which all parts are carved; or a folder with a train file and
        optional validation (or valid, val, dev) and test files. With a validation file and no
        test file, the validation file is the test part.
      text: the column of sentences, or two for pairs; names, or indices from 0.
      label: the column of labels.
      header: whether the first row has the columns' names.
      delimiter: between columns; defaults to a tab, or to a comma for ".csv".
      classes: names of the classes in the order of their labels; defaults to the labels in
        train, in numerical or alphabetical order.
      regression: whether the labels are numbers.
      **tokenization: as in `text_records`: `vocab`, `max_length`, `lowercase`, `pad_to_longest`.

    Returns:
      The source, of kind "text".

    Raises:
      DataError: if there is no training file, or a label in train is unknown.
    """
    files = _find(Path(location))
    columns = [text] if isinstance(text, (str, int)) else list(text)
    if len(columns) not in {1, 2}:
        msg = f"`text` must name one column, or two for pairs, got {text!r}."
        raise DataError(msg)
    parts = {
        part: read_rows(path, header=header, delimiter=delimiter) for part, path in files.items()
    }
    if not regression and classes is None:
        classes = _find_classes(parts["train"].column(label))
    chosen = None if regression else classes
    return rows_source(f"table:{location}", parts, columns, label, chosen, **tokenization)


def rows_source(
    name: str,
    parts: Mapping[str, Rows],
    columns: Sequence[Column],
    label: Column,
    classes: Sequence[str] | None,
    **tokenization: Any,
) -> Source:
    """Makes a source of kind "text" of each part's rows; no `classes` for regression."""

    def read(rows: Rows) -> Text:
        values = rows.column(label)
        if classes is None:
            labels = _to_numbers(values, rows.where)
        else:
            labels = to_indices(values, classes, rows.where)
        return Text([rows.column(column) for column in columns], labels)

    texts = {part: read(rows) for part, rows in parts.items()}
    records, vocab_size = text_records(texts, **tokenization)
    return Source(
        name,
        records,
        None if classes is None else len(classes),
        tuple(classes or ()),
        kind="text",
        vocab_size=vocab_size,
    )


def _find_classes(values: Sequence[str]) -> tuple[str, ...]:
    """The classes that occur, in the order of their numbers or of the alphabet."""
    classes = set(values)
    whole = all(value.isascii() and value.isdecimal() for value in classes)
    return tuple(sorted(classes, key=int if whole else None))


def _to_numbers(values: Sequence[str], where: Where) -> np.ndarray:
    numbers = np.empty(len(values), np.float32)
    for row, value in enumerate(values):
        try:
            numbers[row] = float(value)
        except ValueError:
            numbers[row] = np.nan
        if not np.isfinite(numbers[row]):
            msg = f"{where(row)}: label {value!r} is no finite number, as regression needs it."
            raise DataError(msg)
    return numbers


def _find(path: Path) -> dict[str, Path]:
    """Part -> its file."""
    if path.is_file():
        return {"train": path}
    names = {part: [s + x for s in stems for x in SUFFIXES] for part, stems in STEMS.items()}
    found = {
        part: [path / name for name in candidates if (path / name).is_file()]
        for part, candidates in names.items()
    }
    several = [paths for paths in found.values() if len(paths) > 1]
    if several:
        msg = f"{path}: has {' and '.join(p.name for p in several[0])}; keep one of them."
        raise DataError(msg)
    if not found["train"]:
        msg = f"{path}: is neither a table nor a folder with one, such as train.tsv or train.csv."
        raise DataError(msg)
    return {part: paths[0] for part, paths in found.items() if paths}
