"""Commands with the values of a recipe: `tsam-jax train NAME`, and `tsam-jax recipes`."""

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from tsam_jax.recipes import RECIPES
from tsam_jax.train import config
from tsam_jax.train.compare import Compare
from tsam_jax.train.single import Train
from tsam_jax.train.sweep import Sweep

Command = Train | Compare | Sweep


def default_command(kind: type[Command], name: str) -> Command:
    """A command as a recipe has it, before the options of the user.

    Args:
      kind: `Train`, `Compare` or `Sweep`.
      name: name of the recipe.

    Returns:
      The command.

    Raises:
      ConfigError: if there is no such recipe, or nothing was searched for it and `kind` is `Sweep`.

    Example:
      >>> default_command(Train, "digits").task.label_noise
      0.4
    """
    recipe = config.find_recipe(name)
    parts: dict[str, Any] = {
        "recipe": name,
        "task": config.Task(**recipe.task),
        "optimizer": config.Optimizer(**recipe.optimizer),
        "budget": config.Budget(**recipe.budget),
    }
    if kind is Train:
        return Train(**parts)
    if kind is Compare:
        return Compare(**parts, methods=recipe.methods)
    return Sweep(**parts, methods=recipe.search or recipe.methods)


def recipes_table() -> Table:
    """The table of recipes: name, what it is, the number that its source reports."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("recipe", no_wrap=True)
    table.add_column("what is learnt", overflow="fold")
    table.add_column("published", overflow="fold")
    for name, recipe in RECIPES.items():
        table.add_row(Text(name, "bold"), Text(recipe.summary), Text(recipe.published or "-"))
    return table
