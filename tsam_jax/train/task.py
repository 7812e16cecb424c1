"""The task: its data on the device, and its network with what is done to its inputs."""

import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tsam_jax import data
from tsam_jax.data import Splits, augmentation
from tsam_jax.models import MODELS
from tsam_jax.train import config
from tsam_jax.train.checkpoint import hash_tree
from tsam_jax.train.mesh import Devices
from tsam_jax.train.metrics import LOSSES, METRICS, metrics_of
from tsam_jax.train.network import Batch, Network, make_network, split_model

MEASURED = 10_000
"""Training examples that are measured, the first ones: as many as a usual test part."""

AUGMENTATIONS: Mapping[str, Callable[..., jax.Array] | None] = {
    "none": None,
    "crop-flip": functools.partial(augmentation.official, cutout_size=0),
    "official": augmentation.official,
}
"""Name -> (key, images, mean, std) -> normalised images; None for no augmentation."""


class Data(NamedTuple):
    """The parts of a data set, on the device; only `train.labels` differ by seed."""

    train: Batch
    validation: Batch
    test: Batch


class Loaded(NamedTuple):
    """A task that is ready for training.

    Attributes:
      data: the examples, `train.labels` of shape (seeds, n).
      seeds: the seeds.
      devices: where the examples are.
      network: the network.
      train_size: number of training examples.
      metrics: names of the metrics, then "loss"; the first name selects epochs and settings.
      records: the training examples of the first seed, if they are streamed; else None.
      digest: a hash of the data as they are read, without label noise.
    """

    data: Data
    seeds: Sequence[int]
    devices: Devices
    network: Network
    train_size: int
    metrics: tuple[str, ...]
    records: data.Records | None = None
    digest: str = ""


def open_data(task: config.Task) -> data.OpenSplits:
    """Opens the data set of a task; its inputs are not read yet.

    Raises:
      ConfigError: if there is no such data set, or its files cannot be used.
    """
    options: dict[str, Any] = {}
    if task.vocabulary is not None:
        options = {"vocab": task.vocabulary, "max_length": task.max_length, "pad_to_longest": True}
    if task.casing is not None:
        config.known(task.casing, ("cased", "uncased"), "casing (`--casing`)")
        options["lowercase"] = task.casing == "uncased"
    if task.dataset.startswith("table:") and task.loss is not None:
        options["regression"] = task.loss == "mse"
    columns = task.text_columns if len(task.text_columns) > 1 else "".join(task.text_columns)
    own = {"text": columns, "label": task.label_column, "delimiter": task.delimiter}
    options |= {name: x for name, x in {**own, "size": task.image_size}.items() if x}
    held_out = task.evaluation_size
    sizes = {"train": task.train_size, "validation": held_out, "test": held_out}
    subset = {part: size for part, size in sizes.items() if size is not None}
    try:
        return data.open_splits(task.dataset, data_dir=task.data_dir, subset=subset, **options)
    except (data.DataError, ImportError) as error:
        msg = f"`--dataset {task.dataset}`: {_in_flags(error)}"
        raise config.ConfigError(msg) from error


def _in_flags(error: Exception) -> str:
    """The message of a reader, with the flags of its arguments."""
    flags = {"`vocab`": "`--vocabulary`", "`size=`": "`--image-size`", "`lowercase`": "`--casing`"}
    said = str(error)
    for argument, flag in flags.items():
        said = said.replace(argument, flag)
    return said


def load_task(
    task: config.Task,
    seeds: Sequence[int],
    devices: Devices | None = None,
    opened: data.OpenSplits | None = None,
) -> Loaded:
    """Reads the data set, and prepares the task as `prepare_task` does.

    Args:
      task: the task.
      seeds: one for each run.
      devices: where the examples are placed. Each of several processes reads its share of the
        training examples.
      opened: the data set, if it is open.

    Raises:
      ConfigError: if there is no such data set, or its files cannot be used.
    """
    opened = open_data(task) if opened is None else opened
    whole, devices = opened.train, devices or Devices()
    shared = devices.processes > 1 and not task.stream
    try:
        if task.stream:
            data.streaming.check_installed()
            count = min(MEASURED, len(whole.labels))
            opened = opened._replace(train=data.Records(whole.labels[:count], whole.read))
        elif shared:
            rows = devices.share(len(whole.labels))
            share = data.Records(whole.labels[rows], lambda some: whole.read(rows[some]))
            opened = opened._replace(train=share)
        splits = data.read_splits(opened)
    except (data.DataError, ImportError) as error:
        option = "stream" if isinstance(error, ImportError) else f"dataset {task.dataset}"
        msg = f"`--{option}`: {_in_flags(error)}"
        raise config.ConfigError(msg) from error
    if shared and splits.mean:
        own = splits.train.inputs[: len(np.unique(rows))]  # without repetitions, at the end
        pixels = own.size // own.shape[-1]
        mean, std = devices.pooled(pixels, *augmentation.channel_statistics(own))
        splits = splits._replace(mean=mean, std=std)
    return prepare_task(task, splits, seeds, whole, devices)


def prepare_task(
    task: config.Task,
    splits: Splits,
    seeds: Sequence[int],
    records: data.Records | None = None,
    devices: Devices | None = None,
) -> Loaded:
    """Corrupts the training labels for each seed, and makes the network.

    Args:
      task: the task.
      splits: its data set, with the labels as they are.
      seeds: one for each run; a seed gives the same wrong labels to every method.
      records: all training examples, of which `splits` may have the first ones or a share.
      devices: where the examples go; default: the default device.
    """
    names = metrics_of(task, splits.num_classes)
    compiled = {n: METRICS[n].function for n in names if not METRICS[n].on_host}
    network = network_for(task, splits, compiled)
    devices = devices or Devices()
    clean = splits.train.labels if records is None else records.labels
    labels = _labels(task, clean, splits.num_classes, seeds)
    shown = labels[:, : MEASURED if task.stream else None]
    inputs = splits.train.inputs
    if devices.processes > 1 and not task.stream:
        rows, places = devices.counted(len(clean))
        own = jax.tree.map(lambda x: x[places], inputs)
        inputs, hashed = devices.join(inputs), devices.total(hash_rows(own, rows))
    else:
        hashed = hash_rows(inputs)
    parts = Data(Batch(inputs, shown), Batch(*splits.validation), Batch(*splits.test))
    placed = devices.replicate(jax.tree.map(jnp.asarray, parts))
    streamed = data.Records(labels[0], records.read) if task.stream and records else None
    others = {"test": splits.test, "validation": splits.validation, "labels": clean}
    digest = hash_tree(others, str(hashed))
    metrics = (*names, "loss")
    return Loaded(placed, seeds, devices, network, len(clean), metrics, streamed, digest)


def hash_rows(inputs: Any, rows: Iterable[int] | None = None) -> int:
    """A hash of inputs with their row numbers: a sum, whose parts may be of several processes."""
    leaves = [np.ascontiguousarray(x) for x in jax.tree.leaves(inputs)]
    form, total = str([(x.dtype, x.shape[1:]) for x in leaves]), 0
    for place, row in enumerate(range(len(leaves[0])) if rows is None else rows):
        digest = hashlib.sha256(f"{row} {form}".encode())
        for x in leaves:
            digest.update(x[place].data)
        total += int.from_bytes(digest.digest())
    return total % 2**256


def select_seeds(data: Data, rows: Sequence[int]) -> Data:
    """The data with `train.labels` of some of the seeds."""
    labels = data.train.labels[jnp.asarray(rows)]
    return data._replace(train=data.train._replace(labels=labels))


def network_for(
    task: config.Task, splits: Splits, metrics: Mapping[str, Callable[..., Any]]
) -> Network:
    """Makes the network of a task.

    Images are normalised by the statistics of the training part in the compiled step.

    Args:
      task: the task.
      splits: its data set, for the shape of the inputs and the number of outputs.
      metrics: what is compiled beside the loss.

    Raises:
      ConfigError: if the model, the augmentation or the loss is not for such data.
    """
    regression = splits.num_classes is None
    name = task.loss or ("mse" if regression else "cross-entropy")
    config.known(name, LOSSES, "loss (`--loss`)")
    if regression != (name == "mse"):
        rule = "mse for regression, another one for classes"
        msg = f"`--loss` must be {rule}, got {name!r} for {task.dataset}."
        raise config.ConfigError(msg)
    if regression and (task.label_smoothing or task.label_noise):
        msg = (
            "`--label-smoothing` and `--label-noise` are for classes, and"
            f" {task.dataset} has numbers: leave them out."
        )
        raise config.ConfigError(msg)
    smoothing = {"smoothing": task.label_smoothing} if task.label_smoothing else {}
    loss = functools.partial(LOSSES[name], **smoothing)
    augment, prepare = _preparations(task, splits)
    make = functools.partial(
        make_network, loss=loss, metrics=metrics, augment=augment, prepare=prepare
    )
    if task.pretrained is None:
        return make(_model(task, splits))
    build = _pretrained(task, splits)
    # Files are not read while a function is compiled: their content would be part of it.
    network = make(build(nnx.Rngs(0)))
    return network._replace(init=lambda key: split_model(build(nnx.Rngs(key)))[1:])


def _labels(
    task: config.Task, labels: np.ndarray, classes: int | None, seeds: Sequence[int]
) -> np.ndarray:
    """The labels to train on, shape (seeds, n)."""
    if not task.label_noise or classes is None:
        return np.stack([labels] * len(seeds))
    law = data.LABEL_NOISE[task.noise_law]
    noisy = [law(labels, fraction=task.label_noise, num_classes=classes, seed=n) for n in seeds]
    return np.stack(noisy)


def _options(task: config.Task) -> dict[str, Any]:
    """Options of every model."""
    options: dict[str, Any] = {"remat": task.remat}
    if task.precision == "bfloat16":
        options["dtype"] = jnp.bfloat16
    if task.dropout is not None:
        options["dropout"] = task.dropout
    return options


def _model(task: config.Task, splits: Splits) -> Callable[[nnx.Rngs], nnx.Module]:
    """The function that makes a model of the zoo, for these inputs."""
    model = task.model or ""
    config.known(model, MODELS, "model")
    entry, options, inputs = MODELS[model], _options(task), splits.train.inputs
    text = isinstance(inputs, dict)
    shape = () if text else inputs.shape[1:]
    if (entry.kind == "text") != text or (len(shape) != 3 and model != "mlp" and not text):
        have = "text" if text else f"inputs of shape {shape}"
        msg = f"`--model {model}` is for {entry.kind}, and {task.dataset} has {have}."
        raise config.ConfigError(msg)
    if model == "mlp":
        options |= {"width": task.width, "depth": task.depth}
    if text:
        length = inputs["token_ids"].shape[1]
        options |= {"vocabulary": splits.vocab_size, "max_length": length}
    else:
        options["image_shape"] = shape
    outputs = splits.num_classes or 1
    return lambda rngs: entry.build(outputs, **options, rngs=rngs)


def _pretrained(task: config.Task, splits: Splits) -> Callable[[nnx.Rngs], nnx.Module]:
    """The function that reads a pretrained model, with a new head from random numbers."""
    from tsam_jax.models.pretrained import PretrainedError, load_pretrained

    options, path, outputs = _options(task), str(task.pretrained), splits.num_classes or 1

    def build(rngs: nnx.Rngs) -> nnx.Module:
        try:
            return load_pretrained(path, num_outputs=outputs, rngs=rngs, **options)
        except (PretrainedError, ValueError) as error:
            msg = f"`--pretrained`: {error}"
            raise config.ConfigError(msg) from error

    return build


def _preparations(task: config.Task, splits: Splits) -> tuple[Any, Any]:
    """The functions of the inputs in training and in evaluation, or None."""
    config.known(task.augmentation, AUGMENTATIONS, "augmentation (`--augmentation`)")
    augment = AUGMENTATIONS[task.augmentation]
    if not splits.mean:
        if augment is not None:
            msg = f"`--augmentation {task.augmentation}` is for images; {task.dataset} has none."
            raise config.ConfigError(msg)
        return None, None
    statistics: dict[str, Any] = {"mean": splits.mean, "std": splits.std}
    prepare = functools.partial(augmentation.normalise, **statistics)
    return (functools.partial(augment, **statistics) if augment else None), prepare
