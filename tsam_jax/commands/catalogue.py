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
_SOURCE = re.compile(r"^Source: (.*?)(?<!\bal)(?<!\bEq)(?:\.\s|;|\Z)", re.DOTALL | re.MULTILINE)
"""The first sentence of the Source section of a docstring."""


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
    table = _table("recipe", "task", "published")
    for name, recipe in RECIPES.items():
        table.add_row(Text(name, "bold"), Text(recipe.summary), Text(recipe.published or "-"))
    return table


def methods_table() -> Table:
    """The table of methods, with costs of their settings for the digits, and of wrappers.

    Arguments that all methods share are left out.
    """
    from tsam_jax.methods import METHODS, WRAPPERS
    from tsam_jax.train.settings import parse

    table = _table("method", "gradient estimate, arguments with defaults, source", leading=1)
    table.add_column("gradients\n+ losses\na step", justify="right")
    for name, method in METHODS.items():
        cost = parse(noisy_digits.SETTINGS.get(name, _PAPER))[0].cost
        losses = f"\n+ {cost.values:g}" if cost.values else ""
        table.add_row(*_described(name, method), f"{cost.gradients:g}{losses}")
    for name, wrapper in WRAPPERS.items():
        table.add_row(*_described(name, wrapper), "as the\nestimator\ninside")
    return table


def _table(*headings: str, **look: Any) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, **look)
    for heading in headings:
        table.add_column(heading, no_wrap=not table.columns, overflow="fold")
    return table


def _described(name: str, function: Callable[..., Any]) -> tuple[Text, Text]:
    """The name; and formula, arguments and source. Without a formula, the summary in words."""
    from tsam_jax.methods import FORMULAS

    words = inspect.getdoc(function) or ""
    formula = FORMULAS.get(name) or words.partition("\n")[0]
    parameters = inspect.signature(function).parameters.values()
    own = [p for p in parameters if p.name not in _COMMON and p.kind is not p.VAR_KEYWORD]
    knobs = ", ".join(p.name + _default(p.default) * (p.default is not p.empty) for p in own)
    source = " ".join("".join(_SOURCE.findall(words)[:1]).split())
    parts = [Text(formula), Text(knobs, "bold"), Text(source, "dim")]
    return Text(name, style="bold"), Text("\n").join(part for part in parts if part)


def _default(value: object) -> str:
    if callable(value):
        return f"={getattr(value, '__name__', '…').replace('<lambda>', '…')}"
    if isinstance(value, tuple) and len(value) > 4:
        return f"=({value[0]}, {value[1]}, … {value[-1]})"
    return f"={value!r}"
