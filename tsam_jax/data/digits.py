"""Handwritten digits: 1,797 real images of 8 x 8 pixels, shipped with scikit-learn.

Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository, 1998; here its test part, as `sklearn.datasets.load_digits` has it.
"""

import numpy as np

from tsam_jax.data._splits import Examples, Splits

NUM_IMAGES = 1797


def load(*, train_size: int = 1000, validation_size: int = 297, split_seed: int = 0) -> Splits:
    """Loads the digits, shuffled and cut into three parts; what is left is the test part.

    Args:
      train_size: training images, >= 1.
      validation_size: validation images, >= 1.
      split_seed: seed of the shuffle before the cut.

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
    from sklearn.datasets import load_digits

    if min(train_size, validation_size) < 1 or train_size + validation_size >= NUM_IMAGES:
        msg = (
            f"`train_size` and `validation_size` must be positive and leave test images of the"
            f" {NUM_IMAGES} there are, got {train_size} and {validation_size}."
        )
        raise ValueError(msg)
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(split_seed).permutation(NUM_IMAGES)
    inputs = (images[order] / 16).astype(np.float32)
    labels = labels[order].astype(np.int32)
    cuts = [train_size, train_size + validation_size]
    parts = zip(np.split(inputs, cuts), np.split(labels, cuts), strict=True)
    train, validation, test = (Examples(*part) for part in parts)
    return Splits(train, validation, test, num_classes=10)
