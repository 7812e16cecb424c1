"""`tsam-jax methods` and `tsam-jax recipes`: tables of both."""

import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tsam_jax.commands import Command
from tsam_jax.recipes import RECIPES, noisy_digits

_PAPER = "from_paper(t=20, s=3)"  # needs millions of parameters, and so is not for the digits
_COMMON = ("mask", "aux", "strategy")


@dataclasses.dataclass(frozen=True)
class Methods(Command):
    """List methods and wrappers, with costs and sources."""

    def run(self, console: Console) -> int:
        """Prints the table; returns 0."""
        console.print(methods_table())
        return 0


@dataclasses.dataclass(frozen=True)
class Recipes(Command):
    """List recipes, with published results."""

    def run(self, console: Console) -> int:
        """Prints the table; returns 0."""
        console.print(recipes_table())
        return 0


def recipes_table() -> Table:
    """The table of recipes: name, task, published results."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("recipe", no_wrap=True)
    table.add_column("task", overflow="fold")
    table.add_column("published", overflow="fold")
    for name, recipe in RECIPES.items():
        table.add_row(Text(name, "bold"), Text(recipe.summary), Text(recipe.published or "-"))
    return table


def methods_table() -> Table:
    """The table of methods, with costs of their settings for the digits, and of wrappers.

    Arguments that all methods share are left out.
    """
    from tsam_jax.methods import METHODS, WRAPPERS
    from tsam_jax.train.settings import parse

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, leading=1)
    table.add_column("method", no_wrap=True)
    table.add_column("gradient estimate, arguments with defaults, source", overflow="fold")
    table.add_column("gradients\n+ losses\na step", justify="right")
    for name, method in METHODS.items():
        cost = parse(noisy_digits.SETTINGS.get(name, _PAPER))[0].cost
        losses = f"\n+ {cost.values:g}" if cost.values else ""
        table.add_row(*_described(name, method), f"{cost.gradients:g}{losses}")
    for name, wrapper in WRAPPERS.items():
        table.add_row(*_described(name, wrapper), "as the\nestimator\ninside")
    return table


def _described(name: str, function: Callable[..., Any]) -> tuple[Text, Text]:
    """The name; and formula, arguments and source. Without a formula, the summary in words."""
    from tsam_jax.methods import FORMULAS

    formula = FORMULAS.get(name) or (inspect.getdoc(function) or "").partition("\n")[0]
    parts = [Text(formula), Text(_knobs(function), "bold"), Text(_source(function), "dim")]
    return Text(name, style="bold"), Text("\n").join(part for part in parts if part)


def _knobs(function: Callable[..., Any]) -> str:
    knobs = []
    for p in inspect.signature(function).parameters.values():
        if p.name in _COMMON or p.kind is p.VAR_KEYWORD:
            continue
        knobs.append(p.name if p.default is p.empty else f"{p.name}={_shown(p.default)}")
    return ", ".join(knobs)


def _shown(default: object) -> str:
    if callable(default):
        return getattr(default, "__name__", "…").replace("<lambda>", "…")
    if isinstance(default, tuple) and len(default) > 4:
        return f"({default[0]}, {default[1]}, … {default[-1]})"
    return repr(default)


def _source(function: Callable[..., Any]) -> str:
    """The first sentence of the docstring's Source section."""
    text = inspect.getdoc(function) or ""
    found = re.search(
        r"^Source: (.*?)(?<!\bal)(?<!\bEq)(?:\.\s|;|\Z)", text, re.DOTALL | re.MULTILINE
    )
    return " ".join(found.group(1).split()) if found else ""
