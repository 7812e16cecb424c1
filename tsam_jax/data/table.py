"""Sentences in a TSV or CSV table: one or two columns of text and one of labels."""

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tsam_jax.data._errors import DataError, brief, list_some, warn
from tsam_jax.data._parts import like_part, part_of
from tsam_jax.data._tables import Column, Rows, Where, read_rows, to_indices
from tsam_jax.data.splits import Source
from tsam_jax.data.tokens import Text, text_records

SUFFIX = re.compile(r"\.(tsv|csv|txt)(\.gz)?$", re.IGNORECASE)

MISSING = {
    "#N/A", "#NA", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null", "-nan", "-NaN",
}  # fmt: skip
"""Strings that programs write for a missing label: the default `na_values` of pandas.read_csv."""

FEW = 20
"""With at least this many rows, labels that are all different are taken for a mistake."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_LARGEST = float(np.finfo(np.float32).max)


def open_source(
    location: str,
    *,
    text: Column | Sequence[Column] = "sentence",
    label: Column = "label",
    header: bool = True,
    delimiter: str | None = None,
    classes: Sequence[str] | None = None,
    regression: bool | None = None,
    **tokenization: Any,
) -> Source:
    """Open "table:PATH".

    Args:
      location: a file, from which all parts are carved; or a folder with a train file and
        optional validation (or valid, val, dev) and test files. The case of file names does not
        matter. If there is a validation file but no test file, the validation file is the test
        part.
      text: the column of sentences, or two columns for pairs, by name or by index from 0.
      label: the column of labels; surrounding blanks are removed. Rows without a label are skipped,
        with a warning.
      header: whether the first row names the columns.
      delimiter: column delimiter, one character or "tab"; defaults to a comma for ".csv" files, and
        to a tab for others.
      classes: names of the classes, in order; defaults to the labels in train, in numerical or
        alphabetical order.
      regression: whether the labels are numbers rather than classes; defaults to True if all labels
        in train are numbers and at least one is not an integer.
      **tokenization: as in `text_records`: `vocab`, `max_length`, `lowercase`, `pad_to_longest`.

    Returns:
      The source, of kind "text".

    Raises:
      DataError: if there is no training file, a label does not occur in train, or a label such as
        "nan" may stand for a missing one and is not in `classes`.
    """
    files = _find(Path(location))
    columns = [text] if isinstance(text, (str, int)) else list(text)
    if len(columns) not in {1, 2}:
        msg = f"`text` must be one column, or two for pairs, got {text!r}."
        raise DataError(msg)
    parts = {
        part: read_rows(path, header=header, delimiter=delimiter) for part, path in files.items()
    }
    if classes is not None and regression:
        msg = "`classes` and `regression` exclude each other; pass only one of them."
        raise DataError(msg)
    if not regression and classes is None:
        classes = _find_classes(parts["train"], label, regression=regression)
    return rows_source(f"table:{location}", parts, columns, label, classes, **tokenization)


def rows_source(
    name: str,
    parts: Mapping[str, Rows],
    columns: Sequence[Column],
    label: Column,
    classes: Sequence[str] | None,
    **tokenization: Any,
) -> Source:
    """Make a source of kind "text" from each part's rows; `classes` is None for regression."""

    def read(rows: Rows) -> Text:
        rows = _labelled(rows, label)
        values = _labels(rows, label)
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


def _labels(rows: Rows, label: Column) -> list[str]:
    return [value.strip() for value in rows.column(label)]


def _labelled(rows: Rows, label: Column) -> Rows:
    """Returns the rows with a label; a warning counts the others."""
    values = _labels(rows, label)
    kept = [i for i, value in enumerate(values) if value]
    if not kept:
        msg = f"{rows.path}: has no label in the column {brief(label)!r}."
        raise DataError(msg)
    if len(kept) == len(values):
        return rows
    first = next(i for i, value in enumerate(values) if not value)
    count = len(values) - len(kept)
    warn(f"{rows.where(first)}: has no label; rows skipped for this: {count} of {len(values)}.")
    return rows.keep(kept)


def _find_classes(rows: Rows, label: Column, *, regression: bool | None) -> tuple[str, ...] | None:
    """Returns the classes in numerical or alphabetical order; None if regression is inferred."""
    values = _labels(rows, label)
    classes = set(values) - {""}
    missing = [i for i, value in enumerate(values) if value in MISSING]
    if missing:
        msg = (
            f"{rows.where(missing[0])}: label {values[missing[0]]!r} may mean a missing label;"
            " remove the row, leave the cell empty, or list it in `classes` if it is a class."
        )
        raise DataError(msg)
    numbers = all(_NUMBER.fullmatch(name) for name in classes)
    if numbers and regression is None and not all(float(name).is_integer() for name in classes):
        return None
    if len(values) >= FEW and len(classes) == len(values):
        msg = (
            f"{rows.path}: has a different label in each of its {len(values)} rows; is"
            f" {brief(label)!r} the column of labels? For numbers, pass `regression=True`."
        )
        raise DataError(msg)
    if not numbers:
        _check_spelling(rows.path, classes, str.casefold, "differ only in case")
        return tuple(sorted(classes))
    _check_spelling(rows.path, classes, float, "are the same number")
    return tuple(sorted(classes, key=float))


def _check_spelling(
    path: Path, classes: Iterable[str], plain: Callable[[str], Hashable], words: str
) -> None:
    """Raises DataError for classes that are probably two spellings of one class."""
    times = Counter(map(plain, classes))
    for name in sorted(classes):
        if times[plain(name)] > 1:
            same = list_some(
                repr(other) for other in sorted(classes) if plain(other) == plain(name)
            )
            msg = f"{path}: the labels {same} {words}; use one spelling, or pass `classes`."
            raise DataError(msg)


def _to_numbers(values: Sequence[str], where: Where) -> np.ndarray:
    numbers = np.empty(len(values), np.float32)
    for row, value in enumerate(values):
        number = float(value) if _NUMBER.fullmatch(value) else np.inf
        if abs(number) > _LARGEST:
            msg = f"{where(row)}: label {brief(value)!r} must be a finite number for regression."
            raise DataError(msg)
        numbers[row] = number
    return numbers


def _find(path: Path) -> dict[str, Path]:
    """Maps each part to its file."""
    if path.is_file():
        return {"train": path}
    found: dict[str, list[Path]] = {}
    others = []
    for file in sorted(path.iterdir()) if path.is_dir() else []:
        stem = SUFFIX.sub("", file.name)
        if stem == file.name or not file.is_file():
            continue
        part = part_of(stem)
        if part is not None:
            found.setdefault(part, []).append(file)
        elif like_part(stem) is not None:
            others.append(file.name)
    several = [paths for paths in found.values() if len(paths) > 1]
    if several:
        msg = f"{path}: has {' and '.join(p.name for p in several[0])}; keep one of them."
        raise DataError(msg)
    if "train" not in found:
        msg = f"{path}: must be a table, or a folder with a table such as train.tsv or train.csv."
        raise DataError(msg)
    if others:
        warn(f"{path}: skipped tables whose names are not those of a part: {list_some(others)}.")
    return {part: paths[0] for part, paths in found.items()}
