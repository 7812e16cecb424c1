"""Batches in an order that the key and the epoch determine: on the device, or streamed.

`InMemory` and `Streamed` give the same batches for the same key: an experiment does not change
when its data no longer fit. A position is (epoch, batch), and both start from any.
"""

import dataclasses
import importlib.util
from collections.abc import Iterator
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from tsam_jax.data.splits import Examples, Records


def order(key: jax.Array, n: int, batch_size: int) -> jax.Array:
    """The examples of each batch of an epoch: a permutation, cut into full batches.

    Args:
      key: PRNG key of the epoch.
      n: number of examples.
      batch_size: examples a batch, 1 to n; the n % batch_size examples that are left over are
        left out of this epoch.

    Returns:
      Shape (n // batch_size, batch_size), int32.

    Raises:
      ValueError: if `batch_size` is not in 1..n.

    Example:
      >>> order(jax.random.key(0), 7, 3).shape
      (2, 3)
    """
    if not 1 <= batch_size <= n:
        msg = f"`batch_size` must be between 1 and the {n} examples there are, got {batch_size}."
        raise ValueError(msg)
    steps = n // batch_size
    return jax.random.permutation(key, n)[: steps * batch_size].reshape(steps, batch_size)


class Batches(Protocol):
    """Batches of an epoch, from any batch on."""

    @property
    def steps(self) -> int:
        """Batches an epoch."""

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Examples]:
        """Yields the batches `first`, `first + 1`, ... of an epoch."""


@dataclasses.dataclass(frozen=True)
class InMemory:
    """Batches of examples that fit on the device, where they are gathered.

    Attributes:
      examples: the examples; what is not on the device yet is copied there for each epoch.
      batch_size: examples a batch.
      key: PRNG key of the order; the order of an epoch is that of `fold_in(key, epoch)`.
      sharding: where the batches go, `NamedSharding(mesh, PartitionSpec("data"))` say; None for
        the default device.

    Example:
      >>> examples = Examples(np.arange(10.0), np.arange(10))
      >>> batches = InMemory(examples, batch_size=4, key=jax.random.key(0))
      >>> [batch.inputs.shape for batch in batches.epoch(0)]
      [(4,), (4,)]
    """

    examples: Examples
    batch_size: int
    key: jax.Array
    sharding: jax.sharding.Sharding | None = None

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return len(self.examples.labels) // self.batch_size

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Examples]:
        """Yields the batches `first`, `first + 1`, ... of an epoch."""
        rows = _rows(self, len(self.examples.labels), epoch, first)
        examples = jax.tree.map(jnp.asarray, self.examples)
        for batch in rows:
            yield _place(jax.tree.map(lambda x, batch=batch: x[batch], examples), self.sharding)


@dataclasses.dataclass(frozen=True)
class Streamed:
    """Batches of examples that are read while the device works, by threads of this process.

    Attributes:
      records: what is read.
      batch_size: examples a batch.
      key: PRNG key of the order; the order of an epoch is that of `fold_in(key, epoch)`.
      sharding: as in `InMemory`; None for NumPy arrays, which are nowhere yet.
      threads: threads that read; decoding images, they run at the same time.
      ahead: batches that are read before they are asked for.

    Threads and no worker processes: decoders of images give up Python's lock, and processes would
    have to send every batch.

    Example:
      >>> records = Records(np.arange(10), lambda rows: rows.astype(np.float32))
      >>> batches = Streamed(records, batch_size=4, key=jax.random.key(0))
      >>> [batch.inputs.shape for batch in batches.epoch(0, first=1)]
      [(4,)]
    """

    records: Records
    batch_size: int
    key: jax.Array
    sharding: jax.sharding.Sharding | None = None
    threads: int = 4
    ahead: int = 8

    def __post_init__(self) -> None:
        """Looks for grain.

        Raises:
          ImportError: if it is not installed.
        """
        check_installed()

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return len(self.records.labels) // self.batch_size

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Examples]:
        """Yields the batches `first`, `first + 1`, ... of an epoch."""
        import grain

        rows = _rows(self, len(self.records.labels), epoch, first)
        if not len(rows):
            return
        reading = grain.ReadOptions(num_threads=self.threads, prefetch_buffer_size=self.ahead)
        batches = grain.MapDataset.source(_ReadBatches(self.records, rows))
        for batch in batches.to_iter_dataset(reading):
            yield _place(batch, self.sharding)


class _ReadBatches:
    """Batches by number, as grain wants them."""

    def __init__(self, records: Records, rows: np.ndarray) -> None:
        self.records, self.rows = records, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Examples:
        rows = self.rows[index]
        return Examples(self.records.read(rows), self.records.labels[rows])


def check_installed() -> None:
    """Looks for grain, which reads streamed data.

    Raises:
      ImportError: if it is not installed.
    """
    if importlib.util.find_spec("grain") is None:
        msg = "Streaming needs the package grain: pip install 'tsam_jax[stream]'."
        raise ImportError(msg)


def _rows(batches: InMemory | Streamed, n: int, epoch: int, first: int) -> np.ndarray:
    """The examples of the batches from `first` on."""
    rows = np.asarray(order(jax.random.fold_in(batches.key, epoch), n, batches.batch_size))
    if not 0 <= first <= len(rows):
        msg = (
            f"`epoch(first=...)` must be a batch of the epoch, 0 to {len(rows)}, got {first}."
            " A position belongs to one batch size and one data set."
        )
        raise ValueError(msg)
    return rows[first:]


def _place(batch: Examples, sharding: jax.sharding.Sharding | None) -> Any:
    return batch if sharding is None else jax.device_put(batch, sharding)
