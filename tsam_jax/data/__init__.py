"""Data sets by name (one kind per module), label noise, augmentation on the device, streaming."""

from tsam_jax.data import augmentation, streaming
from tsam_jax.data._errors import DataError, DataWarning
from tsam_jax.data.corruption import LABEL_NOISE, corrupt_labels, redraw_labels
from tsam_jax.data.registry import SOURCES, load, open_splits
from tsam_jax.data.splits import Examples, OpenSplits, Records, Splits, read_splits

__all__ = [
    "LABEL_NOISE",
    "SOURCES",
    "DataError",
    "DataWarning",
    "Examples",
    "OpenSplits",
    "Records",
    "Splits",
    "augmentation",
    "corrupt_labels",
    "load",
    "open_splits",
    "read_splits",
    "redraw_labels",
    "streaming",
]
