"""Training of one setting with one seed, from the start or from a checkpoint."""

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
from tsam_jax.train import config, loop
from tsam_jax.train.checkpoint import BEST, LAST, Checkpoints
from tsam_jax.train.metrics import METRICS
from tsam_jax.train.network import Batch, Network
from tsam_jax.train.progress import Progress
from tsam_jax.train.record import Log, owned
from tsam_jax.train.resolve import Plan
from tsam_jax.train.task import Data, Loaded
from tsam_jax.train.trackers import Tracking, open_trackers


class Diverged(Exception):  # noqa: N818 - what happened, for the user to read
    """A loss that is not finite; the message has the step and remedies."""


class Run(NamedTuple):
    """One (setting, seed)."""

    label: str  # in displays
    seed: int
    numbers: Mapping[str, float]  # for the program
    identity: Mapping[str, Any]  # what its checkpoints must have been made from
    directory: Path | None  # of metrics.jsonl and the checkpoints; None to write nothing
    network: Network
    program: loop.Program
    data: Data  # of the seed
    ends: Sequence[int]  # epochs at which it is measured; the last one ends the training
    metric: str  # that chooses the best epoch
    price: float  # gradient evaluations of an epoch, a loss evaluation as a third of one
    stream: loop.Stream | None = None  # the training data, if they are not on the device

    def start(self) -> loop.TrainState:
        """The initial state."""
        return self.program.init(self.seed, self.numbers)

    def weights(self, state: loop.TrainState) -> Any:
        """The weights (params, rest) of a state that are measured."""
        return self.program.weights(state, self.data)

    def checkpoints(self, folder: str = LAST, *, keep: int = 2) -> Checkpoints:
        """Opens the checkpoints in a folder of its directory."""
        assert self.directory is not None
        identity = json.dumps(self.identity, sort_keys=True, default=str)
        return Checkpoints(self.directory, identity, folder=folder, keep=keep)


class Outcome(NamedTuple):
    """The result of a run."""

    complete: bool  # whether the training reached its end
    weights: Any  # (params, rest) that were last measured, or of the initial state
    state: loop.TrainState  # the last one
    log: Log
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


def make_run(
    plan: Plan,
    task: config.Task,
    loaded: Loaded,
    seed: int,
    directory: Path | None,
    *,
    evaluations: int,
    parts: Sequence[str] = loop.PARTS,
    program: loop.Program | None = None,
) -> Run:
    """Makes a run of a plan; `program` is that of another plan that differs only in numbers.

    Its identity has all that affects its numbers, such as the epochs.
    """
    setting, optimizer, epochs = plan
    if program is None:
        how = loop.plan_for(setting, optimizer, loaded.train_size, epochs)
        metrics = {name: METRICS[name].function for name in loaded.metrics if name != "loss"}
        options = loaded.train_size, parts, loaded.devices, metrics
        program = loop.make_program(loaded.network, how, *options)
    stream = None
    if loaded.records is not None:
        stream = stream_of(loaded.records, optimizer.batch_size, seed)
    identity = {"setting": setting.text, "seed": seed, "task": vars(task)}
    identity |= {"optimizer": vars(optimizer), "epochs": epochs, "data": loaded.digest}
    return Run(
        label=setting.text,
        seed=seed,
        numbers=loop.numbers_for(setting, optimizer),
        identity=identity,
        directory=directory,
        network=loaded.network,
        program=program,
        data=loaded.of_seed(seed),
        ends=looks(epochs, evaluations),
        metric=loaded.metrics[0],
        price=program.steps_per_epoch * setting.price,
        stream=stream,
    )


def stream_of(records: Records, batch_size: int, seed: int) -> loop.Stream:
    """The batches of an epoch, read while the device works: those of data that are kept on it."""
    batches = streaming.Streamed(records, batch_size, loop.keys(seed)[1])
    return lambda epoch: (Batch(*batch) for batch in batches.epoch(epoch))


def train(
    run: Run,
    progress: Progress,
    *,
    checkpoint_every: int = 10,
    keep_checkpoints: int = 2,
    tracking: Tracking = Tracking(),  # noqa: B008
) -> Outcome:
    """Trains, or resumes from the newest checkpoint, to the last of `run.ends`.

    The first Ctrl-C ends the training after the epochs that are being computed, with a checkpoint;
    the second one at once. It stops where the loss is not finite.

    Raises:
      ConfigError: if a checkpoint is damaged, of another run or of more epochs, or if another
        process trains in the directory; then nothing was changed.
    """
    epochs, steps, directory = run.ends[-1], run.program.steps_per_epoch, run.directory
    newest: Checkpoints | None = None
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(_interrupts(progress.console))
        if directory is not None:
            stack.enter_context(owned(directory))
            newest = stack.enter_context(run.checkpoints(keep=keep_checkpoints))
            chosen = stack.enter_context(run.checkpoints(BEST, keep=1))
            chosen.check()
        log = Log(directory and directory / "metrics.jsonl")  # when nobody else writes it

        def resumed() -> tuple[loop.TrainState, Any]:
            state = run.start()
            if newest is not None and (saved := newest.restore(state._asdict())) is not None:
                state = loop.TrainState(**saved)
            epoch = int(state.step) // steps
            why = f"`epochs` must be at least {epoch}, as many as {directory} has, got {epochs}."
            config.require(epoch <= epochs, why)
            log.keep_until(epoch, run.ends)
            return state, run.weights(state)

        written = bool(log.lines)
        last, weights = resumed()
        done = int(last.step) // steps
        if written and not done:
            progress.note(run.label, "no checkpoint yet: starting from the beginning")
        progress.resume(done * run.price)
        if jax.process_index() == 0:
            log.trackers = open_trackers(tracking, directory, done, stack)
        best: Any = None  # step and weights that are not saved yet
        complete = done >= epochs
        try:
            for this in loop.train(run.program, last, run.data, ends=run.ends, stream=run.stream):
                last, weights = this.state, this.weights
                log.write(this, this.epoch * run.price)
                if _where(last, log, steps) is not None:
                    break
                if (log.best(run.metric) or {}).get("epoch") == this.epoch:
                    # a copy: the next round gives the buffers up
                    best = this.epoch * steps, jax.tree.map(jnp.copy, weights)
                complete = this.epoch == epochs
                # not every multiple need be an epoch that is evaluated
                due = this.epoch // checkpoint_every > done // checkpoint_every
                if newest is not None and (due or complete or stop.is_set()):
                    if best is not None:  # first: what is resumed has the best of its past
                        at, (params, rest) = best
                        chosen.save(at, {"params": params, "rest": rest})
                        best = None
                    newest.save(this.epoch * steps, last._asdict())
                progress.advance(run, this, done)
                done = this.epoch
                if stop.is_set():
                    break
        except KeyboardInterrupt:  # at once: what was being computed is lost
            complete, (last, weights) = False, resumed()
        step = newest.newest if newest is not None else None
        saved = f"after epoch {step // steps}" if step else "none"
        where = _where(last, log, steps)
        return Outcome(complete, weights, last, log, where, saved)


def _where(state: loop.TrainState, log: Log, steps: int) -> str | None:
    """Where the loss of a run is not finite."""
    step, last = int(state.broken), log.lines[-1:]
    if not step and last and last[0].get("train_loss") is None:
        step = last[0]["epoch"] * steps
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
