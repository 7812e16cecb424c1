"""What a recipe is: a named difference from the defaults."""

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
"""The official code's SGD. A recipe names its whole optimizer: no default of a model family, which
may improve, changes a published experiment."""


class Recipe(NamedTuple):
    """An experiment by name.

    Attributes:
      summary: one line: what is learnt, from what, by which network.
      task: fields of the task, by name.
      optimizer: fields of the base optimizer, by name.
      budget: fields of the budget, by name.
      method: the setting that `train` trains: a name of `settings`, or a setting in full.
      methods: settings that `compare` compares.
      settings: name -> the setting that it stands for: of a method, or of a setting that has a name
        of its own, such as the ESAM1 of the paper.
      everything: settings that "all" stands for.
      search: the grids of `sweep`; empty where nothing was searched.
      published: what the source reports for it, in words; empty for one of our own.
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
