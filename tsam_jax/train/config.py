"""Configuration: frozen dataclasses, checked when they are made, before any work starts."""

import dataclasses
import difflib
import itertools
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from tsam_jax.data import streaming
from tsam_jax.data.digits import NUM_IMAGES
from tsam_jax.estimator import known_cost
from tsam_jax.recipes import RECIPES, Recipe
from tsam_jax.train.settings import Setting, parse


class ConfigError(Exception):
    """A configuration that cannot be run; the message names the option.

    Not a ValueError, which the parser of the command line would show in a form of its own.
    """


@dataclasses.dataclass(frozen=True)
class Task:
    """What is learnt, from which labels, by which network."""

    dataset: str = "digits"
    """The data set: digits (scikit-learn's, no download), cifar10 or another one of TensorFlow
    Datasets, folder:PATH, npz:PATH, table:PATH, tiny-imagenet:PATH, glue:TASK."""
    data_dir: str | None = None
    """Where the files of a data set are that is known by name alone."""
    vocabulary: str | None = None
    """Vocabulary file of the tokens, for text."""
    max_length: int = 64
    """Tokens of a text; what is longer is cut."""
    image_size: int | None = None
    """Height and width to which images are resized."""
    train_size: int | None = 1000
    """Number of training examples, None for all."""
    evaluation_size: int | None = None
    """Number of validation examples, and of test examples, None for all."""
    stream: bool = False
    """Whether training examples are read while the device works, for what does not fit on it."""
    label_noise: float = 0.4
    """Share of the training labels that are replaced, 0 to 1."""
    noise_law: Literal["other-labels", "official"] = "other-labels"
    """By which labels: others, as the paper says; or any, as its code does."""
    model: str = "mlp"
    """The network by name."""
    width: int = 256
    """Units of a hidden layer of the MLP."""
    depth: int = 2
    """Hidden layers of the MLP."""
    dropout: float | None = None
    """Share of units that are dropped, below 1, where the network has dropout; None for its own."""
    remat: bool = False
    """Whether blocks of the network are computed anew for the gradient, to save memory."""
    pretrained: str | None = None
    """Folder or file of pretrained weights, in place of `model`."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in; parameters, losses and averages stay float32."""
    augmentation: Literal["none", "crop-flip", "official"] = "none"
    """What is done to the training images, anew in each step, whose probes all see the same;
    official: crop, flip, and cutout of one half of them."""
    loss: Literal["cross-entropy", "official", "mse"] = "cross-entropy"
    """The loss: smoothed labels as in optax, or as in the paper's code; mse for regression."""
    label_smoothing: float = 0.0
    """Share of a label that goes to other classes, 0 to 1."""

    metrics: tuple[str, ...] = ()
    """What is measured beside the loss; the first one chooses the best epoch: accuracy, f1,
    matthews; pearson, spearman of numbers. Default: what a task of GLUE is judged by, else
    accuracy, or the loss for numbers."""

    def __post_init__(self) -> None:
        """Checks the values."""
        _check("label-noise", self.label_noise, low=0, high=1)
        if self.train_size is not None:
            high = NUM_IMAGES - 298 if self.dataset == "digits" else math.inf
            _check("train-size", self.train_size, low=1, high=high)
        if self.evaluation_size is not None:
            _check("evaluation-size", self.evaluation_size, low=1)
        if self.stream:
            try:
                streaming.check_installed()
            except ImportError as error:
                msg = f"`--stream`: {error}"
                raise ConfigError(msg) from None
        _check("max-length", self.max_length, low=1)
        _check("width", self.width, low=1)
        _check("depth", self.depth, low=0)
        if self.dropout is not None:
            _check("dropout", self.dropout, low=0, below=1)
        _check("label-smoothing", self.label_smoothing, low=0, high=1)
        if self.loss == "mse" and (self.label_smoothing or self.label_noise):
            msg = "`--loss mse` is for numbers: `--label-smoothing` and `--label-noise` must be 0."
            raise ConfigError(msg)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """The base optimizer."""

    base: str = "sgd"
    """An optimizer of optax; with arguments of its own in quotes: "adamw(b2=0.99)"."""
    lr: float = 0.03
    """Learning rate; a setting may replace it: `sam(rho=0.8, lr=0.1)`."""
    momentum: float = 0.9
    """Momentum, below 1, of optimizers that take it; a setting may replace it."""
    weight_decay: float = 5e-4
    """Weight decay: decoupled in optimizers that have it, else an L2 penalty added to the gradient;
    a setting may replace it."""
    schedule: Literal["constant", "step", "cosine"] = "constant"
    """Of the learning rate: step is times 0.2 after 30, 60 and 80 % of the training."""
    warmup: float = 0.0
    """Epochs in which the learning rate rises to its value."""
    clip: float | None = None
    """Largest global norm of the gradient estimate; what is longer is shortened."""
    batch_size: int = 50
    """Examples a step."""
    accumulate: int = 1
    """Parts in which a batch is evaluated one after the other, to save memory; the estimate is
    that of the whole batch."""
    ema: float | None = None
    """Decay of an average of the parameters, below 1: it is what is measured, then."""

    def __post_init__(self) -> None:
        """Checks the values."""
        _check("lr", self.lr, low=0)
        _check("momentum", self.momentum, low=0, below=1)
        _check("weight-decay", self.weight_decay, low=0)
        _check("warmup", self.warmup, low=0)
        _check("batch-size", self.batch_size, low=1)
        _check("accumulate", self.accumulate, low=1)
        if self.clip is not None:
            _check("clip", self.clip, low=0, open_low=True)
        if self.ema is not None:
            _check("ema", self.ema, low=0, below=1)
        if self.batch_size % self.accumulate:
            msg = (
                f"`--accumulate` must divide `--batch-size`, got {self.accumulate} and"
                f" {self.batch_size}."
            )
            raise ConfigError(msg)

    def for_setting(self, setting: Setting) -> "Optimizer":
        """The optimizer with what the setting replaces."""
        return _overridden(self, setting)


@dataclasses.dataclass(frozen=True)
class Budget:
    """How long each method trains."""

    budget: float = 600.0
    """Gradient evaluations a method may spend, in passes over the training images: 600 are 600
    epochs of ERM, 300 of SAM, 100 of TSAM with 3 samples."""
    epochs: int | None = None
    """Epochs of every method instead, whatever they cost."""

    def __post_init__(self) -> None:
        """Checks the values."""
        _check("budget", self.budget, low=0, open_low=True)
        if self.epochs is not None:
            _check("epochs", self.epochs, low=1)

    def epochs_for(self, setting: Setting) -> int:
        """Epochs that the budget buys a setting, by what its steps cost: at least 1."""
        own = _overridden(self, setting)
        if self.epochs is not None and "budget" not in setting.overrides:
            return self.epochs
        return max(1, math.floor(own.budget / known_cost(setting.build().cost).gradients))


@dataclasses.dataclass(frozen=True)
class Runs:
    """Several seeds of several methods: what `compare` and `sweep` share."""

    seeds: int = 3
    """Number of seeds, 0, 1, ...: each has its own wrong labels, initial weights, batches and
    noise, and is the same for every method."""
    seeds_together: Literal["auto", "yes", "no"] = "auto"
    """Whether the seeds of a method run as one program; auto: whichever is faster here."""
    evaluations: int = 100
    """How often each method is measured while it trains."""
    flatness_examples: int = 2000
    """Training examples on whose loss `compare` measures flatness, 0 to leave that out: it costs
    150 losses and 30 Hessian products for each of them."""

    def __post_init__(self) -> None:
        """Checks the values."""
        _check("seeds", self.seeds, low=1)
        _check("flatness-examples", self.flatness_examples, low=0)
        _check("evaluations", self.evaluations, low=1)


def find_recipe(name: str) -> Recipe:
    """The recipe of a name.

    Args:
      name: the name.

    Returns:
      The recipe.

    Raises:
      ConfigError: if there is none.
    """
    if name in RECIPES:
        return RECIPES[name]
    close = difflib.get_close_matches(name, RECIPES, n=1)
    hint = f" Perhaps you meant `{close[0]}`." if close else ""
    msg = f"`{name}` is not a recipe: there are {', '.join(RECIPES)}.{hint}"
    raise ConfigError(msg)


def parse_methods(texts: tuple[str, ...], recipe: str = "digits") -> list[Setting]:
    """Reads settings, bare names standing for the tuned ones.

    Args:
      texts: settings or grids of settings; "all" for every method that the recipe compares.
      recipe: the recipe whose settings bare names stand for.

    Returns:
      The settings, in order.

    Raises:
      ConfigError: if there is none, or one is given twice.
    """
    known = find_recipe(recipe)
    texts = tuple(itertools.chain(*(known.everything if t == "all" else [t] for t in texts)))
    settings = [setting for text in texts for setting in parse(text, known.settings)]
    if not settings:
        msg = "`--methods` needs at least one method, for example `--methods erm sam tsam`."
        raise ConfigError(msg)
    labels = [setting.text for setting in settings]
    repeated = [label for label in dict.fromkeys(labels) if labels.count(label) > 1]
    if repeated:
        msg = f"`--methods` has {', '.join(repeated)} more than once."
        raise ConfigError(msg)
    return settings


def check_batch(train_size: int | None, optimizer: Optimizer, settings: Sequence[Setting]) -> None:
    """Refuses a batch that is larger than the training part, or that a setting cannot split.

    Args:
      train_size: training examples; None if that is not known yet.
      optimizer: with the size of the batch.
      settings: the settings.

    Raises:
      ConfigError: if it is.
    """
    if train_size is not None and optimizer.batch_size > train_size:
        msg = (
            f"`--batch-size` must be at most `--train-size`, got {optimizer.batch_size} and"
            f" {train_size}."
        )
        raise ConfigError(msg)
    for setting in settings:
        s = setting.arguments["s"] if setting.arguments.get("split_batch") else 1
        if optimizer.batch_size % s:
            msg = (
                f"`--batch-size` must be a multiple of s = {s} in `{setting.text}`, whose samples"
                f" split the batch, got {optimizer.batch_size}."
            )
            raise ConfigError(msg)


def check_new(path: Path) -> None:
    """Refuses a directory for a run that is not new or empty.

    Raises:
      ConfigError: if it has files in it.
    """
    if path.is_dir() and any(path.iterdir()):
        msg = f"`--out` must be a new or empty directory, but {path} has files in it."
        raise ConfigError(msg)


def check_writable(path: Path) -> None:
    """Makes a directory and writes a file in it, so that a failure comes before the work.

    Raises:
      ConfigError: if that fails.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        msg = f"`--out`: cannot write to {path}: {os.strerror(error.errno or 0)}."
        raise ConfigError(msg) from error


_Config = TypeVar("_Config")


def _overridden(shared: _Config, setting: Setting) -> _Config:
    """Replaces what the setting has of its own."""
    names = {field.name for field in dataclasses.fields(shared)}  # type: ignore[arg-type]
    own: dict[str, Any] = {k: v for k, v in setting.overrides.items() if k in names}
    return dataclasses.replace(shared, **own)  # type: ignore[type-var]


def _check(
    name: str,
    value: float,
    *,
    low: float,
    high: float = math.inf,
    below: float = math.inf,
    open_low: bool = False,
) -> None:
    good = low <= value <= high and value < below and not (open_low and value == low)
    if not good or not math.isfinite(value):
        bound = f"> {low}" if open_low else f">= {low}"
        rule = f"a finite number {bound}" if math.isinf(high) else f"between {low} and {high}"
        rule = rule if math.isinf(below) else f">= {low} and < {below}"
        msg = f"`--{name}` must be {rule}, got {value!r}."
        raise ConfigError(msg)
