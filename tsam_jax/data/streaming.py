"""Batches that are read while the device computes, in an order fixed by a key and the epoch."""

import dataclasses
import importlib.util
from collections.abc import Iterator

import jax
import numpy as np

from tsam_jax.data.splits import Examples, Records


def order(key: jax.Array, n: int, batch_size: int) -> jax.Array:
    """Draw the examples of each batch of an epoch: a permutation, cut into full batches.

    Args:
      key: PRNG key of the epoch.
      n: number of examples.
      batch_size: examples per batch, 1 to n. The last n % batch_size examples of the permutation
        are not used in this epoch.

    Returns:
      Shape (n // batch_size, batch_size), int32.

    Raises:
      ValueError: if `batch_size` is not in 1..n.

    Example:
      >>> order(jax.random.key(0), 7, 3).shape
      (2, 3)
    """
    if not 1 <= batch_size <= n:
        msg = f"`batch_size` must be from 1 to {n}, the number of examples, got {batch_size}."
        raise ValueError(msg)
    steps = n // batch_size
    return jax.random.permutation(key, n)[: steps * batch_size].reshape(steps, batch_size)


@dataclasses.dataclass(frozen=True)
class Streamed:
    """Batches of NumPy arrays, read ahead by threads.

    Threads suffice because image decoders release the GIL; processes would have to copy every
    batch.

    Attributes:
      records: the examples.
      batch_size: examples per batch.
      key: PRNG key of the order; epoch i is ordered by `fold_in(key, i)`.
      threads: number of reading threads.
      ahead: number of batches to read ahead.

    Example:
      >>> records = Records(np.arange(10), lambda rows: rows.astype(np.float32))
      >>> batches = Streamed(records, batch_size=4, key=jax.random.key(0))
      >>> [batch.inputs.shape for batch in batches.epoch(0, first=1)]
      [(4,)]
    """

    records: Records
    batch_size: int
    key: jax.Array
    threads: int = 4
    ahead: int = 8

    def __post_init__(self) -> None:
        """Raises ImportError if grain is not installed."""
        check_installed()

    @property
    def steps(self) -> int:
        """Number of batches in an epoch."""
        return len(self.records.labels) // self.batch_size

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Examples]:
        """Yield the batches `first`, `first + 1`, ... of an epoch."""
        import grain

        key = jax.random.fold_in(self.key, epoch)
        rows = np.asarray(order(key, len(self.records.labels), self.batch_size))
        if not 0 <= first <= len(rows):
            msg = (
                f"`epoch(first=...)` must be from 0 to {len(rows)}, the number of batches, got"
                f" {first}. Resume with the batch size and the data set of the first run."
            )
            raise ValueError(msg)
        if first == len(rows):
            return
        reading = grain.ReadOptions(num_threads=self.threads, prefetch_buffer_size=self.ahead)
        batches = grain.MapDataset.source(_ReadBatches(self.records, rows[first:]))
        yield from batches.to_iter_dataset(reading)


class _ReadBatches:
    """Random-access source of batches for grain."""

    def __init__(self, records: Records, rows: np.ndarray) -> None:
        self.records, self.rows = records, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Examples:
        rows = self.rows[index]
        return Examples(self.records.read(rows), self.records.labels[rows])


def check_installed() -> None:
    """Raise ImportError if grain, which reads streamed data, is not installed."""
    if importlib.util.find_spec("grain") is None:
        msg = "Streaming needs the package grain; run `pip install 'tsam_jax[stream]'`."
        raise ImportError(msg)
