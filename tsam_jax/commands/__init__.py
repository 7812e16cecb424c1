"""The commands of `tsam-jax`: a dataclass each, with `run(console) -> exit status`.

Every class with `run` in a module of this package is a command: its name in lower case, its help
the docstring. `first` is the option that a first word stands for. What takes time to import is
imported in `run`. `Common` has the options of the commands that train.
"""

import dataclasses
import datetime as dt
import importlib
import pkgutil
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, get_args, get_origin

import tyro
from rich.console import Console

from tsam_jax.train import config

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells expect it."""


def help_(text: str, default: Any = None) -> Any:
    """A field with a line of help."""
    return config.option(default, text)


class Command:
    """Base of the commands: help without None, and numbers within their bounds.

    Attributes:
      first: the option that a first word stands for.
      refused: option that the command does not take -> what to tell its user.
    """

    first: ClassVar[str | None] = None
    refused: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls) -> None:
        """Says how help shows the options that may be left out."""
        for name, hint in cls.__annotations__.items():
            inner = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
            if type(None) in get_args(inner) or get_origin(inner) is tuple:
                cls.__annotations__[name] = config.argument(hint, inner)

    def __post_init__(self) -> None:
        """Checks the values."""
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            config.check(field.name, getattr(self, field.name), field.metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common(Command):
    """Options of every command that trains."""

    first: ClassVar[str] = "--recipe"

    recipe: str | None = help_(
        "Recipe to start from, see `tsam-jax recipes`; other options override its values. May stand"
        " first, as may a data set with a colon. Default: digits, if no data set is named."
    )
    t: float | None = help_("Tilt of every method that has one, in units of 1/loss.")
    rho: float | None = help_("Length of the ascent step, of every method that has one.")
    s: int | None = help_("Number of samples, of every method that has one.")
    out: Path | None = config.option(
        None, "Directory of the results. Default: runs/COMMAND-DATE-TIME."
    )
    resume: Path | None = config.option(
        None, "Directory to resume, as it was started; takes no other options."
    )
    words: tyro.conf.Suppress[tuple[str, ...]] = ()
    mesh: str | None = help_(
        'Devices, for example "data=4,sample=2": batch over the first axis, samples of a method'
        " over the second. Default: one device."
    )
    task: config.TaskFlags = dataclasses.field(default_factory=config.TaskFlags)
    optimizer: config.OptimizerFlags = dataclasses.field(default_factory=config.OptimizerFlags)
    budget: config.BudgetFlags = dataclasses.field(default_factory=config.BudgetFlags)

    def with_recipe(self) -> Self:
        """The command with its recipe: digits, if nothing is named."""
        named = self.recipe or self.task.dataset
        return self if named else dataclasses.replace(self, recipe="digits")

    def flags(self) -> tuple[str, ...]:
        """The flags of data, network, optimizer and budget that were given, to be repeated."""
        found = []
        for group in (self.task, self.optimizer, self.budget):
            for name, value in config.given(group).items():
                values = value if isinstance(value, tuple) else (value,)
                words = () if value is True else ("none" if x is None else str(x) for x in values)
                found += [f"--{name.replace('_', '-')}", *words]
        return tuple(found)

    def directory(self, command: str) -> Path:
        """The directory of the results; whether its files belong there is checked later."""
        return self.out or _default(command)


def new_directory(out: Path | None, command: str) -> Path:
    """The directory of a run; ConfigError unless it is new or empty."""
    out = out or _default(command)
    config.check_new(out)
    return out


def _default(command: str) -> Path:
    """A name that no other process has: runs that start in the same second must not meet."""
    now = dt.datetime.now().astimezone()
    return Path("runs") / f"{command}-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def say(console: Console, text: str) -> None:
    """Prints a line as it is."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def commands() -> dict[str, type[Any]]:
    """The commands by name."""
    found = {}
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        for kind in vars(importlib.import_module(module.name)).values():
            own = isinstance(kind, type) and kind.__module__ == module.name
            if own and hasattr(kind, "run"):
                found[kind.__name__.lower()] = kind
    return dict(sorted(found.items()))
