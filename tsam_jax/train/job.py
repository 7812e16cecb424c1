"""One training from beginning to end, or from a checkpoint to the end."""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from tsam_jax.data import Records, streaming
from tsam_jax.estimator import known_cost
from tsam_jax.train import loop
from tsam_jax.train.checkpoint import BEST, LAST, Checkpoints, open_checkpoints
from tsam_jax.train.log import Log
from tsam_jax.train.network import Batch, Network
from tsam_jax.train.progress import Progress
from tsam_jax.train.task import Data
from tsam_jax.train.trackers import Tracking, open_trackers

_UNTRACKED = Tracking()


class Diverged(Exception):  # noqa: N818 - what happened, for the user to read
    """A loss that is not finite; the message says where, and what to try."""


class Job(NamedTuple):
    """What is trained.

    Attributes:
      label: what it is called where progress is shown.
      network: the network.
      program: the compiled functions.
      data: the data of one seed.
      seed: the seed.
      epochs: epochs planned.
      metric: what the best epoch is chosen by: "accuracy", the larger the better, or "loss".
      identity: what a checkpoint of it must have been made from.
      stream: the training data, if they are not on the device.
    """

    label: str
    network: Network
    program: loop.Program
    data: Data
    seed: int
    epochs: int
    metric: str
    identity: Mapping[str, Any]
    stream: loop.Stream | None = None


class Outcome(NamedTuple):
    """What training gave.

    Attributes:
      complete: whether it came to its end.
      state: the last state, with a leading axis of 1.
      log: its lines.
      best: the line of the best epoch on the validation part; None if there is none.
    """

    complete: bool
    state: loop.TrainState
    log: Log
    best: dict[str, Any] | None


class Folders(NamedTuple):
    """The checkpoints of a run: the newest, and the best."""

    last: Checkpoints
    best: Checkpoints


def stream_of(records: Records, batch_size: int, seed: int) -> loop.Stream:
    """The batches of an epoch, read while the device works: those of data that are kept on it."""
    batches = streaming.Streamed(records, batch_size, loop.order_key(seed))
    return lambda epoch: (Batch(*batch) for batch in batches.epoch(epoch))


def identity_text(job: Job) -> str:
    """What a checkpoint of a job keeps, to be told from those of others."""
    return json.dumps(job.identity, sort_keys=True)


@contextlib.contextmanager
def open_folders(directory: Path, job: Job, keep: int = 2) -> Iterator[Folders]:
    """Opens the checkpoints of a run.

    Args:
      directory: the run's directory.
      job: what they must have been made from.
      keep: how many of the newest are kept.

    Yields:
      The folders; when it closes, all saves are finished.
    """
    text = identity_text(job)
    with (
        open_checkpoints(directory, text, folder=LAST, keep=keep) as last,
        open_checkpoints(directory, text, folder=BEST, keep=1) as best,
    ):
        yield Folders(last, best)


def run_job(
    job: Job,
    directory: Path | None,
    console: Console,
    *,
    checkpoint_every: int = 10,
    keep_checkpoints: int = 2,
    tracking: Tracking = _UNTRACKED,
) -> Outcome:
    """Trains, or goes on training from the newest checkpoint, to the planned epoch.

    Args:
      job: what is trained.
      directory: where metrics.jsonl and the checkpoints are; None to write nothing.
      console: where progress is shown.
      checkpoint_every: epochs between checkpoints; there is one at the end too.
      keep_checkpoints: how many of the newest are kept.
      tracking: who is told what is logged.

    Returns:
      The outcome; not complete if the user interrupted it.

    Raises:
      Diverged: if a loss is not finite.
      ConfigError: if a checkpoint is damaged, or of another run; then nothing was changed.
    """
    with contextlib.ExitStack() as stack:
        folders = None
        state = job.program.init([job.seed])
        if directory is not None:
            folders = stack.enter_context(open_folders(directory, job, keep_checkpoints))
            if folders.best.newest is not None:
                folders.best.check(folders.best.newest)
            state = folders.last.restore(state) or state
        log = Log(None if directory is None else directory / "metrics.jsonl")
        done = int(state.step[0]) // job.program.steps_per_epoch
        log.keep_until(done)
        log.trackers = stack.enter_context(open_trackers(tracking, directory, done))
        per_epoch = job.program.steps_per_epoch * known_cost(job.program.cost).gradients
        progress = stack.enter_context(Progress({job.label: job.epochs * per_epoch}, console))
        complete = False
        try:
            rounds = loop.train(
                job.program, state, job.data, epochs=job.epochs, every=1, stream=job.stream
            )
            for this in rounds:
                state = this.state
                _refuse_nonfinite(job, this, folders)
                line = log.write(this, this.epoch * per_epoch, job.epochs)
                if folders is not None:
                    if line is best_line(log, job.metric):
                        folders.best.save(this.state)
                    if this.epoch % checkpoint_every == 0 or this.epoch == job.epochs:
                        folders.last.save(this.state)
                progress.advance(
                    job.label,
                    seeds=[job.seed],
                    epoch=this.epoch,
                    epochs=job.epochs,
                    gradients=per_epoch,
                    metrics={name: float(x[0]) for name, x in this.metrics.items()},
                    score=_score(this.metrics, job.metric),
                    examples_per_second=this.examples_per_second,
                )
            complete = True
        except KeyboardInterrupt:
            pass
        return Outcome(complete, state, log, best_line(log, job.metric))


def best_line(log: Log, metric: str) -> dict[str, Any] | None:
    """The line of the best epoch on the validation part, of equals the first; None without one."""
    sign = -1 if metric == "loss" else 1
    known = [line for line in log.lines if line.get(f"validation_{metric}") is not None]
    return max(known, key=lambda line: sign * line[f"validation_{metric}"], default=None)


def _score(metrics: Mapping[str, Any], metric: str) -> str:
    name = f"validation_{metric}"
    return name if name in metrics else f"train_{metric}"


def _refuse_nonfinite(job: Job, this: loop.Round, folders: Folders | None) -> None:
    """Stops at a loss that is not finite, before anything of it is saved."""
    broken = int(this.state.broken[0])
    if not broken and math.isfinite(this.metrics["train_loss"][0]):
        return
    steps = job.program.steps_per_epoch
    step = broken or this.epoch * steps
    saved = None if folders is None else folders.last.newest
    good = f"after epoch {saved // steps}" if saved else "none"
    where = f"step {step}, epoch {(step - 1) // steps + 1}"
    msg = (
        f"`{job.label}`: the loss is not finite at {where}. Last good checkpoint: {good}. Try a"
        " lower learning rate (`--lr`), clipping (`--clip 1`), a warm-up (`--warmup 1`), a smaller"
        " rho or noise radius, or `--precision float32`."
    )
    raise Diverged(msg)
