"""`tsam-jax train`: one method, one seed, with checkpoints to go on from."""

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from rich.console import Console

from tsam_jax.train import config, loop, provenance
from tsam_jax.train.checkpoint import Checkpoints, open_checkpoints
from tsam_jax.train.mesh import make_devices
from tsam_jax.train.progress import Progress
from tsam_jax.train.settings import Setting
from tsam_jax.train.task import load_data, make_network


@dataclasses.dataclass(frozen=True)
class Train:
    """Train one method on one task, saving checkpoints."""

    method: str = "tsam"
    """A bare name for its tuned setting, or a setting in quotes: "sam(rho=0.5, lr=0.1)"."""
    seed: int = 0
    """Seed of the wrong labels, the initial weights, the batches and the noise."""
    out: Path | None = None
    """Directory of the run, new or empty. Default: runs/train-DATE-TIME."""
    resume: Path | None = None
    """Directory of a run to go on with, as it was started: it takes no other options."""
    checkpoint_every: int = 10
    """Epochs between checkpoints; there is one at the end too."""
    mesh: str | None = None
    """Devices, "data=4,sample=2": the batch is split over the first axis, the samples of a sampled
    method over the second. Default: one device."""
    task: config.Task = dataclasses.field(default_factory=config.Task)
    """What is learnt."""
    optimizer: config.Optimizer = dataclasses.field(default_factory=config.Optimizer)
    """The base optimizer."""
    budget: config.Budget = dataclasses.field(default_factory=config.Budget)
    """How long to train."""

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
          ConfigError: if one is out of range.
        """
        setting = self.setting()
        config.check_batch(self.task, self.optimizer, [setting])
        if self.checkpoint_every < 1 or self.seed < 0:
            msg = (
                "`--checkpoint-every` must be >= 1 and `--seed` >= 0, got"
                f" {self.checkpoint_every} and {self.seed}."
            )
            raise config.ConfigError(msg)
        make_devices(self.mesh, setting, self.optimizer)

    def setting(self) -> Setting:
        """Reads the setting to train.

        Returns:
          The one setting.

        Raises:
          ConfigError: if it is a grid of several.
        """
        settings = config.parse_methods((self.method,))
        if len(settings) != 1:
            msg = f"`--method` takes one setting, got {len(settings)}: use `tsam-jax compare`."
            raise config.ConfigError(msg)
        return settings[0]


def load_command(directory: Path) -> Train:
    """Reads what a run was started with.

    Args:
      directory: the directory of the run.

    Returns:
      The `Train` command, with `resume` set.

    Raises:
      ConfigError: if it is not the directory of a training run.
    """
    path = directory / "config.json"
    try:
        saved = json.loads(path.read_text())
        parts = {"task": config.Task, "optimizer": config.Optimizer, "budget": config.Budget}
        for name, kind in parts.items():
            saved[name] = kind(**saved[name])
        return Train(**{**saved, "out": None, "resume": directory})
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        msg = f"`--resume`: {directory} is not the directory of a training run ({error})."
        raise config.ConfigError(msg) from error


def train(command: Train, directory: Path, console: Console) -> dict[str, Any]:
    """Trains, or goes on training, to the planned epoch.

    Args:
      command: what to do.
      directory: where config.json, metrics.jsonl, checkpoints and result.json go; exists.
      console: where progress is shown.

    Returns:
      The content of result.json: the last metrics, and whether training was completed.
    """
    setting = command.setting()
    devices = make_devices(command.mesh, setting, command.optimizer)
    data = devices.replicate(load_data(command.task, [command.seed]))
    network = make_network(command.task, data.train)
    program = loop.make_program(
        network, setting, command.optimizer, command.task.train_size, devices=devices
    )
    epochs = command.budget.epochs_for(setting)
    per_epoch = program.steps_per_epoch * program.cost.gradients
    fresh = program.init(jnp.asarray([command.seed]))
    if command.resume is None:
        provenance.write_json(directory / "config.json", provenance.as_dict(command))
    log = _Log(directory / "metrics.jsonl")
    complete, metrics = False, log.last
    try:
        with (
            open_checkpoints(directory) as checkpoints,
            Progress({setting.text: epochs * per_epoch}, console) as progress,
        ):
            state = checkpoints.restore(fresh) or fresh
            log.keep_until(int(state.epoch[0]))
            done = 0
            for this in loop.train(program, state, data, epochs=epochs, every=1):
                metrics = log.write(this, this.epoch * per_epoch)
                _save(checkpoints, this, command.checkpoint_every, epochs)
                progress.advance(
                    setting.text,
                    seeds=[command.seed],
                    epoch=this.epoch,
                    epochs=epochs,
                    gradients=(this.epoch - done) * per_epoch,
                    loss=float(this.metrics["train_loss"][0]),
                    accuracy=float(this.metrics["validation_accuracy"][0]),
                )
                done = this.epoch
            complete = True
            metrics = log.last
    except KeyboardInterrupt:
        again = shlex.join(["tsam-jax", "train", "--resume", str(directory)])
        console.print(f"Interrupted; go on with: {again}", markup=False, soft_wrap=True)
    result = {
        "complete": complete,
        "setting": setting.text,
        "epochs": epochs,
        "metrics": metrics,
        "versions": provenance.versions(),
    }
    provenance.write_json(directory / "result.json", result)
    return result


def _save(checkpoints: Checkpoints, this: loop.Round, every: int, epochs: int) -> None:
    if this.epoch % every == 0 or this.epoch == epochs:
        checkpoints.save(this.state)


class _Log:
    """metrics.jsonl: a line an epoch."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self._lines: list[dict[str, Any]] = []
        for line in lines:
            try:
                self._lines.append(json.loads(line))
            except json.JSONDecodeError:  # the run was killed while it wrote this one
                break

    @property
    def last(self) -> dict[str, Any] | None:
        return self._lines[-1] if self._lines else None

    def keep_until(self, epoch: int) -> None:
        """Drops what was logged after the checkpoint that training goes on from."""
        self._lines = [line for line in self._lines if line["epoch"] <= epoch]
        text = "".join(json.dumps(line) + "\n" for line in self._lines)
        provenance.write_whole(self._path, text)

    def write(self, this: loop.Round, gradients: float) -> dict[str, Any]:
        numbers = {name: provenance.json_number(x[0]) for name, x in this.metrics.items()}
        line = {"epoch": this.epoch, "gradient_evaluations": gradients, **numbers}
        self._lines.append(line)
        with self._path.open("a") as log:
            log.write(json.dumps(line) + "\n")
        return line
