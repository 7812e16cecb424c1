"""`tsam-jax train`: one method, one seed, with checkpoints to go on from."""

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

from rich.console import Console

from tsam_jax.train import config, loop, provenance
from tsam_jax.train.job import Job, run_job, stream_of
from tsam_jax.train.mesh import make_devices
from tsam_jax.train.settings import Setting, with_arguments
from tsam_jax.train.task import load_task
from tsam_jax.train.trackers import Tracking, check_available


@dataclasses.dataclass(frozen=True)
class Train:
    """Train one method on one task, saving checkpoints."""

    recipe: str = "digits"
    """The experiment whose values the other options replace, see `tsam-jax recipes`; it may stand
    first: `tsam-jax train digits --t 5`."""
    method: str | None = None
    """A bare name for its setting in the recipe, or a setting in quotes: "sam(rho=0.5, lr=0.1)".
    Default: that of the recipe."""
    t: float | None = None
    """Tilt, in place of the setting's."""
    rho: float | None = None
    """Length of the ascent step, in place of the setting's."""
    s: int | None = None
    """Number of samples, in place of the setting's."""
    seed: int = 0
    """Seed of the wrong labels, the initial weights, the batches and the noise."""
    out: Path | None = None
    """Directory of the run, new or empty. Default: runs/train-DATE-TIME."""
    resume: Path | None = None
    """Directory of a run to go on with, as it was started: it takes no other options."""
    checkpoint_every: int = 10
    """Epochs between checkpoints; there is one at the end too, and one of the best epoch on the
    validation part."""
    keep_checkpoints: int = 2
    """Checkpoints that are kept, the newest ones; `tsam-jax landscape --trajectory` draws the way
    through them."""
    mesh: str | None = None
    """Devices, "data=4,sample=2": the batch is split over the first axis, the samples of a sampled
    method over the second. Default: one device."""
    tensorboard: bool = False
    """Whether the metrics are also written for TensorBoard, into the run's directory."""
    wandb: bool = False
    """Whether Weights & Biases gets them too; its own variables, WANDB_MODE=offline say, apply."""
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
        config.check_batch(self.task.train_size, self.optimizer, [setting])
        if self.checkpoint_every < 1 or self.keep_checkpoints < 1 or self.seed < 0:
            msg = (
                "`--checkpoint-every` and `--keep-checkpoints` must be >= 1 and `--seed` >= 0, got"
                f" {self.checkpoint_every}, {self.keep_checkpoints} and {self.seed}."
            )
            raise config.ConfigError(msg)
        make_devices(self.mesh, setting, self.optimizer)
        check_available(self.tracking())

    def tracking(self) -> Tracking:
        """Who is told what is logged."""
        return Tracking(self.tensorboard, self.wandb)

    def setting(self) -> Setting:
        """Reads the setting to train.

        Returns:
          The one setting, with `t`, `rho` and `s` replaced where they are given.

        Raises:
          ConfigError: if it is a grid of several.
        """
        method = self.method or config.find_recipe(self.recipe).method
        settings = config.parse_methods((method,), self.recipe)
        if len(settings) != 1:
            msg = f"`--method` takes one setting, got {len(settings)}: use `tsam-jax compare`."
            raise config.ConfigError(msg)
        own = {"t": self.t, "rho": self.rho, "s": self.s}
        return with_arguments(settings[0], {k: v for k, v in own.items() if v is not None})


def load_command(directory: Path, option: str = "--resume") -> Train:
    """Reads what a run was started with.

    Args:
      directory: the directory of the run.
      option: which option named it, for the message.

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
        msg = f"`{option}`: {directory} is not the directory of a training run ({error})."
        raise config.ConfigError(msg) from error


def make_job(command: Train, parts: tuple[str, ...] = loop.PARTS) -> Job:
    """Makes the training of a command: loads the data, makes the network, compiles nothing yet.

    Args:
      command: what to do.
      parts: the parts of the data set that are measured.

    Returns:
      The `Job`.
    """
    setting = command.setting()
    loaded = load_task(command.task, [command.seed])
    config.check_batch(loaded.train_size, command.optimizer, [setting])
    devices = make_devices(command.mesh, setting, command.optimizer)
    epochs = command.budget.epochs_for(setting)
    plan = loop.plan_for(setting, command.optimizer, loaded.train_size, epochs)
    batch_size = command.optimizer.for_setting(setting).batch_size
    stream = loaded.records and stream_of(loaded.records, batch_size, command.seed)
    identity = {
        "setting": setting.text,
        "seed": command.seed,
        "task": provenance.as_dict(command.task),
        "optimizer": provenance.as_dict(command.optimizer),
    }
    return Job(
        label=setting.text,
        network=loaded.network,
        program=loop.make_program(loaded.network, plan, loaded.train_size, parts, devices),
        data=devices.replicate(loaded.data),
        seed=command.seed,
        epochs=epochs,
        metric=loaded.metric or "loss",
        identity=identity,
        stream=stream,
    )


def train(command: Train, directory: Path, console: Console) -> dict[str, Any]:
    """Trains, or goes on training, to the planned epoch.

    Args:
      command: what to do.
      directory: where config.json, metrics.jsonl, checkpoints, best and result.json go; made when
        the data are loaded.
      console: where progress is shown.

    Returns:
      The content of result.json: the last metrics, and whether training was completed.
    """
    job = make_job(command)
    config.check_writable(directory)
    if command.resume is None:
        resolved = provenance.as_dict(command)
        resolved |= {"method": job.label, "t": None, "rho": None, "s": None}
        provenance.write_json(directory / "config.json", resolved)
    tracking = command.tracking()._replace(config=dict(job.identity))
    outcome = run_job(
        job,
        directory,
        console,
        checkpoint_every=command.checkpoint_every,
        keep_checkpoints=command.keep_checkpoints,
        tracking=tracking,
    )
    if not outcome.complete:
        again = shlex.join(["tsam-jax", "train", "--resume", str(directory)])
        console.print(f"Interrupted; go on with: {again}", markup=False, soft_wrap=True)
    result = {
        "complete": outcome.complete,
        "setting": job.label,
        "epochs": job.epochs,
        "metrics": outcome.log.last,
        "best": outcome.best,
        "versions": provenance.versions(),
    }
    provenance.write_json(directory / "result.json", result)
    return result
