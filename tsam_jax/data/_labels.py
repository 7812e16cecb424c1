"""Labels as they are written into labels as they are learnt."""

from collections.abc import Callable, Sequence

import numpy as np

from tsam_jax.data._errors import DataError

Where = Callable[[int], str]


def find_classes(values: Sequence[str]) -> tuple[str, ...]:
    """The classes that occur, in the order of their numbers, or of the alphabet."""
    classes = set(values)
    whole = all(value.isascii() and value.isdecimal() for value in classes)
    return tuple(sorted(classes, key=int if whole else None))


def to_indices(values: Sequence[str], classes: Sequence[str], where: Where) -> np.ndarray:
    """The index of each label among the classes.

    Args:
      values: the labels.
      classes: what labels there are.
      where: row -> file and line, for the error.

    Returns:
      Shape (n,), int32.

    Raises:
      DataError: at the first label that is none of them.
    """
    index = {name: i for i, name in enumerate(classes)}
    for row, value in enumerate(values):
        if value not in index:
            known = ", ".join(map(repr, classes[:10])) + (", ..." if len(classes) > 10 else "")
            msg = f"{where(row)}: label {value!r} is unknown; the classes are {known}."
            raise DataError(msg)
    return np.array([index[value] for value in values], np.int32)


def to_numbers(values: Sequence[str], where: Where) -> np.ndarray:
    """The number that each label is.

    Args:
      values: the labels.
      where: row -> file and line, for the error.

    Returns:
      Shape (n,), float32.

    Raises:
      DataError: at the first label that is no finite number.
    """
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


def check_indices(labels: np.ndarray, num_classes: int, where: Where) -> np.ndarray:
    """Refuses labels outside 0..num_classes - 1.

    Args:
      labels: shape (n,), integers.
      num_classes: number of classes.
      where: row -> what errors call it.

    Returns:
      `labels` as int32.

    Raises:
      DataError: at the first such label.
    """
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        msg = (
            f"{where(int(wrong[0]))}: label {labels[wrong[0]]} is unknown; the classes are"
            f" 0 to {num_classes - 1}."
        )
        raise DataError(msg)
    return labels.astype(np.int32)
