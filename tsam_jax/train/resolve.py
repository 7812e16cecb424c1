"""From flags, settings and a recipe to what is run: the resolved options of every setting."""

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from tsam_jax import data
from tsam_jax.train import config, defaults
from tsam_jax.train.mesh import Devices, make_devices
from tsam_jax.train.metrics import METRICS
from tsam_jax.train.optimizers import SCHEDULES, make_base, parse_base
from tsam_jax.train.settings import FLAGS, Setting, parse_all
from tsam_jax.train.task import AUGMENTATIONS, open_data


class Plan(NamedTuple):
    """A setting with its resolved options.

    Attributes:
      setting: the method and its numbers.
      optimizer: the base optimizer, with what the setting overrides.
      epochs: length of training.
    """

    setting: Setting
    optimizer: config.Optimizer
    epochs: int


class Resolved(NamedTuple):
    """The resolved options of a command.

    Attributes:
      task: the resolved task.
      plans: a plan for each setting.
      opened: the data set, its inputs not yet read.
      devices: where it runs.
      rows: option, value and origin of every option, for the table.
      family: defaults of the model family.
    """

    task: config.Task
    plans: tuple[Plan, ...]
    opened: data.OpenSplits
    devices: Devices
    rows: tuple[tuple[str, str, str], ...]
    family: defaults.Family


def resolve(command: Any) -> Resolved:
    """Resolves the options of `Train`, `Study`, `Compare` or `Sweep`, and checks them.

    Args:
      command: with `recipe`, `methods`, `grid`, `mesh`, the flags `t`, `rho`, `s`, and the flags of
        `task`, `optimizer` and `budget`.

    Returns:
      The plans. Nothing is written; the data set is opened, its inputs are not read.

    Raises:
      ConfigError: if an option is out of range, unknown, or does not apply.
    """
    recipe = None if command.recipe is None else config.find_recipe(command.recipe)
    flags = {name: config.given(getattr(command, name)) for name in _KINDS}

    def merged(name: str, weakest: Iterable[config.Level] = (), setting: Any = None) -> Any:
        levels = [*weakest, (f"recipe {command.recipe}", getattr(recipe, name) if recipe else {})]
        levels += [("setting", setting.overrides)] if setting else []
        return config.merge(_KINDS[name], [*levels, ("flag", flags[name])])

    task, task_origins = merged("task")
    if task.pretrained is not None:
        if "model" in flags["task"]:
            msg = "`--model` and `--pretrained` both name the network: give one."
            raise config.ConfigError(msg)
        task = dataclasses.replace(task, model=None)
    numbers: dict[str, Any] = {name: getattr(command, name) for name in FLAGS}
    fixed = {name: x for name, x in numbers.items() if x is not None}
    given = flags["optimizer"] | flags["budget"]
    fixed |= {name: x for name, x in given.items() if name in config.OVERRIDES}
    if "epochs" in flags["budget"]:
        fixed["budget"] = None
    _check_names(task, flags)
    texts = command.methods or (recipe.methods if recipe else ("erm", "sam", "tsam"))
    everything = recipe.everything if recipe else ()
    known = dict(recipe.settings) if recipe else {}
    # Checked before the data are opened, with the settings of some family for bare names.
    some = defaults.family_of("mlp", fine_tuned=False)
    parse_all(texts, defaults.settings(some) | known, everything, fixed, command.grid)
    architecture = task.model if task.pretrained is None else _architecture(task.pretrained)
    task = _with_vocabulary(task)
    opened = open_data(task)
    if architecture is None:
        task = dataclasses.replace(task, model=defaults.MODELS[opened.kind])
        task_origins["model"] = f"kind of data ({opened.kind})"
    family = defaults.family_of(
        architecture or defaults.MODELS[opened.kind], fine_tuned=task.pretrained is not None
    )
    bare = defaults.settings(family)
    settings = parse_all(texts, bare | known, everything or tuple(bare), fixed, command.grid)
    own = {**family.optimizer, "epochs": family.epochs}
    if flags["optimizer"].get("base", own["base"]) != own["base"]:
        own["weight_decay"] = 0.0  # meant for the family's optimizer, coupled or not
    weakest = [(family.name, own)]
    plans, rows, size = [], _rows(task, task_origins), len(opened.train.labels)
    for setting in settings:
        optimizer, origins = merged("optimizer", weakest, setting)
        budget, length = merged("budget", weakest, setting)
        if budget.epochs is None and budget.budget is None:
            msg = "`--budget` and `--epochs` are both none: give one, the length of training."
            raise config.ConfigError(msg)
        epochs = budget.epochs or max(1, math.floor((budget.budget or 0) / setting.price + 1e-9))
        # A default must not outlast a short training, nor ask for more examples than there are.
        fitting: dict[str, Any] = {
            "warmup": min(optimizer.warmup, epochs / 10),
            "batch_size": min(optimizer.batch_size, size),
        }
        fitting = {name: x for name, x in fitting.items() if origins[name] == family.name}
        if size % optimizer.accumulate:
            fitting.pop("batch_size", None)
        optimizer = dataclasses.replace(optimizer, **fitting)
        plans.append(Plan(setting, optimizer, epochs))
        _check_batch(size, optimizer, setting)
        steps = size // optimizer.batch_size
        make_base(optimizer, steps=epochs * steps, steps_per_epoch=steps)  # checks it
        if len(plans) == 1:
            rows += _rows(optimizer, origins) + _rows(budget, length)
    for plan in plans:  # all must fit; what is made is the same
        devices = make_devices(command.mesh, plan.setting, plan.optimizer)
    return Resolved(task, tuple(plans), opened, devices, tuple(rows), family)


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
        table.add_row(
            Text(setting.text, "bold"),
            Text(f"lr {optimizer.lr:g}, {epochs} epochs"),
            Text(f"{setting.price:.3g} gradients a step"),
        )
    if any(origin == resolved.family.name for _, _, origin in resolved.rows):
        table.caption = Text(f"{resolved.family.name}: {resolved.family.source}.")
        table.caption_justify, table.caption_style = "left", "dim"
    return table


def announce(task: config.Task) -> str:
    """The first line of a run, with the label noise if there is some."""
    network = task.model or f"pretrained {task.pretrained}"
    noise = f", {100 * task.label_noise:.3g} % of the training labels replaced"
    return f"Training {network} on {task.dataset}{noise if task.label_noise else ''}."


_KINDS = {"task": config.Task, "optimizer": config.Optimizer, "budget": config.Budget}


def _rows(options: Any, origins: dict[str, str]) -> list[tuple[str, str, str]]:
    return [
        (name.replace("_", "-"), "none" if x is None else str(x), origins[name])
        for name, x in vars(options).items()
    ]


def _check_names(task: config.Task, flags: dict[str, dict[str, Any]]) -> None:
    """Raises ConfigError for unknown names and values out of range, before the data are opened."""
    from tsam_jax.models import MODELS
    from tsam_jax.train.metrics import LOSSES

    for field in dataclasses.fields(config.Optimizer):
        config.check(field.name, flags["optimizer"].get(field.name), field.metadata)
    config.Budget(**flags["budget"])
    parse_base(flags["optimizer"].get("base", "sgd"))
    for value, names, what in (
        (flags["optimizer"].get("schedule"), SCHEDULES, "schedule (`--schedule`)"),
        (task.model, MODELS, "model (`--model`)"),
        (task.loss, LOSSES, "loss (`--loss`)"),
        (task.augmentation, AUGMENTATIONS, "augmentation (`--augmentation`)"),
        *((name, METRICS, "metric (`--metrics`)") for name in task.metrics),
    ):
        if value is not None:
            config.known(value, names, what)


def _with_vocabulary(task: config.Task) -> config.Task:
    """Takes the vocabulary of a pretrained text model from its folder."""
    if task.vocabulary is not None or task.pretrained is None:
        return task
    files = ("vocab.txt", "tokenizer.json")
    if any((Path(task.pretrained) / name).is_file() for name in files):
        return dataclasses.replace(task, vocabulary=task.pretrained)
    return task


def _architecture(pretrained: str) -> str:
    from tsam_jax.models.pretrained import PretrainedError, architecture_of

    try:
        return architecture_of(pretrained)
    except PretrainedError as error:
        msg = f"`--pretrained`: {error}"
        raise config.ConfigError(msg) from error


def _check_batch(train_size: int, optimizer: config.Optimizer, setting: Setting) -> None:
    """Raises ConfigError if a batch exceeds the training part, or a setting cannot split it."""
    if optimizer.batch_size > train_size:
        msg = (
            f"`--batch-size` must be at most the {train_size} training examples, got"
            f" {optimizer.batch_size}."
        )
        raise config.ConfigError(msg)
    s = setting.arguments["s"] if setting.arguments.get("split_batch") else 1
    if optimizer.batch_size % s:
        msg = (
            f"`--batch-size` must be a multiple of s = {s} in `{setting.text}`, whose samples"
            f" split the batch, got {optimizer.batch_size}."
        )
        raise config.ConfigError(msg)
