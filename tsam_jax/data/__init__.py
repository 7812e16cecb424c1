"""Data sets: one file each, with `load(...) -> Splits`, and label corruption."""

from tsam_jax.data._splits import Examples, Splits
from tsam_jax.data.corruption import corrupt_labels

__all__ = ["Examples", "Splits", "corrupt_labels"]
