"""The task: its data on the device, and its network."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tsam_jax import data
from tsam_jax.data import read_splits
from tsam_jax.train import config
from tsam_jax.train.architecture import network_for
from tsam_jax.train.losses import METRICS
from tsam_jax.train.metrics import metrics_of, with_metrics
from tsam_jax.train.network import Batch, Network

MEASURED = 10_000
"""Training examples that are measured, the first ones: as many as a usual test part."""


class Data(NamedTuple):
    """The parts of a data set, on the device; only `train.labels` differ by seed."""

    train: Batch
    validation: Batch
    test: Batch


class Loaded(NamedTuple):
    """A task that is ready to be trained on.

    Attributes:
      data: the examples, `train.labels` of shape (seeds, n).
      network: the network.
      train_size: number of training examples.
      metric: what the best epoch is chosen by, the larger the better; None: by the loss.
      records: the training examples of the first seed, if they are streamed; else None.
    """

    data: Data
    network: Network
    train_size: int
    metric: str | None
    records: data.Records | None = None


def load_task(task: config.Task, seeds: Sequence[int]) -> Loaded:
    """Loads the data set, and prepares the task as `prepare_task` does.

    Args:
      task: the task.
      seeds: one for each run.

    Returns:
      What there is to train on.

    Raises:
      ConfigError: if there is no such data set, or its files cannot be used.
    """
    options: dict[str, Any] = {}
    if task.vocabulary is not None:
        options |= {"vocab": task.vocabulary, "max_length": task.max_length}
    if task.image_size is not None:
        options["size"] = task.image_size
    held_out = task.evaluation_size
    sizes = {"train": task.train_size, "validation": held_out, "test": held_out}
    subset = {part: size for part, size in sizes.items() if size is not None}
    try:
        opened = data.open_splits(task.dataset, data_dir=task.data_dir, subset=subset, **options)
        if not task.stream:
            return prepare_task(task, read_splits(opened), seeds)
        rows = min(MEASURED, len(opened.train.labels))
        first = data.Records(opened.train.labels[:rows], opened.train.read)
        splits = read_splits(opened._replace(train=first))
    except data.DataError as error:
        msg = f"`--dataset {task.dataset}`: {error}"
        raise config.ConfigError(msg) from error
    return prepare_task(task, splits, seeds, opened.train)


def prepare_task(
    task: config.Task,
    splits: data.Splits,
    seeds: Sequence[int],
    records: data.Records | None = None,
) -> Loaded:
    """Corrupts the training labels anew for each seed, and makes the network.

    Args:
      task: the task.
      splits: its data set, with the labels as they are.
      seeds: one for each run; the same seed gives the same wrong labels to every method.
      records: all training examples, if they are streamed; those of `splits` are the first.

    Returns:
      What there is to train on.
    """
    names = metrics_of(task, splits.num_classes)
    on_device = {name: METRICS[name] for name in names if name in METRICS}
    network = with_metrics(network_for(task, splits, on_device), names)
    clean = splits.train.labels if records is None else records.labels
    labels = _labels(task, clean, splits.num_classes, seeds)
    train = Batch(splits.train.inputs, labels[:, : len(splits.train.labels)])
    parts = (train, Batch(*splits.validation), Batch(*splits.test))
    return Loaded(
        Data(*jax.tree.map(jnp.asarray, parts)),
        network,
        len(clean),
        next(iter(names), None),
        records and data.Records(labels[0], records.read),
    )


def _labels(
    task: config.Task, labels: np.ndarray, classes: int | None, seeds: Sequence[int]
) -> np.ndarray:
    """The labels to train on, shape (seeds, n)."""
    if not task.label_noise or classes is None:
        return np.stack([labels] * len(seeds))
    law = data.LABEL_NOISE[task.noise_law]
    noisy = [law(labels, fraction=task.label_noise, num_classes=classes, seed=n) for n in seeds]
    return np.stack(noisy)
