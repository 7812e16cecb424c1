"""Data sets in three parts: those of their files, those carved from train, and subsets."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from tsam_jax.data._errors import DataError
from tsam_jax.data.augmentation import channel_statistics

Kind = Literal["image", "text", "vector"]
PARTS = ("train", "validation", "test")

Size = int | float
"""Size of a part: a number of examples, or, as a float, a fraction between 0 and 1."""

FRACTION = 0.1
"""Size of a carved part if neither the caller nor the source gives one."""


class Examples(NamedTuple):
    """Labelled examples, in memory.

    Attributes:
      inputs: images of shape (n, height, width, channels), uint8 or float32 in 0..1; vectors of
        shape (n, features), float32; or, for text, a dict of "token_ids", "attention_mask" and
        "token_type_ids", shape (n, length) each, int32.
      labels: shape (n,), int32 in 0..num_classes - 1; float32 for regression.
    """

    inputs: Any
    labels: np.ndarray


class Records(NamedTuple):
    """Labelled examples whose inputs are read on demand.

    Attributes:
      labels: as in `Examples`.
      read: indices, shape (k,), integers in 0..n - 1 -> inputs of these k examples, as in
        `Examples`.
    """

    labels: np.ndarray
    read: Callable[[np.ndarray], Any]


class Splits(NamedTuple):
    """A data set in three disjoint parts.

    Attributes:
      train: training examples; label noise may replace their labels.
      validation: examples for choosing settings.
      test: examples for reporting; never choose anything on them.
      num_classes: number of classes; None for regression.
      class_names: name of each class; () if the classes have no names.
      kind: what the inputs are.
      mean: mean of each channel of the training images, pixels in 0..1; () for other kinds.
      std: standard deviation of each channel, as `mean`; 1 for a constant channel.
      vocab_size: entries of the vocabulary of a text; None for other kinds.
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
    """A data set in the parts that its files have; other fields as in `Splits`.

    Attributes:
      name: the name in errors.
      parts: "train" and any other of `PARTS`. A validation part without a test part becomes the
        test part: it is what others report, so nothing may be chosen on it.
      sizes: size of each part that is carved from train; a tenth for a part without an entry.
    """

    name: str
    parts: Mapping[str, Records]
    num_classes: int | None
    class_names: tuple[str, ...] = ()
    kind: Kind = "image"
    vocab_size: int | None = None
    sizes: Mapping[str, Size] = {}


def array_records(inputs: np.ndarray, labels: np.ndarray) -> Records:
    """Makes records of inputs in memory."""
    return Records(labels, lambda rows: inputs[rows])


def read_splits(splits: OpenSplits) -> Splits:
    """Reads all inputs into memory.

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
                f"The {part} part has inputs of shape {inputs.shape[1:]}, {inputs.dtype}, and the"
                f" training part of {train.shape[1:]}, {train.dtype}. For images, give `size=` a"
                " number of pixels to resize all to."
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
    """Carves the parts that a source lacks from its training part, and takes subsets.

    A seeded permutation orders the training part: its end becomes the test part, the examples
    before that the validation part. A subset is the beginning of a part. So a smaller subset is
    part of a larger one, and no subset changes another part. Arguments as in `load`.

    Returns:
      The data set in its three parts.

    Raises:
      DataError: if a size is impossible, or is given for a part that the source has.
    """
    parts = dict(source.parts)
    if "test" not in parts and "validation" in parts:
        parts["test"] = parts.pop("validation")
    whole = parts["train"]
    if stratified and source.num_classes is None:
        msg = f"{source.name}: `stratified` needs classes, and this is regression."
        raise DataError(msg)
    carved = {}
    for part, size in (("test", test), ("validation", validation)):
        if part not in parts:
            carved[part] = _count(source, part, size, len(whole.labels))
        elif size is not None:
            msg = (
                f"{source.name}: `{part}` is for sources without such a part, and this one has it,"
                f" got {size}. Use `subset={{{part!r}: ...}}` for fewer examples."
            )
            raise DataError(msg)
    if sum(carved.values()) >= len(whole.labels):
        msg = (
            f"{source.name}: `validation` and `test` must leave training examples of the"
            f" {len(whole.labels)} there are, got {carved}."
        )
        raise DataError(msg)

    def shuffled(labels: np.ndarray) -> np.ndarray:
        rows = np.random.default_rng(split_seed).permutation(len(labels))
        return _balanced(rows, labels) if stratified else rows

    rows = shuffled(whole.labels)
    for part, count in carved.items():  # from the end
        rows, last = np.split(rows, [len(rows) - count])
        parts[part] = _select(whole, last)
    parts["train"] = _select(whole, rows)

    for part, size in _kept(source.name, subset).items():
        labels = parts[part].labels
        if size > len(labels):
            msg = f"{source.name}: `subset` asks for {size} of {len(labels)} in {part}."
            raise DataError(msg)
        # the other parts stay in the order of their files
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
    """The number of examples to carve for a part, of n."""
    if size is None:
        size = source.sizes.get(part, max(1, round(FRACTION * n)))
    count = round(size * n) if isinstance(size, float) and 0 < size < 1 else size
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count < n:
        msg = (
            f"{source.name}: `{part}` must be a number of examples, 1 to {n - 1}, or a fraction"
            f" between 0 and 1 that is not empty, got {size!r}."
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
    """Reorders the rows so that a run from either end has the class frequencies of the whole."""
    position = np.empty(len(rows))
    for label in np.unique(labels):
        mine = np.flatnonzero(labels[rows] == label)
        position[mine] = (np.arange(len(mine)) + 0.5) / len(mine)
    return rows[np.argsort(position, kind="stable")]


def _select(records: Records, rows: np.ndarray) -> Records:
    return Records(records.labels[rows], lambda chosen: records.read(rows[chosen]))
