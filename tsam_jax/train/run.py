"""Training of one run or of a group at once, from the start or from a checkpoint."""

import contextlib
import json
import math
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from rich.console import Console

from tsam_jax.data import Records, streaming
from tsam_jax.estimator import known_cost
from tsam_jax.train import loop
from tsam_jax.train.checkpoint import BEST, LAST, Checkpoints
from tsam_jax.train.config import VALUE_COST
from tsam_jax.train.network import Batch, Network
from tsam_jax.train.progress import Progress
from tsam_jax.train.record import Log
from tsam_jax.train.task import Data
from tsam_jax.train.trackers import Tracking, open_trackers


class Diverged(Exception):  # noqa: N818 - what happened, for the user to read
    """A loss that is not finite; the message has the step and remedies."""


class Run(NamedTuple):
    """One (setting, seed)."""

    label: str  # in displays
    seed: int
    numbers: Mapping[str, float]  # for the program
    identity: Mapping[str, Any]  # what its checkpoints must have been made from
    directory: Path | None = None  # of metrics.jsonl and the checkpoints; None to write nothing

    def checkpoints(self, folder: str = LAST, *, keep: int = 2) -> Checkpoints:
        """Opens the checkpoints in a folder of its directory."""
        assert self.directory is not None
        identity = json.dumps(self.identity, sort_keys=True, default=str)
        return Checkpoints(self.directory, identity, folder=folder, keep=keep)


class Job(NamedTuple):
    """A group of runs that one program trains; all have a directory, or none."""

    runs: Sequence[Run]
    network: Network
    program: loop.Program
    data: Data  # of the runs' seeds
    ends: Sequence[int]  # epochs at which the runs are measured; the last one ends the training
    metric: str  # that chooses the best epoch
    stream: loop.Stream | None = None  # the training data, if they are not on the device

    @property
    def price(self) -> float:
        """Gradient evaluations of an epoch, a loss evaluation as a third of one."""
        cost = known_cost(self.program.cost)
        return self.program.steps_per_epoch * (cost.gradients + VALUE_COST * cost.values)

    def start(self) -> loop.TrainState:
        """The initial state."""
        return self.program.init(
            [run.seed for run in self.runs], [run.numbers for run in self.runs]
        )


class Outcome(NamedTuple):
    """The result of one run."""

    complete: bool  # whether the training reached its end
    weights: Any  # (params, rest) that were last measured, or of the initial state
    state: loop.TrainState  # the last state, with a leading axis of 1
    log: Log
    best: dict[str, Any] | None  # the line of the best epoch on the validation part
    diverged: str | None  # where its loss was not finite
    saved: str  # the epoch of the newest checkpoint, in words


def looks(epochs: int, count: int) -> list[int]:
    """The epochs at which a training is measured: `count` of them, evenly spaced, or all.

    Example:
      >>> looks(10, 4), looks(3, 9)
      ([2, 5, 7, 10], [1, 2, 3])
    """
    count = min(epochs, count)
    return [math.floor(epochs * k / count) for k in range(1, count + 1)]


def stream_of(records: Records, batch_size: int, seed: int) -> loop.Stream:
    """The batches of an epoch, read while the device works: those of data that are kept on it."""
    batches = streaming.Streamed(records, batch_size, loop.keys(seed)[1])
    return lambda epoch: (Batch(*batch) for batch in batches.epoch(epoch))


def train(
    job: Job,
    progress: Progress,
    *,
    checkpoint_every: int = 10,
    keep_checkpoints: int = 2,
    tracking: Tracking = Tracking(),  # noqa: B008
) -> list[Outcome]:
    """Trains, or resumes from the newest checkpoints, to the last of `job.ends`: an outcome a run.

    The first Ctrl-C ends the training after the epochs that are being computed, with a checkpoint;
    the second one at once. A single run stops where its loss is not finite; in a group the others
    go on.

    Raises:
      ConfigError: if a checkpoint is damaged, or of another run; then nothing was changed.
    """
    program, runs, epochs = job.program, job.runs, job.ends[-1]
    steps, writes = program.steps_per_epoch, jax.process_index() == 0
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(_interrupts(progress.console))
        paths = [run.directory and run.directory / "metrics.jsonl" for run in runs]
        logs, folders = [Log(path, write=writes) for path in paths], []
        for run in runs if runs[0].directory is not None else ():
            newest = stack.enter_context(run.checkpoints(keep=keep_checkpoints))
            folders.append((newest, stack.enter_context(run.checkpoints(BEST, keep=1))))
            folders[-1][1].check()

        def resumed() -> tuple[loop.TrainState, Any]:
            state = _newest(folders, job.start())
            for log in logs:
                log.keep_until(int(state.step[0]) // steps, job.ends)
            return state, program.weights(state, job.data)

        written = any(log.lines for log in logs)
        last, weights = resumed()
        done = int(last.step[0]) // steps
        if written and not done:
            progress.note(runs[0].label, "no checkpoint yet: starting from the beginning")
        progress.resume(len(runs) * done * job.price)
        for run, log in zip(runs, logs, strict=True):
            log.trackers = open_trackers(tracking, run.directory if writes else None, done, stack)
        best: list[Any] = [None] * len(runs)  # step and weights that are not saved yet
        complete = done >= epochs
        try:
            for this in loop.train(program, last, job.data, ends=job.ends, stream=job.stream):
                last, weights, broken = this.state, this.weights, []
                for row, log in enumerate(logs):
                    log.write(this, row, this.epoch * job.price, epochs)
                    broken.append(_where(last, log, row, steps) is not None)
                    chosen = log.best(job.metric)
                    if chosen and chosen["epoch"] == this.epoch and not broken[row]:
                        # a copy: the next round gives the buffers up
                        own = jax.tree.map(lambda x, row=row: jnp.copy(x[row]), weights)
                        best[row] = this.epoch * steps, own
                complete = this.epoch == epochs
                # not every multiple need be an epoch that is evaluated
                due = this.epoch // checkpoint_every > done // checkpoint_every
                if all(broken):
                    break
                if due or complete or stop.is_set():
                    for log in logs:
                        log.sync()
                    _save(folders, best, this.epoch * steps, last, broken)
                progress.advance(job, this, done)
                done = this.epoch
                if stop.is_set():
                    break
        except KeyboardInterrupt:  # at once: what was being computed is lost
            complete, (last, weights) = False, resumed()
        outcomes = []
        for row, log in enumerate(logs):
            own = jax.tree.map(lambda x, row=row: x[row], weights)
            step = folders[row][0].newest if folders else None
            saved = f"after epoch {step // steps}" if step else "none"
            chosen, where = log.best(job.metric), _where(last, log, row, steps)
            outcomes.append(Outcome(complete, own, _cut(last, row), log, chosen, where, saved))
        return outcomes


def refusal(label: str, outcome: Outcome) -> str:
    """The message for a loss that is not finite."""
    return (
        f"`{label}`: the loss is not finite at {outcome.diverged}. Last good checkpoint:"
        f" {outcome.saved}. Try a lower learning rate (`--lr`), clipping (`--clip 1`), a warm-up"
        " (`--warmup 1`), a smaller rho or noise radius, or `--precision float32`."
    )


_Folders = tuple[Checkpoints, Checkpoints]  # of the newest states, and of the best weights


def _newest(folders: Sequence[_Folders], start: loop.TrainState) -> loop.TrainState:
    """The newest saved state that all runs have; else the first one."""
    common = set.intersection(*(set(last.steps) for last, _ in folders)) if folders else set()
    if not common:
        for last, _ in folders:
            last.check()  # those of another run are an error, not overwritten
        return start
    rows: list[Any] = [
        last.restore(_cut(start, row)._asdict(), max(common))
        for row, (last, _) in enumerate(folders)
    ]
    joined = jax.tree.map(lambda *x: jnp.concatenate(x), *rows) if len(rows) > 1 else rows[0]
    return loop.TrainState(**joined)


def _save(
    folders: Sequence[_Folders], best: list[Any], step: int, state: Any, broken: list[bool]
) -> None:
    """Saves the best weights, then the state: what is resumed has the best of its past."""
    for row, (newest, chosen) in enumerate(folders):
        if best[row] is not None and not broken[row]:
            at, (params, rest) = best[row]
            chosen.save(at, {"params": params, "rest": rest})
            best[row] = None
        if not broken[row]:
            newest.save(step, _cut(state, row)._asdict())


def _cut(state: loop.TrainState, row: int) -> Any:
    return jax.tree.map(lambda x: x[row : row + 1], state)


def _where(state: loop.TrainState, log: Log, row: int, steps: int) -> str | None:
    """Where the loss of a run is not finite."""
    step, last = int(state.broken[row]), log.last
    if not step and last is not None and last.get("train_loss") is None:
        step = last["epoch"] * steps
    return f"step {step}, epoch {(step - 1) // steps + 1}" if step else None


@contextlib.contextmanager
def _interrupts(console: Console) -> Iterator[threading.Event]:
    """Turns the first Ctrl-C into an event, in the main thread; the second one is as usual."""
    stop, before = threading.Event(), signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not main or before is not signal.default_int_handler:  # ignored, or somebody else's
        yield stop
        return

    def first(*_: Any) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before)
        console.print("Stopping after this epoch; press Ctrl-C again to stop at once.")

    signal.signal(signal.SIGINT, first)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
