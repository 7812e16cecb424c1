"""The task: its data on the device, and its network with what is done to its inputs."""

import contextlib
import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from tsam_jax.train.metrics import LOSSES, metrics_of
from tsam_jax.train.network import Batch, Model, Network, make_network, split_model

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
    """A task that is ready for training, for some seeds."""

    data: Data  # `train.labels` of shape (seeds, n)
    seeds: Sequence[int]
    devices: Devices  # where the examples are
    network: Network
    train_size: int
    metrics: tuple[str, ...]  # names, "loss" last; the first one selects epochs and settings
    records: data.Records | None = None  # training examples of the first seed, if streamed
    digest: str = ""  # a hash of the data as they are read, without label noise

    def of_seed(self, seed: int) -> Data:
        """The data with the training labels of one seed, shape (n,)."""
        inputs, labels = self.data.train
        return self.data._replace(train=Batch(inputs, labels[self.seeds.index(seed)]))


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
    with _reading(f"--dataset {task.dataset}"):
        return data.open_splits(task.dataset, data_dir=task.data_dir, subset=subset, **options)


_FLAGS = {"`vocab`": "`--vocabulary`", "`size=`": "`--image-size`", "`lowercase`": "`--casing`"}
_FLAGS |= {"`text=`": "`--text-columns`", "`label=`": "`--label-column`"}
_FLAGS |= {"`delimiter=`": "`--delimiter`"}


@contextlib.contextmanager
def _reading(option: str) -> Iterator[None]:
    """Raises ConfigError for the error of a reader, with the flags of its arguments."""
    try:
        yield
    except (data.DataError, ImportError) as error:
        said = re.sub("|".join(_FLAGS), lambda found: _FLAGS[found[0]], str(error))
        msg = f"`{option}`: {said}"
        raise config.ConfigError(msg) from error


def load_task(
    task: config.Task,
    seeds: Sequence[int],
    devices: Devices | None = None,
    opened: data.OpenSplits | None = None,
) -> Loaded:
    """Reads the data set, if it is not `opened` yet, and prepares the task.

    Each of several processes reads its share of the training examples.

    Raises:
      ConfigError: if there is no such data set, or its files cannot be used.
    """
    opened = open_data(task) if opened is None else opened
    whole, devices = opened.train, devices or Devices()
    shared = devices.processes > 1 and not task.stream
    if task.stream:
        with _reading("--stream"):
            data.streaming.check_installed()
        count = min(MEASURED, len(whole.labels))
        opened = opened._replace(train=data.Records(whole.labels[:count], whole.read))
    elif shared:
        rows, count = devices.share(len(whole.labels))
        share = data.Records(whole.labels[rows], lambda some: whole.read(rows[some]))
        opened = opened._replace(train=share)
    with _reading(f"--dataset {task.dataset}"):
        splits = data.read_splits(opened)
    if shared and splits.mean:
        own = splits.train.inputs[: max(count, 1)]
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

    A seed gives the same wrong labels to every method. `records` are all training examples, of
    which `splits` may have the first ones or a share.
    """
    names = metrics_of(task, splits.num_classes)
    network, devices = network_for(task, splits), devices or Devices()
    clean = splits.train.labels if records is None else records.labels
    labels = np.stack([clean] * len(seeds))
    if task.label_noise:
        law = functools.partial(data.LABEL_NOISE[task.noise_law], num_classes=splits.num_classes)
        labels = np.stack([law(clean, fraction=task.label_noise, seed=seed) for seed in seeds])
    shown, inputs = labels[:, : MEASURED if task.stream else None], splits.train.inputs
    if devices.processes > 1 and not task.stream:
        rows, count = devices.share(len(clean))
        inputs, hashed = devices.join(inputs), devices.total(hash_rows(inputs, rows[:count]))
    else:
        hashed = hash_rows(inputs)
    parts = Data(Batch(inputs, shown), Batch(*splits.validation), Batch(*splits.test))
    placed = devices.replicate(jax.tree.map(jnp.asarray, parts))
    streamed = data.Records(labels[0], records.read) if task.stream and records else None
    others = {"test": splits.test, "validation": splits.validation, "labels": clean}
    names, digest = (*names, "loss"), hash_tree(others, str(hashed))
    return Loaded(placed, seeds, devices, network, len(clean), names, streamed, digest)


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


def network_for(task: config.Task, splits: Splits) -> Network:
    """Makes the network of a task, for its data set.

    Images are normalised by the statistics of the training part in the compiled step.

    Raises:
      ConfigError: if the model, the augmentation or the loss is not for such data.
    """
    regression = splits.num_classes is None
    name = task.loss or ("mse" if regression else "cross-entropy")
    config.known(name, LOSSES, "loss (`--loss`)")
    config.require(
        regression == (name == "mse"),
        f"`--loss` must be mse for regression, another one for classes, got {name!r} for"
        f" {task.dataset}.",
    )
    config.require(
        not regression or not (task.label_smoothing or task.label_noise),
        "`--label-smoothing` and `--label-noise` are for classes, and"
        f" {task.dataset} has numbers: leave them out.",
    )
    smoothing = {"smoothing": task.label_smoothing} if task.label_smoothing else {}
    options: dict[str, Any] = {"loss": functools.partial(LOSSES[name], **smoothing)}
    config.known(task.augmentation, AUGMENTATIONS, "augmentation (`--augmentation`)")
    augment = AUGMENTATIONS[task.augmentation]
    config.require(
        splits.mean or augment is None,
        f"`--augmentation {task.augmentation}` is for images; {task.dataset} has none.",
    )
    if splits.mean:
        statistics: dict[str, Any] = {"mean": splits.mean, "std": splits.std}
        options["prepare"] = functools.partial(augmentation.normalise, **statistics)
        options["augment"] = augment and functools.partial(augment, **statistics)
    own: dict[str, Any] = {"remat": task.remat, "num_outputs": splits.num_classes or 1}
    own |= {"dtype": jnp.bfloat16} if task.precision == "bfloat16" else {}
    own |= {"dropout": task.dropout} if task.dropout is not None else {}
    if task.pretrained is None:
        return make_network(_model(task, splits, own), **options)
    build = functools.partial(_pretrained, task.pretrained, own)
    # Files are not read while a function is compiled: their content would be part of it.
    network = make_network(build(nnx.Rngs(0)), **options)
    return network._replace(init=lambda key: split_model(build(nnx.Rngs(key)))[1:])


def _model(task: config.Task, splits: Splits, options: dict[str, Any]) -> Model:
    """The function that makes a model of the zoo, for these inputs."""
    model, inputs = task.model or "", splits.train.inputs
    config.known(model, MODELS, "model")
    text = isinstance(inputs, dict)
    shape = () if text else inputs.shape[1:]
    have = "text" if text else f"inputs of shape {shape}"
    config.require(
        (MODELS[model].kind == "text") == text and (len(shape) == 3 or model == "mlp" or text),
        f"`--model {model}` is for {MODELS[model].kind}, and {task.dataset} has {have}.",
    )
    if model == "mlp":
        options |= {"width": task.width, "depth": task.depth}
    if text:
        length = inputs["token_ids"].shape[1]
        options |= {"vocabulary": splits.vocab_size, "max_length": length}
    else:
        options["image_shape"] = shape
    return lambda rngs: MODELS[model].build(**options, rngs=rngs)


def _pretrained(path: str, options: dict[str, Any], rngs: nnx.Rngs) -> nnx.Module:
    """Reads a pretrained model, with a new head from random numbers."""
    from tsam_jax.models.pretrained import PretrainedError, load_pretrained

    with config.refused("--pretrained", PretrainedError, ValueError):
        return load_pretrained(path, rngs=rngs, **options)
