"""Data sets as training, validation and test parts; carving of missing parts, and subsets."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from tsam_jax.data._errors import DataError
from tsam_jax.data.augmentation import channel_statistics

Kind = Literal["image", "text", "vector"]
PARTS = ("train", "validation", "test")

Size = int | float
"""Size of a part: a number of examples (int) or a fraction between 0 and 1 (float)."""

FRACTION = 0.1
"""Default size of a carved part, as a fraction of the training part."""


class Examples(NamedTuple):
    """Labelled examples, in memory.

    Attributes:
      inputs: images of shape (n, height, width, channels), uint8 or float32 in 0..1; vectors of
        shape (n, features), float32; or, for text, a dict with "token_ids", "attention_mask" and
        "token_type_ids", each int32 of shape (n, length).
      labels: shape (n,), int32 in 0..num_classes - 1; float32 for regression.
    """

    inputs: Any
    labels: np.ndarray


class Records(NamedTuple):
    """Labelled examples whose inputs are read on demand.

    Attributes:
      labels: as in `Examples`.
      read: maps indices, integers in 0..n - 1 of shape (k,), to the inputs of these k examples, as
        in `Examples`.
    """

    labels: np.ndarray
    read: Callable[[np.ndarray], Any]


class Splits(NamedTuple):
    """A data set in three disjoint parts.

    Attributes:
      train: training examples; label noise may replace their labels.
      validation: examples for choosing settings.
      test: examples for the reported result; choose nothing on them.
      num_classes: number of classes; None for regression.
      class_names: name of each class; () if the classes have no names.
      kind: kind of the inputs.
      mean: mean of each channel of the training images, with pixels in 0..1; () for other kinds.
      std: standard deviation of each channel, likewise; 1 for a constant channel.
      vocab_size: size of the vocabulary, for text; None for other kinds.
    """

    train: Examples
    validation: Examples
    test: Examples
    num_classes: int | None
    class_names: tuple[str, ...] = ()
    kind: Kind = "image"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    vocab_size: int | None = None


class OpenSplits(NamedTuple):
    """A data set in three disjoint parts whose inputs are read on demand; fields as in `Splits`."""

    train: Records
    validation: Records
    test: Records
    num_classes: int | None
    class_names: tuple[str, ...] = ()
    kind: Kind = "image"
    vocab_size: int | None = None


class Source(NamedTuple):
    """A data set with the parts that its files have; other fields as in `Splits`.

    Attributes:
      name: name of the data set in errors.
      parts: "train" and any others of `PARTS`. A validation part without a test part becomes the
        test part: others report results on it, so nothing may be chosen on it.
      sizes: default size of each carved part; `FRACTION` for a part without an entry.
    """

    name: str
    parts: Mapping[str, Records]
    num_classes: int | None
    class_names: tuple[str, ...] = ()
    kind: Kind = "image"
    vocab_size: int | None = None
    sizes: Mapping[str, Size] = {}


def array_records(inputs: np.ndarray, labels: np.ndarray) -> Records:
    """Make records of inputs that are in memory."""
    return Records(labels, lambda rows: inputs[rows])


def read_splits(splits: OpenSplits) -> Splits:
    """Read all inputs into memory.

    Args:
      splits: the data set.

    Returns:
      The data set, in memory.

    Raises:
      DataError: if an input cannot be read, or the inputs of two parts differ in shape or dtype.

    Example:
      >>> part = array_records(np.zeros((2, 8, 8, 3), np.uint8), np.array([0, 1], np.int32))
      >>> read_splits(OpenSplits(part, part, part, num_classes=2)).mean
      (0.0, 0.0, 0.0)
    """
    fields = splits._asdict()
    for part in PARTS:
        labels, read = fields[part]
        fields[part] = Examples(read(np.arange(len(labels))), labels)
    if splits.kind != "text":
        _check_same(fields)
    if splits.kind == "image":
        fields["mean"], fields["std"] = channel_statistics(fields["train"].inputs)
    return Splits(**fields)


def _check_same(parts: Mapping[str, Any]) -> None:
    """Raises DataError if the inputs of two parts differ in shape or dtype."""
    train = parts["train"].inputs
    for part in PARTS[1:]:
        inputs = parts[part].inputs
        if inputs.shape[1:] != train.shape[1:] or inputs.dtype != train.dtype:
            msg = (
                f"The {part} part has inputs of shape {inputs.shape[1:]}, {inputs.dtype}, but the"
                f" training part of {train.shape[1:]}, {train.dtype}. To resize all images, pass"
                " `size=`, in pixels."
            )
            raise DataError(msg)


def cut(
    source: Source,
    *,
    validation: Size | None = None,
    test: Size | None = None,
    split_seed: int = 0,
    stratified: bool = False,
    subset: int | Mapping[str, int] | None = None,
) -> OpenSplits:
    """Carve the parts that a source lacks from its training part, then take subsets.

    The training part is put in a seeded random order. Its last examples become the test part, and
    the ones before them the validation part. A subset is the beginning of a part, so larger subsets
    contain smaller ones, and the subset of one part does not affect the others. The arguments are
    those of `load`.

    Returns:
      The data set in its three parts.

    Raises:
      DataError: if a size is impossible, or is given for a part that the source already has.
    """
    parts = dict(source.parts)
    if "test" not in parts and "validation" in parts:
        parts["test"] = parts.pop("validation")
    whole = parts["train"]
    if stratified and source.num_classes is None:
        msg = f"{source.name}: `stratified` needs classes, but this is regression."
        raise DataError(msg)
    carved = {}
    for part, size in (("test", test), ("validation", validation)):
        if part not in parts:
            carved[part] = _count(source, part, size, len(whole.labels))
        elif size is not None:
            msg = (
                f"{source.name}: `{part}` sets the size of a carved part, but this source has its"
                f" own {part} part, got {size}. Use `subset={{{part!r}: ...}}` for fewer examples."
            )
            raise DataError(msg)
    if sum(carved.values()) >= len(whole.labels):
        msg = (
            f"{source.name}: `validation` and `test` must add up to less than the"
            f" {len(whole.labels)} examples to carve from, got {carved}."
        )
        raise DataError(msg)

    def shuffled(labels: np.ndarray) -> np.ndarray:
        rows = np.random.default_rng(split_seed).permutation(len(labels))
        return _balanced(rows, labels) if stratified else rows

    rows = shuffled(whole.labels)
    for part, count in carved.items():
        rows, last = np.split(rows, [len(rows) - count])
        parts[part] = _select(whole, last)
    parts["train"] = _select(whole, rows)

    for part, size in _kept(source.name, subset).items():
        labels = parts[part].labels
        if size > len(labels):
            msg = (
                f"{source.name}: `subset` must be at most {len(labels)} for the {part} part, got"
                f" {size}."
            )
            raise DataError(msg)
        # The training part is already in random order; the others stay in file order.
        first = np.arange(size) if part == "train" else np.sort(shuffled(labels)[:size])
        parts[part] = _select(parts[part], first)
    return OpenSplits(
        **parts,
        num_classes=source.num_classes,
        class_names=source.class_names,
        kind=source.kind,
        vocab_size=source.vocab_size,
    )


def _count(source: Source, part: str, size: Size | None, n: int) -> int:
    """Returns the number of examples to carve for a part, out of n."""
    if size is None:
        size = source.sizes.get(part, max(1, round(FRACTION * n)))
    count = round(size * n) if isinstance(size, float) and 0 < size < 1 else size
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count < n:
        msg = (
            f"{source.name}: `{part}` must be a number of examples from 1 to {n - 1}, or a fraction"
            f" between 0 and 1 that amounts to at least one example, got {size!r}."
        )
        raise DataError(msg)
    return count


def _kept(name: str, subset: int | Mapping[str, int] | None) -> Mapping[str, int]:
    """Maps parts to the number of examples to keep."""
    kept = {} if subset is None else {"train": subset} if isinstance(subset, int) else dict(subset)
    for part, size in kept.items():
        if part not in PARTS or isinstance(size, bool) or not isinstance(size, int) or size < 1:
            msg = (
                f"{name}: `subset` must be a positive number of training examples, or a"
                f" dict from {', '.join(PARTS)} to such numbers, got {subset!r}."
            )
            raise DataError(msg)
    return kept


def _balanced(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Reorders rows so that any run from either end has the class frequencies of the whole."""
    position = np.empty(len(rows))
    for label in np.unique(labels):
        mine = np.flatnonzero(labels[rows] == label)
        position[mine] = (np.arange(len(mine)) + 0.5) / len(mine)
    return rows[np.argsort(position, kind="stable")]


def _select(records: Records, rows: np.ndarray) -> Records:
    return Records(records.labels[rows], lambda chosen: records.read(rows[chosen]))
