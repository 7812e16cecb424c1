"""What every data set gives: labelled examples in three explicit parts."""

from typing import NamedTuple

import numpy as np


class Examples(NamedTuple):
    """Labelled examples.

    Attributes:
      inputs: shape (n, ...), float32.
      labels: shape (n,), int32, in 0..num_classes - 1.
    """

    inputs: np.ndarray
    labels: np.ndarray


class Splits(NamedTuple):
    """A data set in three parts without overlap.

    Attributes:
      train: what is trained on; its labels may be corrupted later.
      validation: what settings are chosen on.
      test: what is reported; nothing is ever chosen on it.
      num_classes: number of classes.
    """

    train: Examples
    validation: Examples
    test: Examples
    num_classes: int
