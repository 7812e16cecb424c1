"""The task: its data on the device, and its network with what is done to its inputs."""

import contextlib
import functools
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
    metrics = (*metrics_of(task, splits.num_classes), "loss")
    network = network_for(task, splits)
    law: Any = functools.partial(data.LABEL_NOISE[task.noise_law], num_classes=splits.num_classes)
    clean, noise = train.labels, task.label_noise
    labels = np.stack([law(clean, fraction=noise, seed=x) if noise else clean for x in seeds])
    train_part = Batch(devices.join(inputs), labels[:, :most])
    parts = Data(train_part, Batch(*splits.validation), Batch(*splits.test))
    placed = devices.replicate(jax.tree.map(jnp.asarray, parts))
    streamed = data.Records(labels[0], train.read) if task.stream else None
    others = {"test": splits.test, "validation": splits.validation, "labels": clean}
    digest = hash_tree(others, _hash_rows(inputs, rows[:count]))
    return Loaded(placed, seeds, devices, network, len(clean), metrics, streamed, digest)


def _hash_rows(inputs: Any, rows: np.ndarray) -> str:
    """A hash of inputs with their row numbers: the sum over the rows of all processes."""
    example = lambda place: jax.tree.map(lambda x: x[place], inputs)  # noqa: E731
    digests = [hash_tree(example(place), f"{row} ") for place, row in enumerate(rows)]
    own = np.frombuffer(bytes.fromhex("".join(digests)), np.uint64).reshape(-1, 4).sum(axis=0)
    return str(gather(own).sum(axis=0))


def network_for(task: config.Task, splits: Splits) -> Network:
    """Makes the network of a task, for its data set.

    Images are normalised by the statistics of the training part in the compiled step.

    Raises:
      ConfigError: if the model, the augmentation or the loss is not for such data.
    """
    regression, augment = splits.num_classes is None, AUGMENTATIONS[task.augmentation]
    name = task.loss or ("mse" if regression else "cross-entropy")
    why = f"`--loss` must be mse for regression and only there, got {name!r} for {task.dataset}."
    config.require(regression == (name == "mse"), why)
    why = f"`--label-smoothing` and `--label-noise` are for classes; {task.dataset} has numbers."
    config.require(not regression or not (task.label_smoothing or task.label_noise), why)
    why = f"`--augmentation {task.augmentation}` is for images; {task.dataset} has none."
    config.require(splits.mean or augment is None, why)
    smoothing = {} if regression else {"smoothing": task.label_smoothing}
    options: dict[str, Any] = {"loss": functools.partial(LOSSES[name], **smoothing)}
    if splits.mean:
        statistics: dict[str, Any] = {"mean": splits.mean, "std": splits.std}
        options["prepare"] = functools.partial(augmentation.normalise, **statistics)
        options["augment"] = augment and functools.partial(augment, **statistics)
    own: dict[str, Any] = {"remat": task.remat, "num_outputs": splits.num_classes or 1}
    own |= {"dtype": jnp.bfloat16} if task.precision == "bfloat16" else {}
    own |= {"dropout": task.dropout} if task.dropout is not None else {}
    path = task.pretrained
    if path is None:
        return make_network(_model(task, splits, own), **options)
    from tsam_jax.models.pretrained import PretrainedError, load_pretrained

    def build(rngs: nnx.Rngs) -> nnx.Module:
        with config.refused("--pretrained", PretrainedError, ValueError):
            return load_pretrained(path, rngs=rngs, **own)

    # Files are not read while a function is compiled: their content would be part of it.
    network = make_network(model := build(nnx.Rngs(0)), **options)
    _, params, rest = split_model(model)
    with config.refused(f"--pretrained` with `--max-length {task.max_length}", ValueError):
        first = jax.tree.map(lambda x: x[:1], splits.train.inputs)
        jax.eval_shape(network.predict, params, first, rest)  # it may not take such inputs
    return network._replace(init=lambda key: split_model(build(nnx.Rngs(key)))[1:])


def _model(task: config.Task, splits: Splits, options: dict[str, Any]) -> Model:
    """The function that makes a model of the zoo, for these inputs."""
    model, inputs = task.model or "", splits.train.inputs
    config.known(model, MODELS, "model")
    text = isinstance(inputs, dict)
    shape = () if text else inputs.shape[1:]
    have = "text" if text else f"inputs of shape {shape}"
    fits = (MODELS[model].kind == "text") == text and (len(shape) == 3 or model == "mlp" or text)
    why = f"`--model {model}` is for {MODELS[model].kind}, and {task.dataset} has {have}."
    config.require(fits, why)
    options |= {"width": task.width, "depth": task.depth} if model == "mlp" else {}
    if text:
        length = inputs["token_ids"].shape[1]
        options |= {"vocabulary": splits.vocab_size, "max_length": length}
    else:
        options["image_shape"] = shape
    return lambda rngs: MODELS[model].build(**options, rngs=rngs)
