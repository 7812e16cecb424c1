"""Trained networks from their checkpoints, and their training loss as a function of parameters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tsam_jax.analysis import mean_over_batches
from tsam_jax.train import config
from tsam_jax.train.checkpoint import BEST, LAST, open_checkpoints
from tsam_jax.train.job import Job, identity_text
from tsam_jax.train.loop import TrainState
from tsam_jax.train.network import Batch
from tsam_jax.train.single import load_command, make_job

_AT_ONCE = 250  # examples in memory, with what a Hessian product keeps of them


class Trained(NamedTuple):
    """A trained network, to be examined.

    Attributes:
      name: its method, seed and epoch, for tables and figures.
      params: the parameters that are measured: their average, if training kept one.
      loss: params -> mean loss over training examples, with the labels trained on, in evaluation
        mode and without augmentation; shape ().
      examples: number of these examples.
    """

    name: str
    params: Any
    loss: Callable[[Any], jax.Array]
    examples: int


def restore(checkpoint: Path, parts: tuple[str, ...]) -> tuple[Job, TrainState]:
    """Restores a training from a checkpoint; nothing is written.

    Args:
      checkpoint: directory of a run, for its newest checkpoint; RUN/best or RUN/checkpoints/STEP.
      parts: the parts of the data set that the job measures.

    Returns:
      The training, and its state with a leading axis of 1.

    Raises:
      ConfigError: if there is no such checkpoint, or it is damaged.
    """
    run, folder, step = _found(checkpoint)
    job = make_job(load_command(run, option="checkpoint"), parts)
    like = job.program.init([job.seed])
    with open_checkpoints(run, identity_text(job), folder=folder) as checkpoints:
        state = checkpoints.restore(like, step)
    if state is None:
        msg = f"`checkpoint`: {run / folder} has no checkpoint yet."
        raise config.ConfigError(msg)
    return job, state


def load_trained(checkpoint: Path, examples: int) -> Trained:
    """Loads a trained network and its training loss.

    Args:
      checkpoint: as for `restore`.
      examples: how many training examples the loss is of, the first ones.

    Returns:
      A `Trained`.

    Raises:
      ConfigError: if there is no such checkpoint, it is damaged, or its training data are streamed.
    """
    job, state = restore(checkpoint, ())
    if job.stream is not None:
        msg = f"`checkpoint`: the training data of {checkpoint} are streamed, not in memory."
        raise config.ConfigError(msg)
    params, rest = _measured(state)
    train = Batch(job.data.train.inputs, job.data.train.labels[0])
    count = min(examples, len(train.labels))
    at_once = min(count, _AT_ONCE)
    rows = jnp.arange(count - count % at_once).reshape(-1, at_once)
    batches = jax.tree.map(lambda x: x[rows], train)

    def loss(params: Any, batch: Batch) -> jax.Array:
        outputs = job.network.predict(params, batch.inputs, rest)
        return job.network.score(outputs, batch.labels)["loss"]

    epoch = int(state.step[0]) // job.program.steps_per_epoch
    name = f"{job.label.partition('(')[0]}, seed {job.seed}, epoch {epoch}"
    return Trained(name, params, mean_over_batches(loss, batches), rows.size)


def load_trajectory(checkpoint: Path) -> Any:
    """Loads the way of a training: its parameters from the initial ones to the newest checkpoint.

    Args:
      checkpoint: the directory of a run.

    Returns:
      Pytree like the parameters with a leading axis over the start and the kept checkpoints, in
      order: those that are measured, as in `Trained`.

    Raises:
      ConfigError: if it is one of a run's checkpoints, one is damaged, or fewer than two are kept.
    """
    run, folder, step = _found(checkpoint)
    if folder != LAST or step is not None:
        msg = f"`--trajectory` must be of whole runs, got the checkpoint {checkpoint}: name {run}."
        raise config.ConfigError(msg)
    job = make_job(load_command(run, option="checkpoint"), ())
    start = job.program.init([job.seed])
    with open_checkpoints(run, identity_text(job)) as checkpoints:
        states = [checkpoints.restore(start, step) for step in checkpoints.steps]
    if len(states) < 2:
        msg = (
            f"`--trajectory` needs at least two checkpoints, got {len(states)} in {run / LAST}:"
            " train with a smaller `--checkpoint-every` and `--keep-checkpoints` of 2 or more."
        )
        raise config.ConfigError(msg)
    points = [_measured(state)[0] for state in (start, *states) if state is not None]
    return jax.tree.map(lambda *x: jnp.stack(x), *points)


def _measured(state: TrainState) -> tuple[Any, Any]:
    """The parameters of a state and what else its network needs: averages, if training kept one."""
    measured = state.average or (state.params, state.rest)
    params, rest = jax.tree.map(lambda x: x[0], measured)
    return params, rest


def load_several(checkpoints: tuple[Path, ...], examples: int) -> dict[str, Trained]:
    """Loads several trained networks.

    Args:
      checkpoints: as for `restore`.
      examples: as for `load_trained`.

    Returns:
      Name -> network; a name that occurs twice has its run's directory added.

    Raises:
      ConfigError: as `load_trained` does, or if there is none, or one is given twice.
    """
    if not checkpoints or len(set(checkpoints)) < len(checkpoints):
        msg = f"`CHECKPOINTS` must be one or several different ones, got {len(checkpoints)}."
        raise config.ConfigError(msg)
    loaded = [load_trained(path, examples) for path in checkpoints]
    names = [one.name for one in loaded]
    return {
        one.name if names.count(one.name) == 1 else f"{one.name} ({path})": one
        for path, one in zip(checkpoints, loaded, strict=True)
    }


def _found(path: Path) -> tuple[Path, str, int | None]:
    """The run, the folder in it, and the step, None for the newest."""
    path = path.resolve()
    if not path.is_dir():
        msg = (
            f"`checkpoint`: {path} is not a directory: it must be that of a run of `tsam-jax"
            " train`, or `best` in it."
        )
        raise config.ConfigError(msg)
    if path.name in {LAST, BEST}:
        return path.parent, path.name, None
    if path.parent.name in {LAST, BEST} and path.name.isdecimal():
        return path.parent.parent, path.parent.name, int(path.name)
    return path, LAST, None
