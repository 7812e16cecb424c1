"""`tsam-jax methods` and `tsam-jax recipes`: tables of both."""

import dataclasses
import inspect
import re

from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from tsam_jax.commands import Command
from tsam_jax.recipes import RECIPES, noisy_digits

_COMMON = ("mask", "aux", "strategy")
# the first sentence of the Source section of a docstring
_SOURCE = re.compile(r"^Source: (.*?)(?<!\bal)(?<!\bEq)(?:\.\s|;|\Z)", re.DOTALL | re.MULTILINE)


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
        table = _table("recipe", "task", "published")
        for name, recipe in RECIPES.items():
            table.add_row(Text(name, "bold"), Text(recipe.summary), Text(recipe.published or "-"))
        console.print(table)
        return 0


def methods_table() -> Table:
    """Methods and wrappers; costs are those of the settings for the digits."""
    from tsam_jax.methods import FORMULAS, METHODS, WRAPPERS
    from tsam_jax.train.settings import parse

    table = _table("method", "gradient estimate, arguments with defaults, source")
    table.leading = 1
    table.add_column("gradients\n+ losses\na step", justify="right")
    for name, function in {**METHODS, **WRAPPERS}.items():
        words, price = inspect.getdoc(function) or "", "as the\nestimator\ninside"
        parameters = inspect.signature(function).parameters.values()
        own = [p for p in parameters if p.name not in _COMMON and p.kind is not p.VAR_KEYWORD]
        source = " ".join("".join(_SOURCE.findall(words)[:1]).split())
        parts = [Text(FORMULAS.get(name) or words.partition("\n")[0])]
        parts += [Text(", ".join(map(_shown, own)), "bold"), Text(source, "dim")]
        if name in METHODS:  # `from_paper` needs millions of parameters: not for the digits
            cost = parse(noisy_digits.SETTINGS.get(name, "from_paper(t=20, s=3)"))[0].cost
            price = f"{cost.gradients:g}" + (f"\n+ {cost.values:g}" if cost.values else "")
        table.add_row(Text(name, "bold"), Text("\n").join(part for part in parts if part), price)
    return table


def _table(name: str, *headings: str) -> Table:
    """A table whose first column does not wrap."""
    columns = Column(name, no_wrap=True), *(Column(text, overflow="fold") for text in headings)
    return Table(*columns, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def _shown(parameter: inspect.Parameter) -> str:
    """A parameter with its default."""
    name, value = parameter.name, parameter.default
    if inspect.isfunction(value):
        return f"{name}={value.__name__.replace('<lambda>', '…')}"
    if isinstance(value, tuple) and len(value) > 4:
        return f"{name}=({value[0]}, {value[1]}, … {value[-1]})"
    return str(parameter.replace(annotation=parameter.empty))
