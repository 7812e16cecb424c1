"""From flags, settings and a recipe to what is run: the resolved options of every setting."""

import dataclasses
import inspect
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from tsam_jax import data
from tsam_jax.models import MODELS, pretrained
from tsam_jax.recipes import RECIPES, Recipe, defaults
from tsam_jax.train import config
from tsam_jax.train.mesh import Devices, make_devices
from tsam_jax.train.metrics import LOSSES, METRICS
from tsam_jax.train.optimizers import SCHEDULES, make_base, parse_base
from tsam_jax.train.settings import FLAGS, Setting, parse_all
from tsam_jax.train.task import AUGMENTATIONS, open_data

_KINDS = {"task": config.Task, "optimizer": config.Optimizer, "budget": config.Budget}


class Plan(NamedTuple):
    """A setting with its base optimizer, overrides included, and length of training."""

    setting: Setting
    optimizer: config.Optimizer
    epochs: int

    def price(self, train_size: int) -> float:
        """Gradient evaluations of the training, a loss evaluation as a third of one."""
        return self.epochs * (train_size // self.optimizer.batch_size) * self.setting.price


class Resolved(NamedTuple):
    """The resolved options of a command, with a plan for each setting.

    The inputs of `opened` are not read yet; `rows` are option, value and origin of every option.
    """

    task: config.Task
    plans: tuple[Plan, ...]
    opened: data.OpenSplits
    devices: Devices
    rows: tuple[tuple[str, str, str], ...]
    family: defaults.Family
    recipe: str | None


def resolve(command: Any) -> Resolved:
    """Resolves the options of `Train`, `Study`, `Compare` or `Sweep`, and checks them.

    The recipe is digits, if neither a recipe nor a data set is named.

    Nothing is written; the data set is opened, its inputs are not read.

    Args:
      command: `Train`, `Study`, `Compare` or `Sweep` of `commands.study`.

    Raises:
      ConfigError: if an option is out of range, unknown, or does not apply.
    """
    named = command.recipe or ("digits" if "dataset" not in command.task else None)
    if named is not None:
        config.known(named, RECIPES, "recipe (a data set goes by --dataset, or has a colon)")
    recipe = RECIPES[named] if named is not None else Recipe("")
    flags = {name: getattr(command, name) for name in _KINDS}

    def merged(name: str, weakest: Iterable[config.Level] = (), setting: Any = None) -> Any:
        levels = [*weakest, (f"recipe {named}", getattr(recipe, name))]
        levels += [("setting", setting.overrides)] if setting else []
        return config.merge(_KINDS[name], [*levels, ("flag", flags[name])])

    task, task_origins = merged("task")
    if task.pretrained is not None:
        both = "`--model` and `--pretrained` both name the network: give one."
        config.require("model" not in flags["task"], both)
        task = dataclasses.replace(task, model=None)
    given = {name: getattr(command, name) for name in FLAGS} | flags["optimizer"] | flags["budget"]
    names = [*FLAGS, *config.OVERRIDES]
    fixed = {name: given[name] for name in names if given.get(name) is not None}
    if {"epochs", "budget"} & given.keys():
        fixed["budget"] = given.get("budget")
    check_names(task, flags["optimizer"])

    def parsed(family: defaults.Family) -> list[Setting]:
        known = defaults.settings(family) | dict(recipe.settings)
        everything = recipe.everything or tuple(defaults.settings(family))
        return parse_all(command.chosen(recipe), known, everything, fixed, command.grid)

    parsed(defaults.family_of("mlp", fine_tuned=False))  # before the data are opened
    architecture = task.model
    if task.pretrained is not None:
        with config.refused("--pretrained", pretrained.PretrainedError):
            architecture = pretrained.architecture_of(task.pretrained)
    task = _with_vocabulary(task)
    opened = open_data(task)
    if architecture is None:
        architecture = defaults.MODELS[opened.kind]
        task = dataclasses.replace(task, model=architecture)
        task_origins["model"] = f"kind of data ({opened.kind})"
    family = defaults.family_of(architecture, fine_tuned=task.pretrained is not None)
    own = {**family.optimizer, "epochs": family.epochs}
    if flags["optimizer"].get("base", own["base"]) != own["base"]:
        own["weight_decay"] = 0.0  # meant for the family's optimizer, coupled or not
    weakest = [(family.name, own)]
    plans, rows, size = [], _rows(task, task_origins), len(opened.train.labels)
    for setting in parsed(family):
        optimizer, origins = merged("optimizer", weakest, setting)
        budget, length = merged("budget", weakest, setting)
        none = budget.epochs is None and budget.budget is None
        why = "`--budget` and `--epochs` are both none: give one, the length of training."
        config.require(not none, why)
        epochs = budget.epochs or max(1, math.floor((budget.budget or 0) / setting.price + 1e-9))
        # A default must not outlast a short training, nor ask for more examples than there are.
        fitting = {"warmup": min(optimizer.warmup, epochs / 10)}
        if size % optimizer.accumulate == 0:
            fitting["batch_size"] = min(optimizer.batch_size, size)
        fitting = {name: x for name, x in fitting.items() if origins[name] == family.name}
        optimizer = dataclasses.replace(optimizer, **fitting)
        plans.append(Plan(setting, optimizer, epochs))
        _check_batch(size, optimizer, setting)
        steps = size // optimizer.batch_size
        make_base(optimizer, steps=epochs * steps, steps_per_epoch=steps)  # checks it
        if len(plans) == 1:
            rows += _rows(optimizer, origins) + _rows(budget, length)
    for plan in plans:  # all must fit; what is made is the same
        devices = make_devices(command.mesh, plan.setting, plan.optimizer)
    return Resolved(task, tuple(plans), opened, devices, tuple(rows), family, named)


def render(resolved: Resolved) -> Table:
    """The table of resolved options that differ from the plain default, with their origins."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("option", "value", "from"):
        table.add_column(heading, overflow="fold")
    for option, value, origin in resolved.rows:
        if origin != "default":
            table.add_row(*map(Text, (option, value, origin)))
    table.add_section()
    for setting, optimizer, epochs in resolved.plans:
        words = f"lr {optimizer.lr:g}, {epochs} epochs", f"{setting.price:.3g} gradients a step"
        table.add_row(Text(setting.text, "bold"), *map(Text, words))
    if any(origin == resolved.family.name for _, _, origin in resolved.rows):
        table.caption = Text(f"{resolved.family.name}: {resolved.family.source}.")
        table.caption_justify, table.caption_style = "left", "dim"
    return table


def announce(task: config.Task) -> str:
    """The first line of a run, with the label noise if there is some."""
    network = task.model or f"pretrained {task.pretrained}"
    noise = f", {100 * task.label_noise:.3g} % of the training labels replaced"
    return f"Training {network} on {task.dataset}{noise if task.label_noise else ''}."


def _rows(options: Any, origins: dict[str, str]) -> list[tuple[str, str, str]]:
    return [
        (name.replace("_", "-"), "none" if x is None else str(x), origins[name])
        for name, x in vars(options).items()
    ]


def check_names(task: config.Task, optimizer: Mapping[str, Any]) -> None:
    """Raises ConfigError for an unknown name in a task or in options of the base optimizer."""
    parse_base(optimizer.get("base", "sgd"))
    for option, value, names in (
        ("schedule", optimizer.get("schedule"), SCHEDULES),
        ("model", task.model, MODELS),
        ("loss", task.loss, LOSSES),
        ("augmentation", task.augmentation, AUGMENTATIONS),
    ):
        if value is not None:
            config.known(value, names, f"{option} (`--{option}`)")
    for name in task.metrics:
        config.known(name, METRICS, "metric (`--metrics`)")


def _with_vocabulary(task: config.Task) -> config.Task:
    """Takes the vocabulary of a pretrained text model from its folder."""
    if task.vocabulary is not None or task.pretrained is None:
        return task
    files = [Path(task.pretrained) / name for name in ("vocab.txt", "tokenizer.json")]
    if not any(file.is_file() for file in files):
        return task
    source = data.SOURCES.get(task.dataset.partition(":")[0])
    config.require(
        source is None or "tokenization" in inspect.signature(source).parameters,
        f"`--pretrained {task.pretrained}` is a model of texts, but `--dataset {task.dataset}` has"
        " no texts. Name a data set of texts (glue:TASK, table:FILE), or another checkpoint.",
    )
    return dataclasses.replace(task, vocabulary=task.pretrained)


def _check_batch(train_size: int, optimizer: config.Optimizer, setting: Setting) -> None:
    """Raises ConfigError if a batch exceeds the training part, or cannot be split as asked."""
    size, parts = optimizer.batch_size, optimizer.accumulate
    few = f"at most the {train_size} training examples"
    config.require(size <= train_size, f"`--batch-size` must be {few}, got {size}.")
    why = f"`--accumulate` must divide `--batch-size`, got {parts} and {size}."
    config.require(size % parts == 0, why)
    s = setting.arguments["s"] if setting.arguments.get("split_batch") else 1
    config.require(
        size % s == 0,
        f"`--batch-size` must be a multiple of s = {s} in `{setting.text}`, whose samples split"
        f" the batch, got {size}.",
    )
