"""TensorBoard and Weights & Biases: they get what metrics.jsonl gets, a line at a time."""

import contextlib
import importlib
import re
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tsam_jax._checks import extra
from tsam_jax.train import config

_EXTRAS = {"tensorboard": "tensorboardX", "wandb": "wandb"}
"""Option, which is also the name of its extra -> the module that it needs."""

Tracker = Callable[[Mapping[str, float], int], None]
"""(numbers by name, without those that are unknown; epoch) -> None."""


class Tracking(NamedTuple):
    """The trackers of a run, and its configuration for those that keep it."""

    tensorboard: bool = False
    wandb: bool = False
    config: Mapping[str, Any] = {}


def check_available(tracking: Tracking) -> None:
    """Raises ConfigError, with the command that installs it, if a tracker is missing."""
    for option in (option for option in _EXTRAS if getattr(tracking, option)):
        with config.refused(f"--{option}", ImportError), extra(_EXTRAS[option], option):
            importlib.import_module(_EXTRAS[option])


def open_trackers(
    tracking: Tracking, directory: Path | None, epoch: int, stack: contextlib.ExitStack
) -> list[Tracker]:
    """Opens the trackers of a run, which the stack closes, also after an error.

    Without a directory there are none. Numbers after `epoch`, from before a run was stopped, are
    replaced.
    """
    opened: list[Tracker] = []
    if directory is not None and tracking.tensorboard:
        from tensorboardX import SummaryWriter

        # From `purge_step` on TensorBoard ignores what earlier files of the directory have.
        folder = str(directory / "tensorboard")
        writer = stack.enter_context(SummaryWriter(folder, purge_step=epoch + 1))

        def write(numbers: Mapping[str, float], epoch: int) -> None:
            for name, value in _grouped(numbers).items():
                writer.add_scalar(name, value, epoch)
            writer.flush()  # a run may be killed at any time

        opened.append(write)
    if directory is not None and tracking.wandb:
        import wandb

        known = directory / "wandb_id.txt"
        if not known.exists():
            known.write_text(uuid.uuid4().hex[:12])
        options = {"project": "tsam-jax", "name": directory.name, "dir": str(directory)}
        options |= {"id": known.read_text(), "resume": "allow"}
        run = wandb.init(config=dict(tracking.config), **options)
        stack.callback(run.finish)
        opened.append(lambda numbers, epoch: run.log(_grouped(numbers), step=epoch))
    return opened


def _grouped(numbers: Mapping[str, float]) -> dict[str, float]:
    """Names "train_loss" as "loss/train": all parts in one group of plots."""
    return {re.sub("^(train|validation|test)_(.*)", r"\2/\1", k): x for k, x in numbers.items()}
