"""TensorBoard and Weights & Biases: they get what metrics.jsonl gets, a line at a time."""

import contextlib
import importlib
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tsam_jax.train import config

_EXTRAS = {"tensorboard": "tensorboardX", "wandb": "wandb"}
"""Option, which is also the extra's name -> the module that it needs."""

_PROJECT = "tsam-jax"


class Tracker(Protocol):
    """What is told the numbers of each epoch."""

    def write(self, numbers: Mapping[str, float], epoch: int) -> None:
        """Takes the numbers by name; those that are not known are left out."""

    def close(self) -> None:
        """Writes what is not yet written."""


class Tracking(NamedTuple):
    """Who is told.

    Attributes:
      tensorboard: whether TensorBoard is.
      wandb: whether Weights & Biases is.
      config: the configuration of the run, for those who keep it.
    """

    tensorboard: bool = False
    wandb: bool = False
    config: Mapping[str, Any] = {}


def check_available(tracking: Tracking) -> None:
    """Refuses a tracker that is not installed, before any work.

    Args:
      tracking: who is told.

    Raises:
      ConfigError: if it is missing; the message has the command that installs it.
    """
    for option, module in _EXTRAS.items():
        if getattr(tracking, option):
            try:
                importlib.import_module(module)
            except ImportError as error:
                msg = (
                    f"`--{option}` needs {module}, which cannot be imported ({error}):"
                    f" pip install 'tsam_jax[{option}]'."
                )
                raise config.ConfigError(msg) from error


@contextlib.contextmanager
def open_trackers(
    tracking: Tracking, directory: Path | None, epoch: int
) -> Iterator[tuple[Tracker, ...]]:
    """Opens the trackers of a run.

    Args:
      tracking: who is told.
      directory: the run's directory; None for a run that writes nothing, which has no trackers.
      epoch: epochs done: what was told of later ones, before a run was stopped, is replaced.

    Yields:
      The trackers; they are closed at the end, also after an error.
    """
    with contextlib.ExitStack() as stack:
        opened: list[Tracker] = []
        if directory is not None and tracking.tensorboard:
            opened.append(_TensorBoard(directory / "tensorboard", epoch))
        if directory is not None and tracking.wandb:
            opened.append(_WeightsAndBiases(directory, tracking.config))
        for tracker in opened:
            stack.callback(tracker.close)
        yield tuple(opened)


class _TensorBoard:
    def __init__(self, directory: Path, epoch: int) -> None:
        from tensorboardX import SummaryWriter

        # From `purge_step` on TensorBoard forgets what earlier files of the directory say.
        self._writer = SummaryWriter(str(directory), purge_step=epoch + 1 if epoch else None)

    def write(self, numbers: Mapping[str, float], epoch: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(_grouped(name), value, epoch)
        self._writer.flush()  # a run may be killed at any time

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    def __init__(self, directory: Path, configuration: Mapping[str, Any]) -> None:
        import wandb

        known = directory / "wandb_id.txt"
        if not known.exists():
            known.write_text(uuid.uuid4().hex[:12])
        self._run = wandb.init(
            project=_PROJECT,
            name=directory.name,
            dir=str(directory),
            id=known.read_text(),
            resume="allow",
            config=dict(configuration),
        )

    def write(self, numbers: Mapping[str, float], epoch: int) -> None:
        self._run.log({_grouped(name): value for name, value in numbers.items()}, step=epoch)

    def close(self) -> None:
        self._run.finish()


def _grouped(name: str) -> str:
    """Names "train_loss" as "loss/train": all parts in one group of plots."""
    part, _, metric = name.partition("_")
    return f"{metric}/{part}" if part in {"train", "validation", "test"} else name
