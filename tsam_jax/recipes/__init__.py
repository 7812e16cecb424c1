"""Experiments by name, in the table `RECIPES`; each lists its differences from the defaults.

Each module holds a family of recipes in its own table `RECIPES`; this one merges them. `defaults`
has the defaults by model family.
"""

from collections.abc import Mapping

from tsam_jax.recipes import (
    figures,
    noisy_digits,
    small_machine,
    table1_glue,
    table1_images,
    tables_2_and_4,
)
from tsam_jax.recipes._recipe import Recipe

__all__ = ["RECIPES", "Recipe"]

_FAMILIES = (noisy_digits, small_machine, table1_images, table1_glue, tables_2_and_4, figures)

RECIPES: Mapping[str, Recipe] = {
    name: recipe for family in _FAMILIES for name, recipe in family.RECIPES.items()
}
"""Name -> recipe."""
