"""Configuration: frozen dataclasses, checked when they are made, before any work starts."""

import dataclasses
import itertools
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from tsam_jax.data.digits import NUM_IMAGES
from tsam_jax.recipes import noisy_digits
from tsam_jax.train.settings import Setting, parse


class ConfigError(Exception):
    """A configuration that cannot be run; the message names the option.

    Not a ValueError, which the parser of the command line would show in a form of its own.
    """


@dataclasses.dataclass(frozen=True)
class Task:
    """What is learnt, from which labels, by which network."""

    dataset: Literal["digits"] = "digits"
    """The data set; digits is scikit-learn's, real images, no download."""
    label_noise: float = 0.4
    """Share of the training labels that are replaced by other labels, 0 to 1."""
    train_size: int = 1000
    """Number of training images; 297 more are for validation, the rest for the test."""
    width: int = 256
    """Units of a hidden layer of the MLP."""
    depth: int = 2
    """Hidden layers of the MLP."""

    def __post_init__(self) -> None:
        """Checks the values."""
        _check("label-noise", self.label_noise, low=0, high=1)
        _check("train-size", self.train_size, low=1, high=NUM_IMAGES - 298)
        _check("width", self.width, low=1)
        _check("depth", self.depth, low=0)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """The base optimizer: SGD with momentum and coupled weight decay, constant learning rate."""

    lr: float = 0.03
    """Learning rate; a setting may replace it: `sam(rho=0.8, lr=0.1)`."""
    momentum: float = 0.9
    """Momentum, 0 to 1; a setting may replace it."""
    weight_decay: float = 5e-4
    """L2 penalty added to the gradient; a setting may replace it."""
    batch_size: int = 50
    """Images a step."""

    def __post_init__(self) -> None:
        """Checks the values."""
        _check("lr", self.lr, low=0)
        _check("momentum", self.momentum, low=0, high=1)
        _check("weight-decay", self.weight_decay, low=0)
        _check("batch-size", self.batch_size, low=1)

    def for_setting(self, setting: Setting) -> "Optimizer":
        """The optimizer with what the setting replaces."""
        return _overridden(self, setting)


@dataclasses.dataclass(frozen=True)
class Budget:
    """How long each method trains."""

    budget: float = noisy_digits.BUDGET
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
        return max(1, math.floor(own.budget / setting.build().cost.gradients))


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

    def __post_init__(self) -> None:
        """Checks the values."""
        _check("seeds", self.seeds, low=1)
        _check("evaluations", self.evaluations, low=1)


def parse_methods(texts: tuple[str, ...]) -> list[Setting]:
    """Reads settings, bare names standing for the tuned ones.

    Args:
      texts: settings or grids of settings; "all" for every method.

    Returns:
      The settings, in order.

    Raises:
      ConfigError: if there is none, or one is given twice.
    """
    texts = tuple(itertools.chain(*(noisy_digits.ALL if t == "all" else [t] for t in texts)))
    settings = [setting for text in texts for setting in parse(text, noisy_digits.SETTINGS)]
    if not settings:
        msg = "`--methods` needs at least one method, for example `--methods erm sam tsam`."
        raise ConfigError(msg)
    labels = [setting.text for setting in settings]
    repeated = [label for label in dict.fromkeys(labels) if labels.count(label) > 1]
    if repeated:
        msg = f"`--methods` has {', '.join(repeated)} more than once."
        raise ConfigError(msg)
    return settings


def check_batch(task: Task, optimizer: Optimizer, settings: Sequence[Setting]) -> None:
    """Refuses a batch that is larger than the training part, or that a setting cannot split.

    Raises:
      ConfigError: if it is.
    """
    if optimizer.batch_size > task.train_size:
        msg = (
            f"`--batch-size` must be at most `--train-size`, got {optimizer.batch_size} and"
            f" {task.train_size}."
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


def make_run_directory(path: Path) -> Path:
    """Makes an empty, writable directory for a run.

    Args:
      path: where; must not exist, or be empty.

    Returns:
      The path.

    Raises:
      ConfigError: if it has files in it, is no directory, or cannot be written.
    """
    if path.is_dir() and any(path.iterdir()):
        msg = f"`--out` must be a new or empty directory, but {path} has files in it."
        raise ConfigError(msg)
    check_writable(path)
    return path


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
    name: str, value: float, *, low: float, high: float = math.inf, open_low: bool = False
) -> None:
    good = low <= value <= high and math.isfinite(value) and not (open_low and value == low)
    if not good:
        bound = f"> {low}" if open_low else f">= {low}"
        rule = f"a finite number {bound}" if math.isinf(high) else f"between {low} and {high}"
        msg = f"`--{name}` must be {rule}, got {value!r}."
        raise ConfigError(msg)
