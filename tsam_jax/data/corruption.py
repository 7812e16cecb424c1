"""Symmetric label noise, as the paper describes it and as the official code draws it."""

from collections.abc import Callable

import numpy as np


def corrupt_labels(
    labels: np.ndarray, *, fraction: float, num_classes: int | None, seed: int
) -> np.ndarray:
    """Replace a fraction of the labels with other labels, drawn uniformly.

    Chooses round(fraction * n) labels without replacement; each becomes one of the
    num_classes - 1 other classes.

    Args:
      labels: shape (n,), integers in 0..num_classes - 1.
      fraction: fraction of the labels to replace, between 0 and 1.
      num_classes: number of classes, >= 2; None, for regression, raises an error.
      seed: seed of the choice and of the new labels.

    Returns:
      Shape (n,), dtype of `labels`; the argument is not changed.

    Raises:
      ValueError: if `fraction` is not between 0 and 1, or there are fewer than 2 classes.

    Cost: none in gradient evaluations.

    Example:
      >>> clean = np.zeros(10, int)
      >>> noisy = corrupt_labels(clean, fraction=0.4, num_classes=3, seed=0)
      >>> int((noisy != clean).sum())
      4

    Source: Li et al., "Tilted Sharpness-Aware Minimization", ICML 2025, Section 5: labels changed
    "to other labels". The official code draws labels differently; see `redraw_labels`.
    """
    classes = _checked("corrupt_labels", fraction, num_classes)
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(labels), size=round(fraction * len(labels)), replace=False)
    noisy = labels.copy()
    shift = rng.integers(1, classes, size=len(chosen), dtype=labels.dtype)
    noisy[chosen] = (labels[chosen] + shift) % classes
    return noisy


def redraw_labels(
    labels: np.ndarray, *, fraction: float, num_classes: int | None, seed: int = 12345
) -> np.ndarray:
    """Redraw each label from all classes with probability `fraction`, as the official code does.

    A redrawn label may be the true one, so the expected fraction of wrong labels is
    fraction (1 - 1 / num_classes). The number of redrawn labels is random.

    Args:
      labels: shape (n,), integers in 0..num_classes - 1.
      fraction: probability that a label is redrawn, between 0 and 1.
      num_classes: number of classes, >= 2; None, for regression, raises an error.
      seed: seed of NumPy's legacy generator; the default is the official code's.

    Returns:
      Shape (n,), dtype of `labels`; the argument is not changed.

    Raises:
      ValueError: if `fraction` is not between 0 and 1, or there are fewer than 2 classes.

    Cost: none in gradient evaluations.

    Example:
      >>> redraw_labels(np.zeros(8, int), fraction=0.5, num_classes=3).tolist()
      [0, 1, 2, 0, 0, 0, 0, 0]

    Source: github.com/litian96/TSAM, `image/data/cifar100.py`. With the same seed and order of
    examples, the labels are identical. With 100 classes and fraction 0.2, 19.8 % are wrong.
    """
    classes = _checked("redraw_labels", fraction, num_classes)
    rng = np.random.RandomState(seed)
    redrawn = rng.rand(len(labels)) < fraction
    noisy = labels.copy()
    noisy[redrawn] = rng.choice(classes, redrawn.sum())
    return noisy


LABEL_NOISE: dict[str, Callable[..., np.ndarray]] = {
    "other-labels": corrupt_labels,
    "official": redraw_labels,
}
"""Label-noise laws by name; all take (labels, *, fraction, num_classes, seed)."""


def _checked(owner: str, fraction: float, num_classes: int | None) -> int:
    """Returns the number of classes; raises ValueError for invalid arguments."""
    if not 0 <= fraction <= 1:
        msg = f"`{owner}(fraction=...)` must be between 0 and 1, got {fraction!r}."
        raise ValueError(msg)
    if num_classes is None or num_classes < 2:
        msg = f"`{owner}(num_classes=...)` must be at least 2, got {num_classes!r}."
        raise ValueError(msg)
    return num_classes
