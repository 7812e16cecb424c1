"""Options, and the one rule of precedence: flag > setting > recipe > default of the model family.

`Task`, `Optimizer` and `Budget` hold resolved values. `flags(Task)` is the same class for the
command line: every field defaults to None, which means "not given". Imports neither jax nor flax,
so that `--help` is fast.
"""

import contextlib
import dataclasses
import difflib
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    TypeAlias,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

import tyro

from tsam_jax.recipes import RECIPES, Recipe

VALUE_COST = 1 / 3
"""Cost of a loss evaluation in gradient evaluations: forward against forward and backward."""

_LARGEST = 1e300  # integers beyond it are no floats

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
    """Base of the option classes: checks every field against its bounds."""

    def __post_init__(self) -> None:
        """Checks the values."""
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            _check_type(field.name, value, hints[field.name])
            check(field.name, value, field.metadata)


_NOISE_LAW = "Label-noise law: other-labels (paper), or official (may redraw the true label)."
_BUDGET = "Gradient evaluations per method, in passes over the training set; a loss counts 1/3."


@dataclasses.dataclass(frozen=True)
class Task(Options):
    """Data, network and loss."""

    dataset: str = option(
        "digits", "Data: digits, cifar10 (or another of tfds), KIND:PATH, glue:TASK."
    )
    data_dir: str | None = option(None, "Folder of data sets that are known by name.")
    vocabulary: str | None = option(
        None, "Vocabulary file for text. Default: that of --pretrained."
    )
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
    dropout: float | None = option(
        None, "Dropout rate. Default: the network's own.", low=0, below=1
    )
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

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        if self.batch_size % self.accumulate:
            msg = (
                f"`--accumulate` must divide `--batch-size`, got {self.accumulate} and"
                f" {self.batch_size}."
            )
            raise ConfigError(msg)


@dataclasses.dataclass(frozen=True)
class Budget(Options):
    """Length of training."""

    budget: float | None = option(None, _BUDGET, above=0)
    epochs: int | None = option(None, "Epochs of every method, whatever they cost.", low=1)

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        if self.budget is not None and self.epochs is not None:
            msg = (
                f"`--budget` and `--epochs` are two ways to set the length of training: give one,"
                f" got {self.budget:g} and {self.epochs}."
            )
            raise ConfigError(msg)


_WORDS = {str: "TEXT", int: "INT", float: "FLOAT", Path: "PATH", bool: "{True,False}"}


def argument(hint: Any, values: Any = None, help_: str | None = None) -> Any:
    """A type hint for the parser, whose help shows the `values` of it without None and a default.

    Example:
      >>> argument(float | None).__metadata__[0].metavar
      'FLOAT'
    """
    shown = tyro.conf.arg(metavar=_word(values or hint), help=help_, help_behavior_hint="")
    return Annotated[hint, shown]


def _word(hint: Any) -> str:
    choices = [one for one in get_args(hint) if one is not type(None)]
    if get_origin(hint) is Literal:
        return f"{{{','.join(choices)}}}"
    word = _WORDS.get(hint) or _word(choices[0])
    return f"{word} [{word} ...]" if get_origin(hint) is tuple else word


def flags(kind: type[Any]) -> Any:
    """The command-line version of an option class: fields default to None, "not given".

    Where None is a value, the flag takes the word "none" for it. Switches default to False; no
    recipe or family sets one.
    """
    hints, fields = get_type_hints(kind), []
    for field in dataclasses.fields(kind):
        hint, help_ = hints[field.name], field.metadata["help"]
        given = hint | Literal["none"] if type(None) in get_args(hint) else hint
        flag: Any = argument(given | None, hint, help_)
        if hint is bool:
            flag = Annotated[bool, tyro.conf.arg(help=help_, help_behavior_hint="")]
        default = dataclasses.field(default=False if hint is bool else None)
        fields.append((field.name, flag, default))
    made = dataclasses.make_dataclass(kind.__name__, fields, frozen=True)
    made.__doc__, made.__module__ = kind.__doc__, __name__
    return made


if TYPE_CHECKING:
    TaskFlags: TypeAlias = Any
    OptimizerFlags: TypeAlias = Any
    BudgetFlags: TypeAlias = Any
else:
    TaskFlags, OptimizerFlags, BudgetFlags = flags(Task), flags(Optimizer), flags(Budget)


_CLEARABLE = {
    name
    for kind in (Task, Optimizer, Budget)
    for name, hint in get_type_hints(kind).items()
    if type(None) in get_args(hint)
}


def given(options: Any) -> dict[str, Any]:
    """The options that were given as flags, name -> value."""
    values = {k: v for k, v in vars(options).items() if v is not None and v is not False}
    return {k: None if v == "none" and k in _CLEARABLE else v for k, v in values.items()}


Level = tuple[str, Mapping[str, Any]]
"""Where values come from, in words, and the values by option name."""

_Kind = TypeVar("_Kind")


def merge(kind: type[_Kind], levels: Iterable[Level]) -> tuple[_Kind, dict[str, str]]:
    """Resolves the options of a class.

    Args:
      kind: `Task`, `Optimizer` or `Budget`.
      levels: from the weakest to the strongest.

    Returns:
      The options, and option -> the level that its value comes from ("default" if none has it).

    Example:
      >>> found, origins = merge(Optimizer, [("recipe", {"lr": 0.3}), ("flag", {"lr": 0.5})])
      >>> found.lr, origins["lr"], origins["momentum"]
      (0.5, 'flag', 'default')
    """
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    origins = dict.fromkeys(names, "default")
    for origin, level in levels:
        own = {name: level[name] for name in names if name in level}
        if own and kind is Budget:  # a stronger level replaces the length as a whole
            values, origins = {}, dict.fromkeys(names, "default")
        values |= own
        origins |= dict.fromkeys(own, origin)
    return kind(**values), origins


def find_recipe(name: str) -> Recipe:
    """Returns a recipe by name; raises ConfigError, with the nearest name, if it is unknown."""
    known(name, RECIPES, "recipe")
    return RECIPES[name]


def known(name: str, names: Iterable[str], what: str, error: type[Exception] = ConfigError) -> None:
    """Raises an error, with all names and the nearest one, unless a name is known."""
    names = list(names)
    if name in names:
        return
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" Perhaps you meant `{close[0]}`." if close else ""
    msg = f"`{name}` is not a known {what}: there are {', '.join(sorted(names))}.{hint}"
    raise error(msg)


def require(right: object, message: str) -> None:
    """Raises ConfigError unless a condition holds."""
    if not right:
        raise ConfigError(message)


@contextlib.contextmanager
def refused(option: str, *errors: type[Exception]) -> Iterator[None]:
    """Turns errors into ConfigError, with the option before their message."""
    try:
        yield
    except errors as error:
        msg = f"`{option}`: {error}"
        raise ConfigError(msg) from error


def check(name: str, value: Any, bounds: Mapping[str, Any]) -> None:
    """Raises ConfigError unless a number is finite and within bounds, see `option`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    low, above = bounds.get("low", -math.inf), bounds.get("above", -math.inf)
    high, below = bounds.get("high", math.inf), bounds.get("below", math.inf)
    if abs(value) < _LARGEST and low <= value <= high and above < value < below:
        return
    words = {"low": ">=", "above": ">", "high": "<=", "below": "<"}
    rule = " and ".join(f"{word} {bounds[key]}" for key, word in words.items() if key in bounds)
    msg = f"`--{name.replace('_', '-')}` must be a finite number {rule}, got {_brief(value)}."
    raise ConfigError(msg)


def _check_type(name: str, value: Any, hint: Any) -> None:
    """Raises ConfigError for a value of another type, from a file that was edited by hand."""
    choices = get_args(hint)
    if get_origin(hint) is Literal:
        right = value in choices
    elif get_origin(hint) is tuple:
        right = isinstance(value, tuple) and all(isinstance(x, str) for x in value)
    else:
        kinds = choices or (hint,)
        right = isinstance(value, kinds) or (float in kinds and isinstance(value, int))
        right = right and (bool in kinds or not isinstance(value, bool))
    if not right:
        kind = getattr(hint, "__name__", str(hint))
        msg = f"`--{name.replace('_', '-')}` must be {kind}, got {_brief(value)}."
        raise ConfigError(msg)


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_new(path: Path) -> None:
    """Raises ConfigError unless a directory is new or empty."""
    if path.is_dir() and any(path.iterdir()):
        msg = f"`--out` must be a new or empty directory, but {path} has files in it."
        raise ConfigError(msg)


def check_writable(path: Path) -> None:
    """Makes a directory and writes a file in it, so that it fails before the work."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        msg = f"`--out`: cannot write to {path}: {os.strerror(error.errno or 0)}."
        raise ConfigError(msg) from error
