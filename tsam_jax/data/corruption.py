"""Label noise."""

import numpy as np


def corrupt_labels(
    labels: np.ndarray, *, fraction: float, num_classes: int, seed: int
) -> np.ndarray:
    """Replaces a fraction of the labels by other labels, drawn uniformly.

    round(fraction * n) labels are chosen without replacement, and each becomes one of the
    num_classes - 1 other classes.

    Args:
      labels: shape (n,), integers in 0..num_classes - 1.
      fraction: share of the labels to replace, between 0 and 1.
      num_classes: number of classes, >= 2.
      seed: seed of the choice and of the new labels.

    Returns:
      Shape (n,), dtype of `labels`; the argument is not changed.

    Raises:
      ValueError: if `fraction` is not between 0 and 1, or `num_classes` < 2.

    Cost: none in gradient evaluations.

    Example:
      >>> clean = np.zeros(10, int)
      >>> noisy = corrupt_labels(clean, fraction=0.4, num_classes=3, seed=0)
      >>> int((noisy != clean).sum())
      4

    Source: Li et al., "Tilted Sharpness-Aware Minimization", ICML 2025, Section 5: labels changed
    "to other labels". The official code draws from all classes, the true one included, so that
    its rate of wrong labels is lower than stated.
    """
    if not 0 <= fraction <= 1:
        msg = f"`corrupt_labels(fraction=...)` must be between 0 and 1, got {fraction!r}."
        raise ValueError(msg)
    if num_classes < 2:
        msg = f"`corrupt_labels(num_classes=...)` must be at least 2, got {num_classes!r}."
        raise ValueError(msg)
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(labels), size=round(fraction * len(labels)), replace=False)
    noisy = labels.copy()
    shift = rng.integers(1, num_classes, size=len(chosen), dtype=labels.dtype)
    noisy[chosen] = (labels[chosen] + shift) % num_classes
    return noisy
