"""The three parts of a data set: what its files have, what is carved from train, and subsets."""

from collections.abc import Mapping

import numpy as np

from tsam_jax.data._errors import DataError
from tsam_jax.data._splits import PARTS, OpenSplits, Records, Source

Size = int | float
"""A number of examples, >= 1, or, as a float, a share between 0 and 1."""

SHARE = 0.1
"""What is carved for a part that the source does not have, where no size is given."""


def cut(
    source: Source,
    *,
    validation: Size | None = None,
    test: Size | None = None,
    split_seed: int = 0,
    stratified: bool = False,
    subset: int | Mapping[str, int] | None = None,
) -> OpenSplits:
    """Carves the parts that a source lacks from its training part, and takes subsets.

    The training part is put into a seeded order; its end becomes the test part, what is before
    that the validation part, and subsets are beginnings. So a smaller subset is a part of a
    larger one, and no subset changes the other parts.

    Args:
      source: the data set as its files have it.
      validation: size of the validation part; None for a tenth, or where the source has one.
      test: size of the test part; likewise.
      split_seed: seed of the order.
      stratified: whether each part and subset has the classes in the shares of the whole.
      subset: number of training examples that are kept, or such a number for each part by name.

    Returns:
      The data set in its three parts.

    Raises:
      DataError: if a size is impossible, or is given for a part that the source has.
    """
    parts = dict(source.parts)
    if "test" not in parts and "validation" in parts:
        parts["test"] = parts.pop("validation")
    labels = parts["train"].labels
    if stratified and source.num_classes is None:
        msg = f"{source.name}: `stratified` needs classes, and this is regression."
        raise DataError(msg)
    sizes = {
        part: _count(source.name, part, size, len(labels), given=part in parts)
        for part, size in (("validation", validation), ("test", test))
    }
    if sum(sizes.values()) >= len(labels):
        msg = (
            f"{source.name}: `validation` and `test` must leave training examples of the"
            f" {len(labels)} there are, got {sizes['validation']} and {sizes['test']}."
        )
        raise DataError(msg)

    def shuffled(labels: np.ndarray) -> np.ndarray:
        rows = np.random.default_rng(split_seed).permutation(len(labels))
        return _balanced(rows, labels) if stratified else rows

    whole, rows = parts["train"], shuffled(labels)
    for part in ("test", "validation"):  # from the end
        if part not in parts:
            rows, carved = np.split(rows, [len(rows) - sizes[part]])
            parts[part] = _select(whole, carved)
    parts["train"] = _select(whole, rows)

    for part, size in _kept(source.name, subset).items():
        records = parts[part]
        if size > len(records.labels):
            msg = f"{source.name}: `subset` asks for {size} of {len(records.labels)} in {part}."
            raise DataError(msg)
        # the other parts stay in the order of their files
        first = np.arange(size) if part == "train" else np.sort(shuffled(records.labels)[:size])
        parts[part] = _select(records, first)
    return OpenSplits(
        parts["train"],
        parts["validation"],
        parts["test"],
        source.num_classes,
        source.class_names,
        source.kind,
        source.vocab_size,
    )


def _count(name: str, part: str, size: Size | None, n: int, *, given: bool) -> int:
    """The number of examples to carve for a part, of n."""
    if given:
        if size is not None:
            msg = (
                f"{name}: `{part}` is for sources without such a part, and this one has it, got"
                f" {size}. Use `subset={{{part!r}: ...}}` for fewer examples."
            )
            raise DataError(msg)
        return 0
    size = max(1, round(SHARE * n)) if size is None else size
    count = round(size * n) if isinstance(size, float) and 0 < size < 1 else size
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count < n:
        msg = (
            f"{name}: `{part}` must be a number of examples, 1 to {n - 1}, or a share between 0"
            f" and 1 that is not empty, got {size!r}."
        )
        raise DataError(msg)
    return count


def _kept(name: str, subset: int | Mapping[str, int] | None) -> Mapping[str, int]:
    """Part -> number of examples to keep."""
    kept = {} if subset is None else {"train": subset} if isinstance(subset, int) else dict(subset)
    for part, size in kept.items():
        if part not in PARTS or isinstance(size, bool) or not isinstance(size, int) or size < 1:
            msg = (
                f"{name}: `subset` must be a positive number of training examples, or a"
                f" dict of such numbers for {', '.join(PARTS)}, got {subset!r}."
            )
            raise DataError(msg)
    return kept


def _balanced(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Reorders so that the classes come in their shares, from any beginning to any end."""
    position = np.empty(len(rows))
    for label in np.unique(labels):
        mine = np.flatnonzero(labels[rows] == label)
        position[mine] = (np.arange(len(mine)) + 0.5) / len(mine)
    return rows[np.argsort(position, kind="stable")]


def _select(records: Records, rows: np.ndarray) -> Records:
    return Records(records.labels[rows], lambda chosen: records.read(rows[chosen]))
