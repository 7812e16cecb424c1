"""Options, and the one rule of precedence: flag > setting > recipe > default of the model family.

`Task`, `Optimizer` and `Budget` hold resolved values; `TaskFlags`, `OptimizerFlags` and
`BudgetFlags` are dictionaries of those given on the command line. Imports neither jax nor flax, so
that `--help` is fast.
"""

import contextlib
import dataclasses
import difflib
import operator
import os
import tempfile
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar

import typeguard
import tyro

VALUE_COST = 1 / 3
"""Cost of a loss evaluation in gradient evaluations: forward against forward and backward."""

OVERRIDES = ("lr", "momentum", "weight_decay", "budget")
"""Options that a setting may override for its method."""


class ConfigError(Exception):
    """An invalid configuration; the message names the option.

    Not a ValueError, which the parser of the command line would reformat.
    """


def option(default: Any, help_: str, **bounds: Any) -> Any:
    """A field with help and bounds: `low`, `high`, `below` (exclusive), `above` (exclusive)."""
    return dataclasses.field(default=default, metadata={"help": help_, **bounds})


def switch(help_: str) -> Any:
    """A boolean field that defaults to False."""
    return option(default=False, help_=help_)


class Options:
    """Base of the option classes: checks every field against its type and bounds."""

    def __post_init__(self) -> None:
        """Checks the values."""
        check(type(self), vars(self))


_NOISE_LAW = "Label-noise law: other-labels (paper), or official (may redraw the true label)."
_BUDGET = "Gradient evaluations per method, in passes over the training set; a loss counts 1/3."


@dataclasses.dataclass(frozen=True)
class Task(Options):
    """Data, network and loss."""

    dataset: str = option("digits", "Data: digits, cifar10 (or any of tfds), KIND:PATH, glue:TASK.")
    data_dir: str | None = option(None, "Folder of data sets that are known by name.")
    vocabulary: str | None = option(None, "Vocabulary file. Default: that of --pretrained.")
    max_length: int = option(128, "Tokens per text; longer texts are truncated.", low=1)
    casing: str | None = option(None, "Text: cased or uncased. Default: the checkpoint's.")
    text_columns: tuple[str, ...] = option((), "Columns of a table with text, one or two.")
    label_column: str | None = option(None, "Column of a table with labels. Default: label.")
    delimiter: str | None = option(None, "Delimiter of a table. Default: by the file's name.")
    image_size: int | None = option(None, "Resize images to this height and width.", low=1)
    train_size: int | None = option(None, "Training examples to use. Default: all.", low=1)
    evaluation_size: int | None = option(None, "Validation and test examples. Default: all.", low=1)
    stream: bool = switch("Read training examples while the device computes (needs grain).")
    label_noise: float = option(0.0, "Fraction of training labels to replace.", low=0, high=1)
    noise_law: Literal["other-labels", "official"] = option("other-labels", _NOISE_LAW)
    model: str | None = option(None, "Network by name. Default: by the kind of data.")
    width: int = option(256, "Hidden units per layer of the mlp.", low=1)
    depth: int = option(2, "Hidden layers of the mlp.", low=0)
    dropout: float | None = option(None, "Dropout rate. Default: the network's.", low=0, below=1)
    remat: bool = switch("Recompute activations in the backward pass, to save memory.")
    pretrained: str | None = option(None, "Folder or file of pretrained weights; sets the model.")
    precision: Literal["float32", "bfloat16"] = option("float32", "Precision of the network.")
    augmentation: str = option("none", "Augmentation: none, crop-flip, or official (with cutout).")
    loss: str | None = option(None, "Loss: cross-entropy, official, mse. Default: by the labels.")
    label_smoothing: float = option(0.0, "Label smoothing.", low=0, high=1)
    metrics: tuple[str, ...] = option(
        (), "Metrics; the first selects. Default: GLUE's, or accuracy."
    )


@dataclasses.dataclass(frozen=True)
class Optimizer(Options):
    """Base optimizer."""

    base: str = option("sgd", 'Optimizer of optax; with arguments in quotes: "adamw(b2=0.99)".')
    lr: float = option(0.1, "Learning rate.", low=0)
    momentum: float = option(0.9, "Momentum, for optimizers that take it.", low=0, below=1)
    weight_decay: float = option(5e-4, "Weight decay, decoupled where the optimizer has it.", low=0)
    schedule: str = option("constant", "Learning-rate schedule: constant, linear, cosine, step.")
    warmup: float = option(0.0, "Epochs of linear learning-rate warm-up.", low=0)
    clip: float | None = option(None, "Clip the gradient to this global norm.", above=0)
    batch_size: int = option(128, "Examples per step.", low=1)
    accumulate: int = option(1, "Micro-batches per step, to save memory.", low=1)
    ema: float | None = option(None, "Decay of a weight average, to evaluate.", low=0, below=1)
    recalibrate: bool = switch("Recompute BatchNorm statistics before each evaluation.")


@dataclasses.dataclass(frozen=True)
class Budget(Options):
    """Length of training."""

    budget: float | None = option(None, _BUDGET, above=0)
    epochs: int | None = option(None, "Epochs of every method, whatever they cost.", low=1)

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        require(
            self.budget is None or self.epochs is None,
            "`--budget` and `--epochs` are two ways to set the length of training: give one, got"
            f" {self.budget or 0:g} and {self.epochs}.",
        )


def flags(kind: type[Any]) -> Any:
    """The command-line version of an option class: a dictionary of the options that are given."""
    hints, own = typing.get_type_hints(kind), {}
    for field in dataclasses.fields(kind):
        words = tyro.conf.arg(help=field.metadata["help"], help_behavior_hint="")
        own[field.name] = Annotated[hints[field.name], words]
    made: Any = typing.TypedDict(kind.__name__, own, total=False)  # type: ignore[misc, operator]
    made.__doc__ = kind.__doc__
    return made


if TYPE_CHECKING:
    TaskFlags: TypeAlias = dict[str, Any]
    OptimizerFlags: TypeAlias = dict[str, Any]
    BudgetFlags: TypeAlias = dict[str, Any]
else:
    TaskFlags, OptimizerFlags, BudgetFlags = flags(Task), flags(Optimizer), flags(Budget)

Level = tuple[str, Mapping[str, Any]]
"""Where values come from, in words, and the values by option name."""

_Kind = TypeVar("_Kind")


def merge(kind: type[_Kind], levels: Iterable[Level]) -> tuple[_Kind, dict[str, str]]:
    """Resolves the options of a class from levels, the weakest first.

    Returns:
      The options, and option -> the level that its value comes from ("default" if none has it).

    Example:
      >>> found, origins = merge(Optimizer, [("recipe", {"lr": 0.3}), ("flag", {"lr": 0.5})])
      >>> found.lr, origins["lr"], origins["momentum"]
      (0.5, 'flag', 'default')
    """
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, level in levels:
        own = {name: level[name] for name in names if name in level}
        if own and kind is Budget:  # a stronger level replaces the length as a whole
            values, origins = {}, {}
        values |= own
        origins |= dict.fromkeys(own, origin)
    return kind(**values), dict.fromkeys(names, "default") | origins


def known(name: str, names: Iterable[str], what: str, error: type[Exception] = ConfigError) -> None:
    """Raises an error, with all names and the nearest one, unless a name is known."""
    names = sorted(names)
    if name in names:
        return
    close = [f" Perhaps you meant `{x}`." for x in difflib.get_close_matches(name, names, n=1)]
    msg = f"`{name}` is not a known {what}: there are {', '.join(names)}.{''.join(close)}"
    raise error(msg)


def require(right: object, message: str, error: type[Exception] = ConfigError) -> None:
    """Raises an error unless a condition holds."""
    if not right:
        raise error(message)


@contextlib.contextmanager
def refused(option: str, *errors: type[Exception]) -> Iterator[None]:
    """Turns errors into ConfigError, with the option before their message."""
    try:
        yield
    except errors as error:
        msg = f"`{option}`: {error}"
        raise ConfigError(msg) from error


_RULES: Mapping[str, tuple[str, Any]] = {
    "low": (">=", operator.ge),
    "above": (">", operator.gt),
    "high": ("<=", operator.le),
    "below": ("<", operator.lt),
}


def broken_rule(value: Any, bounds: Mapping[str, Any]) -> str:
    """What a value must be if it is no finite number within bounds, see `option`; else ""."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "a number"
    rules = [(*_RULES[key], bounds[key]) for key in _RULES if key in bounds]
    # integers beyond 1e300 are no floats
    if abs(value) < 1e300 and all(holds(value, bound) for _, holds, bound in rules):
        return ""
    return f"a finite number {' and '.join(f'{sign} {x}' for sign, _, x in rules)}".strip()


def check(kind: type[Any], values: Mapping[str, Any]) -> None:
    """Raises ConfigError if a value of a field is of another type, or a number out of bounds."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.name not in values:
            continue
        value, hint = values[field.name], hints[field.name]
        try:
            typeguard.check_type(value, hint)
            right = not isinstance(value, bool) or hint is bool  # for Python it is an integer
        except typeguard.TypeCheckError:
            right = False
        rule = "" if right else getattr(hint, "__name__", str(hint))
        if right and isinstance(value, int | float) and hint is not bool:
            rule = broken_rule(value, field.metadata)
        name = flag(field.name)
        require(not rule, f"`{name}` must be {rule}, got {shown(repr(value), 60)}.")


def flag(name: str) -> str:
    """The option of a name: "--weight-decay"."""
    return f"--{name.replace('_', '-')}"


def shown(text: str, most: int = 100) -> str:
    """Shortens a text for a message: one printable line."""
    text = " ".join(text[: 2 * most].split())
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= most else f"{text[: most - 3]}..."


def check_new(path: Path) -> None:
    """Raises ConfigError unless a directory is new or empty."""
    full = path.is_dir() and any(x.name[0] != "." for x in path.iterdir())
    require(not full, f"`--out` must be a new or empty directory, but {path} has files in it.")


def check_writable(path: Path) -> None:
    """Makes a directory and writes a file in it, so that it fails before the work."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        msg = f"`--out`: cannot write to {path}: {os.strerror(error.errno or 0)}."
        raise ConfigError(msg) from error
