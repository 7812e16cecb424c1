"""Handwritten digits: 1,797 real images of 8 x 8 pixels, shipped with scikit-learn.

Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository, 1998; its test part, as in `sklearn.datasets.load_digits`.
"""

import numpy as np

from tsam_jax.data._errors import DataError
from tsam_jax.data.splits import Source, Splits, array_records, cut, read_splits

NUM_IMAGES = 1797


def open_source(location: str = "") -> Source:
    """Open "digits": by default 1,000 training, 297 validation and 500 test images.

    Args:
      location: must be empty; the images come with scikit-learn.

    Returns:
      The source, of kind "vector", with inputs of shape (64,) in 0..1.

    Raises:
      DataError: if a location is given.
    """
    from sklearn.datasets import load_digits

    if location:
        msg = f"`digits` takes no path, got {location!r}."
        raise DataError(msg)
    images, labels = load_digits(return_X_y=True)
    records = array_records((images / 16).astype(np.float32), labels.astype(np.int32))
    return Source(
        "digits",
        {"train": records},
        10,
        tuple("0123456789"),
        kind="vector",
        sizes={"validation": 297, "test": 500},
    )


def load(*, train_size: int = 1000, validation_size: int = 297, split_seed: int = 0) -> Splits:
    """Load the digits, shuffled and split into three parts; the test part gets the remainder.

    Args:
      train_size: training images, >= 1.
      validation_size: validation images, >= 1.
      split_seed: seed of the shuffle before the split.

    Returns:
      `Splits` with 10 classes and inputs of shape (n, 64) in 0..1.

    Raises:
      ValueError: if no image is left for the test part, or a part is empty.

    Cost: none in gradient evaluations; no download.

    Example:
      >>> splits = load()
      >>> splits.train.inputs.shape, splits.test.labels.shape
      ((1000, 64), (500,))
    """
    if min(train_size, validation_size) < 1 or train_size + validation_size >= NUM_IMAGES:
        msg = (
            f"`train_size` and `validation_size` must be positive and add up to less than"
            f" {NUM_IMAGES}, got {train_size} and {validation_size}."
        )
        raise ValueError(msg)
    test = NUM_IMAGES - train_size - validation_size
    source = open_source()
    return read_splits(cut(source, validation=validation_size, test=test, split_seed=split_seed))
