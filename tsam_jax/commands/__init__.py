"""The commands of `tsam-jax`: a dataclass each, with `run(console) -> exit status`.

Every public class with `run` in a module of this package is a command: its name in lower case, its
help the docstring. What takes time to import is imported in `run`.
"""

import datetime as dt
import importlib
import pkgutil
import secrets
import types
import typing
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from tsam_jax.train import config

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells expect it."""

OUT = "Directory of the results. Default: runs/COMMAND-DATE-TIME-ID."


class Command(config.Options):
    """Base of the commands: values of their types within their bounds, help without None."""

    def __init_subclass__(cls) -> None:
        """Leaves None, and defaults that the help has in words, out of it."""
        for name, hint in cls.__annotations__.items():
            optional = isinstance(hint, types.UnionType)
            if optional or "tuple" in str(hint):
                metavar = typing.get_args(hint)[0].__name__.upper() if optional else None
                words = tyro.conf.arg(help_behavior_hint="", metavar=metavar)
                cls.__annotations__[name] = Annotated[hint, words]


def default_directory(command: str) -> Path:
    """A directory for results, with a name of its own even among runs of the same second."""
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
            if own and hasattr(kind, "run") and not kind.__name__.startswith("_"):
                found[kind.__name__.lower()] = kind
    return dict(sorted(found.items()))
