"""The type of a recipe: a named set of differences from the defaults."""

from collections.abc import Mapping
from typing import Any, NamedTuple

SGD: Mapping[str, Any] = {
    "base": "sgd",
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "constant",
    "warmup": 0.0,
    "clip": None,
}
"""The official code's SGD. A recipe specifies its whole optimizer, so that a later change of a
model family's defaults does not change a published experiment."""


class Recipe(NamedTuple):
    """A named experiment.

    Attributes:
      summary: one line with the task, the data and the network.
      task: fields of the task, by name.
      optimizer: fields of the base optimizer, by name.
      budget: fields of the budget, by name.
      method: setting that `train` uses, a key of `settings` or a setting in full.
      methods: settings that `compare` compares.
      settings: name -> setting. A name is that of a method, or a new one for a setting such as the
        paper's ESAM1.
      everything: settings that "all" expands to.
      search: grids of `sweep`; empty if nothing was searched.
      published: result that the source reports, in words; empty for the project's own recipes.
    """

    summary: str
    task: Mapping[str, Any] = {}
    optimizer: Mapping[str, Any] = {}
    budget: Mapping[str, Any] = {}
    method: str = "tsam"
    methods: tuple[str, ...] = ("erm", "sam", "tsam")
    settings: Mapping[str, str] = {}
    everything: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    published: str = ""
