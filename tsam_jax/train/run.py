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
from tsam_jax.train.checkpoint import BEST, LAST, Checkpoints, open_checkpoints
from tsam_jax.train.config import VALUE_COST
from tsam_jax.train.metrics import metric
from tsam_jax.train.network import Batch, Network
from tsam_jax.train.progress import Progress
from tsam_jax.train.record import Log
from tsam_jax.train.task import Data
from tsam_jax.train.trackers import Tracking, open_trackers

_UNTRACKED = Tracking()


class Diverged(Exception):  # noqa: N818 - what happened, for the user to read
    """A loss that is not finite; the message has the step and remedies."""


class Run(NamedTuple):
    """One (setting, seed): its name in displays, seed, and numbers for the program.

    `identity` is what its checkpoints must have been made from, and `directory` the place of
    metrics.jsonl and the checkpoints, None to write nothing.
    """

    label: str
    seed: int
    numbers: Mapping[str, float]
    identity: Mapping[str, Any]
    directory: Path | None = None


class Job(NamedTuple):
    """A group of runs that one program trains.

    Attributes:
      data: the data of the runs' seeds.
      ends: epochs at which the runs are measured; the last one ends the training.
      metric: name of the metric that the best epoch is chosen by.
      stream: the training data, if they are not on the device.
    """

    runs: Sequence[Run]
    network: Network
    program: loop.Program
    data: Data
    ends: Sequence[int]
    metric: str
    stream: loop.Stream | None = None

    @property
    def price(self) -> float:
        """Gradient evaluations of an epoch, a loss evaluation as a third of one."""
        cost = known_cost(self.program.cost)
        return self.program.steps_per_epoch * (cost.gradients + VALUE_COST * cost.values)


class Outcome(NamedTuple):
    """The result of one run.

    Attributes:
      complete: whether the training reached its end.
      weights: (params, rest) that were last measured, or of the initial state.
      state: the last state, with a leading axis of 1.
      best: the line of the best epoch on the validation part; None if there is none.
      diverged: where its loss was not finite; None if nowhere.
    """

    complete: bool
    weights: Any
    state: loop.TrainState
    log: Log
    best: dict[str, Any] | None
    diverged: str | None


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
    batches = streaming.Streamed(records, batch_size, loop.order_key(seed))
    return lambda epoch: (Batch(*batch) for batch in batches.epoch(epoch))


def identity_text(run: Run) -> str:
    """The identity of a run, as its checkpoints keep it."""
    return json.dumps(run.identity, sort_keys=True, default=str)


def train(
    job: Job,
    progress: Progress,
    *,
    checkpoint_every: int | None = 10,
    keep_checkpoints: int = 2,
    tracking: Tracking = _UNTRACKED,
) -> list[Outcome]:
    """Trains, or resumes from the newest checkpoints, to the last of `job.ends`.

    The first Ctrl-C ends the training after the epochs that are being computed, with a checkpoint;
    the second one at once. A single run stops where its loss is not finite; in a group the others
    go on.

    Args:
      job: the runs.
      progress: where progress is shown.
      checkpoint_every: epochs between checkpoints; None for one at the end.
      keep_checkpoints: how many of the newest are kept.
      tracking: the trackers of the log.

    Returns:
      An outcome for each run; not complete if the user interrupted it.

    Raises:
      ConfigError: if a checkpoint is damaged, or of another run; then nothing was changed.
    """
    program, runs, epochs = job.program, job.runs, job.ends[-1]
    steps = program.steps_per_epoch
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(_interrupts(progress.console))
        folders = [stack.enter_context(_open(run, keep_checkpoints)) for run in runs]

        def begin() -> tuple[loop.TrainState, int]:
            """The newest saved state, or the first one, and its epoch."""
            start = program.init([run.seed for run in runs], [run.numbers for run in runs])
            state = _restored(folders, start) or start
            return state, int(state.step[0]) // steps

        state, done = begin()
        files = [run.directory and run.directory / "metrics.jsonl" for run in runs]
        logs = [Log(file, write=jax.process_index() == 0) for file in files]
        if any(log.lines for log in logs) and not done:
            progress.note(runs[0].label, "no checkpoint yet: starting from the beginning")
        for run, log in zip(runs, logs, strict=True):
            log.keep_until(done, job.ends)
            told = run.directory if jax.process_index() == 0 else None
            log.trackers = stack.enter_context(open_trackers(tracking, told, done))
            progress.resume(run.label, done * job.price)
        weights, last = program.weights(state, job.data), state
        best: list[Any] = [None] * len(runs)
        complete = done >= epochs
        try:
            for this in loop.train(program, state, job.data, ends=job.ends, stream=job.stream):
                last, weights = this.state, this.weights
                broken = [_broken(this, row) for row in range(len(runs))]
                for row, log in enumerate(logs):
                    line = log.write(this, row, this.epoch * job.price, epochs)
                    if line is best_line(log, job.metric) and not broken[row]:
                        best[row] = this.epoch, _row(weights, row)
                complete = this.epoch == epochs
                # not every multiple need be an epoch that is evaluated
                due = checkpoint_every and this.epoch // checkpoint_every > done // checkpoint_every
                if all(broken):
                    break
                if due or complete or stop.is_set():
                    for log in logs:
                        log.sync()
                    _save(folders, best, this, broken, steps)
                progress.advance(job, this, done)
                done = this.epoch
                if stop.is_set():
                    break
        except KeyboardInterrupt:  # at once: what was being computed is lost
            complete = False
            last, done = begin()
            for log in logs:
                log.keep_until(done, job.ends)
            weights = program.weights(last, job.data)
        return [
            Outcome(
                complete,
                jax.tree.map(lambda x, row=row: x[row], weights),
                jax.tree.map(lambda x, row=row: x[row : row + 1], last),
                log,
                best_line(log, job.metric),
                _where(job, last, log, row),
            )
            for row, log in enumerate(logs)
        ]


def best_line(log: Log, name: str) -> dict[str, Any] | None:
    """The line of the best epoch on the validation part, of equals the first; None without one."""
    name = f"validation_{name}"
    known = [line for line in log.lines if line.get(name) is not None]
    return max(known, key=lambda line: metric(name).better(line[name]), default=None)


def refusal(run: Run, where: str, saved: str) -> str:
    """The message for a loss that is not finite."""
    return (
        f"`{run.label}`: the loss is not finite at {where}. Last good checkpoint: {saved}. Try a"
        " lower learning rate (`--lr`), clipping (`--clip 1`), a warm-up (`--warmup 1`), a smaller"
        " rho or noise radius, or `--precision float32`."
    )


class _Folders(NamedTuple):
    """The checkpoints of a run: the newest states, and the best weights."""

    last: Checkpoints
    best: Checkpoints


@contextlib.contextmanager
def _open(run: Run, keep: int) -> Iterator[_Folders | None]:
    if run.directory is None:
        yield None
        return
    text = identity_text(run)
    with (
        open_checkpoints(run.directory, text, folder=LAST, keep=keep) as last,
        open_checkpoints(run.directory, text, folder=BEST, keep=1) as best,
    ):
        if best.newest is not None:
            best.check(best.newest)
        yield _Folders(last, best)


def _restored(folders: Sequence[_Folders | None], like: loop.TrainState) -> loop.TrainState | None:
    """The newest state that all runs have; None if one has none."""
    opened = [folder.last for folder in folders if folder is not None]
    common = set.intersection(*(set(one.steps) for one in opened)) if opened else set()
    if not common:
        for one in opened:  # those of another run are an error, not overwritten
            if one.newest is not None:
                one.check(one.newest)
        return None
    rows: list[Any] = [
        one.restore(jax.tree.map(lambda x, row=row: x[row : row + 1], like)._asdict(), max(common))
        for row, one in enumerate(opened)
    ]
    joined = jax.tree.map(lambda *x: jnp.concatenate(x), *rows) if len(rows) > 1 else rows[0]
    return loop.TrainState(**joined)


def _save(
    folders: Sequence[_Folders | None],
    best: list[Any],
    this: loop.Round,
    broken: Sequence[bool],
    steps: int,
) -> None:
    """Saves the best weights, then the state: what is resumed has the best of its past."""
    for row, folder in enumerate(folders):
        if folder is None or broken[row]:
            continue
        if best[row] is not None:
            epoch, (params, rest) = best[row]
            folder.best.save(epoch * steps, {"params": params, "rest": rest})
            best[row] = None
        own = jax.tree.map(lambda x, row=row: x[row : row + 1], this.state)
        folder.last.save(this.epoch * steps, own._asdict())


def _row(tree: Any, row: int) -> Any:
    return jax.tree.map(lambda x: jnp.copy(x[row]), tree)  # the next round gives its buffers up


def _broken(this: loop.Round, row: int) -> bool:
    return bool(this.state.broken[row]) or not math.isfinite(this.metrics["train_loss"][row])


def _where(job: Job, state: loop.TrainState, log: Log, row: int) -> str | None:
    """Where the loss of a run is not finite."""
    step, last, steps = int(state.broken[row]), log.last, job.program.steps_per_epoch
    if not step and last is not None and last.get("train_loss") is None:
        step = last["epoch"] * steps
    return f"step {step}, epoch {(step - 1) // steps + 1}" if step else None


@contextlib.contextmanager
def _interrupts(console: Console) -> Iterator[threading.Event]:
    """Turns the first Ctrl-C into an event, in the main thread; the second one is as usual."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before: Any = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # ignored, or somebody else's
        yield stop
        return

    def first(number: int, frame: Any) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before)
        console.print("Stopping after this epoch; press Ctrl-C again to stop at once.")
        del number, frame

    signal.signal(signal.SIGINT, first)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
