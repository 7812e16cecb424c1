"""What a sweep found: the chosen settings, the table, and commands to go on with."""

import dataclasses
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from tsam_jax.train import config
from tsam_jax.train.numbers import arguments_of

Row = dict[str, Any]
"""A finished setting: "method", "setting", "mean" and "diverged", and its seeds' values."""


def choose(rows: Sequence[Row], metric: str) -> dict[str, str]:
    """The best setting of each method.

    Args:
      rows: the finished settings.
      metric: what "mean" is the mean of: "loss", or a number of which more is better.

    Returns:
      Method -> setting; of equals the first. One that diverged only if all did.

    Example:
      >>> rows = [
      ...     {"method": "sam", "setting": f"sam(rho={rho})", "mean": mean, "diverged": False}
      ...     for rho, mean in ((1, 0.8), (2, 0.9))
      ... ]
      >>> choose(rows, "accuracy")
      {'sam': 'sam(rho=2)'}
    """
    chosen: dict[str, str] = {}
    for row in ranked(rows, metric):
        chosen.setdefault(row["method"], row["setting"])
    return {method: chosen[method] for method in count(rows)}


def ranked(rows: Sequence[Row], metric: str) -> list[Row]:
    """The rows, best first; those that diverged last."""

    def place(row: Row) -> tuple[bool, float]:
        known = row["mean"] is not None
        value = row["mean"] if known else 0.0
        return row["diverged"] or not known, value if metric == "loss" else -value

    return sorted(rows, key=place)


def count(rows: Sequence[Row]) -> dict[str, int]:
    """The number of settings of each method."""
    return dict(Counter(row["method"] for row in rows))


def varied(rows: Sequence[Row]) -> list[str]:
    """The arguments in which the settings of a method differ.

    Args:
      rows: settings of one method.

    Returns:
      Their names, those with the most values first.
    """
    arguments = [arguments_of(row["setting"]) for row in rows]
    names = dict.fromkeys(name for these in arguments for name in these)
    counts = {name: len({these.get(name) for these in arguments}) for name in names}
    return sorted((name for name in names if counts[name] > 1), key=lambda name: -counts[name])


def shown(value: float | None, metric: str) -> str:
    """A number as people read it: an accuracy in percent."""
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if metric == "accuracy" else f"{value:.4g}"


def render(found: dict[str, Any]) -> Table:
    """The table of settings, best first within each method, with what differs between them.

    Args:
      found: the content of sweep.json.

    Returns:
      The table; it fits into 80 columns where names and numbers are of usual length.
    """
    metric = found["metric"]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("method", no_wrap=True)
    table.add_column("what differs", overflow="fold")
    table.add_column(f"validation\n{metric}", justify="right", no_wrap=True)
    table.add_column("seeds", justify="right", overflow="fold")
    for method, tried in found["settings_tried"].items():
        rows = [row for row in found["settings"] if row["method"] == method]
        names = varied(rows)
        for row in ranked(rows, metric):
            best = row["setting"] == found["chosen"][method]
            arguments = arguments_of(row["setting"])
            own = " ".join(
                f"{name}={arguments[name]}"
                for name in sorted(names, key=list(arguments).index)
                if name in arguments
            )
            seeds = " ".join(
                shown(x, metric).removesuffix(" %") for x in row[f"validation_{metric}"]
            )
            mean = "diverged" if row["diverged"] else shown(row["mean"], metric)
            name = f"{method} ({tried})" if best else ""
            style = "bold" if best else ""
            table.add_row(*(Text(cell, style) for cell in (name, own or "()", mean, seeds)))
        table.add_section()
    return table


def commands(command: Any, found: dict[str, Any]) -> list[str]:
    """Commands to paste: train the best setting of all, compare those of all methods.

    Args:
      command: the `Sweep`.
      found: the content of sweep.json.

    Returns:
      The commands, with every option that differs from the recipe.
    """
    chosen = list(found["chosen"].values())
    if not chosen:
        return []
    rows = [row for row in found["settings"] if row["setting"] in chosen]
    best = ranked(rows, found["metric"])[0]["setting"]
    options = _options(command)
    train = ["tsam-jax", "train", command.recipe, "--method", best, *options]
    compare = ["tsam-jax", "compare", command.recipe, "--methods", *chosen, *options]
    if command.runs.seeds != config.Runs().seeds:
        compare += ["--seeds", str(command.runs.seeds)]
    return [shlex.join(train), shlex.join(compare)]


def _options(command: Any) -> list[str]:
    """The options in which a command differs from its recipe."""
    recipe = config.find_recipe(command.recipe)
    pairs = [
        (command.task, config.Task(**recipe.task)),
        (command.optimizer, config.Optimizer(**recipe.optimizer)),
        (command.budget, config.Budget(**recipe.budget)),
    ]
    options: list[str] = []
    for own, usual in pairs:
        for field in dataclasses.fields(own):
            value, name = getattr(own, field.name), field.name.replace("_", "-")
            if value == getattr(usual, field.name):
                continue
            if isinstance(value, bool):
                options.append(f"--{name}" if value else f"--no-{name}")
            else:
                words = value if isinstance(value, (tuple, list)) else [value]
                options += [f"--{name}", *map(str, words)]
    return options
