"""What every data set gives: labelled examples in three explicit parts."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from tsam_jax.data.augmentation import channel_statistics

Kind = Literal["image", "text", "vector"]
PARTS = ("train", "validation", "test")


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
    """Labelled examples whose inputs are read when they are asked for.

    Attributes:
      labels: as in `Examples`.
      read: indices, shape (k,), integers in 0..n - 1 -> inputs of these k examples, as in
        `Examples`.
    """

    labels: np.ndarray
    read: Callable[[np.ndarray], Any]


class Splits(NamedTuple):
    """A data set in three parts without overlap.

    Attributes:
      train: what is trained on; its labels may be corrupted later.
      validation: what settings are chosen on.
      test: what is reported; nothing is ever chosen on it.
      num_classes: number of classes; None for regression.
      class_names: name of each class; () where there are none.
      kind: what the inputs are.
      mean: mean of each channel of the training images, pixels in 0..1; () for other kinds.
      std: standard deviation of each channel, as `mean`.
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
    """A data set in three parts without overlap, whose inputs are not read yet.

    Attributes:
      train: as in `Splits`, and so are the rest.
      validation: what settings are chosen on.
      test: what is reported.
      num_classes: number of classes; None for regression.
      class_names: name of each class.
      kind: what the inputs are.
      vocab_size: entries of the vocabulary.
    """

    train: Records
    validation: Records
    test: Records
    num_classes: int | None
    class_names: tuple[str, ...] = ()
    kind: Kind = "image"
    vocab_size: int | None = None


class Source(NamedTuple):
    """A data set in the parts that its files have.

    Attributes:
      name: what errors call it.
      parts: "train", and what else there is of `PARTS`. A validation part without a test part is
        the test part in the end: it is what others report, so that nothing may be chosen on it.
      num_classes: as in `Splits`, and so are the rest.
      class_names: name of each class.
      kind: what the inputs are.
      vocab_size: entries of the vocabulary.
    """

    name: str
    parts: Mapping[str, Records]
    num_classes: int | None
    class_names: tuple[str, ...] = ()
    kind: Kind = "image"
    vocab_size: int | None = None


def array_records(inputs: np.ndarray, labels: np.ndarray) -> Records:
    """Records of inputs that are in memory."""
    return Records(labels, lambda rows: inputs[rows])


def read_splits(splits: OpenSplits) -> Splits:
    """Reads all inputs.

    Args:
      splits: the data set.

    Returns:
      The data set, in memory.

    Example:
      >>> part = array_records(np.zeros((2, 8, 8, 3), np.uint8), np.array([0, 1], np.int32))
      >>> read_splits(OpenSplits(part, part, part, num_classes=2)).mean
      (0.0, 0.0, 0.0)
    """
    train, validation, test = (
        Examples(records.read(np.arange(len(records.labels))), records.labels)
        for records in (splits.train, splits.validation, splits.test)
    )
    mean, std = channel_statistics(train.inputs) if splits.kind == "image" else ((), ())
    return Splits(
        train,
        validation,
        test,
        splits.num_classes,
        splits.class_names,
        splits.kind,
        mean,
        std,
        splits.vocab_size,
    )
