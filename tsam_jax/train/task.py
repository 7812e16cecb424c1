"""The task: its data on the device, and its network with what is done to its inputs."""

import contextlib
import functools
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from tsam_jax.train.mesh import Devices, gather
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


_ARGUMENTS = {"vocab": "vocabulary", "lowercase": "casing", "size": "image_size"}
_ARGUMENTS |= {"text": "text_columns", "label": "label_column", "delimiter": "delimiter"}
"""Argument of a reader -> option that sets it."""


def open_data(task: config.Task) -> data.OpenSplits:
    """Opens the data set of a task; its inputs are not read yet.

    Raises:
      ConfigError: if there is no such data set, or its files cannot be used.
    """
    given: dict[str, Any] = {name: getattr(task, option) for name, option in _ARGUMENTS.items()}
    options = {name: x for name, x in given.items() if x not in (None, ())}
    if task.vocabulary is not None:
        options |= {"max_length": task.max_length, "pad_to_longest": True}
    if task.casing is not None:
        config.known(task.casing, ("cased", "uncased"), "casing (`--casing`)")
        options["lowercase"] = task.casing == "uncased"
    if task.dataset.startswith("table:") and task.loss is not None:
        options["regression"] = task.loss == "mse"
    sizes = zip(Data._fields, (task.train_size, *[task.evaluation_size] * 2), strict=True)
    subset = {part: size for part, size in sizes if size is not None}
    with _reading(f"--dataset {task.dataset}"):
        return data.open_splits(task.dataset, data_dir=task.data_dir, subset=subset, **options)


@contextlib.contextmanager
def _reading(option: str) -> Iterator[None]:
    """Raises ConfigError for the error of a reader, with the options that set its arguments."""
    flag = lambda found: f"`{config.flag(_ARGUMENTS[found[1]])}`"  # noqa: E731
    try:
        yield
    except (data.DataError, ImportError) as error:
        said = re.sub(f"`({'|'.join(_ARGUMENTS)})=?`", flag, str(error))
        msg = f"`{option}`: {said}"
        raise config.ConfigError(msg) from error


def load_task(
    task: config.Task,
    seeds: Sequence[int],
    devices: Devices | None = None,
    opened: data.OpenSplits | None = None,
) -> Loaded:
    """Reads the data set, if it is not `opened` yet, and prepares the task.

    Each of several processes reads its share of the training examples; of streamed ones, of those
    that are measured. A seed gives the same wrong labels to every method.

    Raises:
      ConfigError: if there is no such data set, its files cannot be used, or it does not fit.
    """
    opened, devices = opened or open_data(task), devices or Devices()
    train, most = opened.train, MEASURED if task.stream else None
    if task.stream:
        with _reading("--stream"):
            data.streaming.check_installed()
    rows, count = devices.share(len(train.labels[:most]))
    share = data.Records(train.labels[rows], lambda some: train.read(rows[some]))
    with _reading(f"--dataset {task.dataset}"):
        splits = data.read_splits(opened._replace(train=share))
    inputs = splits.train.inputs
    if splits.mean and devices.processes > 1:
        own = augmentation.channel_statistics(inputs[: max(count, 1)])
        mean, std = devices.pooled(inputs[:count, ..., 0].size, *own)
        splits = splits._replace(mean=mean, std=std)
    names = metrics_of(task, splits.num_classes)
    network = network_for(task, splits)
    law: Any = functools.partial(data.LABEL_NOISE[task.noise_law], num_classes=splits.num_classes)
    clean, noise = train.labels, task.label_noise
    labels = np.stack([law(clean, fraction=noise, seed=x) if noise else clean for x in seeds])
    train_part = Batch(devices.join(inputs), labels[:, :most])
    parts = Data(train_part, Batch(*splits.validation), Batch(*splits.test))
    placed = devices.replicate(jax.tree.map(jnp.asarray, parts))
    streamed = data.Records(labels[0], train.read) if task.stream else None
    others = {"test": splits.test, "validation": splits.validation, "labels": clean}
    digest = hash_tree(others, str(_hash_rows(inputs, rows[:count])))
    metrics = (*names, "loss")
    return Loaded(placed, seeds, devices, network, len(clean), metrics, streamed, digest)


def _hash_rows(inputs: Any, rows: np.ndarray) -> int:
    """A hash of inputs with their row numbers: the sum over the rows of all processes."""
    leaves = [np.ascontiguousarray(x) for x in jax.tree.leaves(inputs)]
    form, total = str([(x.dtype, x.shape[1:]) for x in leaves]), 0
    for place, row in enumerate(rows):
        digest = hashlib.sha256(f"{row} {form}".encode())
        for x in leaves:
            digest.update(x[place].data)
        total += int.from_bytes(digest.digest())
    own = np.frombuffer((total % 2**256).to_bytes(32), np.uint8)
    return sum(map(int.from_bytes, gather(own))) % 2**256


def network_for(task: config.Task, splits: Splits) -> Network:
    """Makes the network of a task, for its data set.

    Images are normalised by the statistics of the training part in the compiled step.

    Raises:
      ConfigError: if the model, the augmentation or the loss is not for such data.
    """
    regression, augment = splits.num_classes is None, AUGMENTATIONS.get(task.augmentation)
    name = task.loss or ("mse" if regression else "cross-entropy")
    config.known(name, LOSSES, "loss (`--loss`)")
    config.known(task.augmentation, AUGMENTATIONS, "augmentation (`--augmentation`)")
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
    config.require(
        splits.mean or augment is None,
        f"`--augmentation {task.augmentation}` is for images; {task.dataset} has none.",
    )
    smoothing = {"smoothing": task.label_smoothing} if task.label_smoothing else {}
    options: dict[str, Any] = {"loss": functools.partial(LOSSES[name], **smoothing)}
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
    options |= {"width": task.width, "depth": task.depth} if model == "mlp" else {}
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
