"""Trains every seed of a setting, in groups that run together, and keeps what was measured."""

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tsam_jax.estimator import known_cost
from tsam_jax.train import config, loop, provenance
from tsam_jax.train.network import Network
from tsam_jax.train.progress import Progress
from tsam_jax.train.settings import Setting
from tsam_jax.train.task import Data, load_task


@dataclasses.dataclass
class Trained:
    """What training one setting gave so far.

    Attributes:
      program: the compiled functions.
      epochs: planned epochs.
      seeds: the seeds that have been measured at least once, or all of them.
      curve_epochs: epochs at which they were measured, shape (points,).
      curves: loss and metrics of the measured parts, shape (seeds, points) each.
      seconds: training time of one seed.
      state: final state, leading axis over seeds; None if the run was interrupted.
    """

    program: loop.Program
    epochs: int
    seeds: tuple[int, ...]
    curve_epochs: np.ndarray
    curves: dict[str, np.ndarray]
    seconds: float
    state: loop.TrainState | None


class Runner:
    """Trains settings on one task, with the same seeds for each.

    Args:
      task: the task.
      optimizer: the shared base optimizer.
      budget: how long to train.
      runs: seeds and measurements.
      log: file that gets one JSON line for each seed and measurement.
      parts: the parts of the data set that are measured.
    """

    def __init__(
        self,
        task: config.Task,
        optimizer: config.Optimizer,
        budget: config.Budget,
        runs: config.Runs,
        log: Path,
        parts: Sequence[str] = loop.PARTS,
    ) -> None:
        self._optimizer, self._budget, self._runs, self._log = optimizer, budget, runs, log
        self._parts = parts
        self.seeds = tuple(range(runs.seeds))
        if task.stream:
            msg = "`--stream` is for `tsam-jax train`: here all seeds share the data on the device."
            raise config.ConfigError(msg)
        loaded = load_task(task, self.seeds)
        self.data: Data = loaded.data
        self.network: Network = loaded.network
        self.train_size, self.metric = loaded.train_size, loaded.metric or "loss"
        self.together = {"yes": True, "no": False}.get(runs.seeds_together)

    def work(self, settings: Sequence[Setting]) -> dict[str, float]:
        """Returns the gradient evaluations of each setting, all seeds together.

        Raises:
          ConfigError: if a setting cannot be trained with this batch or this optimizer.
        """
        config.check_batch(self.train_size, self._optimizer, settings)
        work = {}
        for setting in settings:
            self._plan(setting)
            gradients = known_cost(setting.build().cost).gradients
            batch_size = self._optimizer.for_setting(setting).batch_size
            steps = self.train_size // batch_size
            epochs = self._budget.epochs_for(setting)
            work[setting.text] = epochs * steps * gradients * len(self.seeds)
        return work

    def choose_groups(self) -> None:
        """Finds out, if that was left open, whether seeds run faster together on this machine."""
        if self.together is None:
            self.together = len(self.seeds) > 1 and together_is_faster(
                self.network, self.data, self._optimizer.batch_size
            )

    def train(
        self, setting: Setting, progress: Progress, program: loop.Program | None = None
    ) -> Trained:
        """Trains all seeds of a setting.

        Args:
          setting: the method and its numbers.
          progress: told of every round.
          program: its compiled functions; default: made here.

        Returns:
          What was measured. If the user interrupts, what was measured until then, with `state`
          None.
        """
        self.choose_groups()
        epochs = self._budget.epochs_for(setting)
        program = program or loop.make_program(
            self.network, self._plan(setting), self.train_size, self._parts
        )
        count = len(self.seeds)
        groups = [list(range(count))] if self.together else [[row] for row in range(count)]
        states: list[loop.TrainState] = []
        records: list[_GroupRecord] = []
        progress.note(setting.text, "compiling")
        try:
            for group in groups:
                records.append(_GroupRecord([self.seeds[row] for row in group]))
                states.append(self._train_group(setting, program, group, epochs, records, progress))
        except KeyboardInterrupt:
            states = []
            finished = [record for record in records if record.epochs[-1:] == [epochs]]
            records = finished or [record for record in records if record.epochs][:1]
        joined = jax.tree.map(lambda *x: jnp.concatenate(x), *states) if states else None
        return _join(program, epochs, records, joined)

    def train_together(
        self, settings: Sequence[Setting], progress: Progress, program: loop.Program
    ) -> list[Trained]:
        """Trains all seeds of several settings at once.

        Args:
          settings: settings that train for the same number of epochs.
          progress: told of every round.
          program: its rows are the seeds of the first setting, then those of the next.

        Returns:
          What was measured of each; none if the user interrupts.
        """
        epochs, count = self._budget.epochs_for(settings[0]), len(self.seeds)
        data = loop.select_seeds(self.data, list(range(count)) * len(settings))
        every = max(1, epochs // self._runs.evaluations)
        records = [_GroupRecord(list(self.seeds)) for _ in settings]
        rows = [slice(n * count, (n + 1) * count) for n in range(len(settings))]
        done = 0
        progress.note(settings[0].text, f"compiling {len(settings)} settings as one program")
        try:
            state = program.init(self.seeds)
            for this in loop.train(program, state, data, epochs=epochs, every=every):
                state = this.state
                for setting, record, own in zip(settings, records, rows, strict=True):
                    metrics = {name: x[own] for name, x in this.metrics.items()}
                    seconds = this.seconds / len(settings)
                    part = this._replace(metrics=metrics, seconds=seconds)
                    self._report(setting, record, program, part, done, epochs, progress)
                done = this.epoch
        except KeyboardInterrupt:
            return []
        states = [jax.tree.map(lambda x, own=own: x[own], state) for own in rows]
        return [
            _join(program, epochs, [record], own)
            for record, own in zip(records, states, strict=True)
        ]

    def _plan(self, setting: Setting) -> loop.Plan:
        epochs = self._budget.epochs_for(setting)
        return loop.plan_for(setting, self._optimizer, self.train_size, epochs)

    def _train_group(
        self,
        setting: Setting,
        program: loop.Program,
        group: list[int],
        epochs: int,
        records: list["_GroupRecord"],
        progress: Progress,
    ) -> loop.TrainState:
        record = records[-1]
        data = loop.select_seeds(self.data, group)
        state = program.init(record.seeds)
        every = max(1, epochs // self._runs.evaluations)
        done = 0
        for this in loop.train(program, state, data, epochs=epochs, every=every):
            self._report(setting, record, program, this, done, epochs, progress)
            state, done = this.state, this.epoch
        return state

    def _report(
        self,
        setting: Setting,
        record: "_GroupRecord",
        program: loop.Program,
        this: loop.Round,
        done: int,
        epochs: int,
        progress: Progress,
    ) -> None:
        """Keeps, logs and shows a round of some seeds; `done` epochs were reported before."""
        per_epoch = program.steps_per_epoch * known_cost(program.cost).gradients
        record.add(this)
        self._write(setting, record.seeds, this, this.epoch * per_epoch)
        progress.advance(
            setting.text,
            seeds=record.seeds,
            epoch=this.epoch,
            epochs=epochs,
            gradients=(this.epoch - done) * per_epoch * len(record.seeds),
            metrics={name: float(x.mean()) for name, x in this.metrics.items()},
            score=f"validation_{self.metric}",
            examples_per_second=this.examples_per_second * len(record.seeds),
        )

    def _write(
        self, setting: Setting, seeds: Sequence[int], this: loop.Round, gradients: float
    ) -> None:
        with self._log.open("a") as log:
            for row, seed in enumerate(seeds):
                head: dict[str, Any] = {"setting": setting.text, "seed": seed, "epoch": this.epoch}
                head["gradient_evaluations"] = gradients
                numbers = {name: provenance.json_number(x[row]) for name, x in this.metrics.items()}
                timing = {"examples_per_second": round(this.examples_per_second, 1)}
                log.write(json.dumps({**head, **numbers, "timing": timing}) + "\n")


class _GroupRecord:
    """The rounds of a group of seeds."""

    def __init__(self, seeds: list[int]) -> None:
        self.seeds = seeds
        self.epochs: list[int] = []
        self.seconds = 0.0
        self.metrics: list[dict[str, np.ndarray]] = []

    def add(self, this: loop.Round) -> None:
        self.epochs.append(this.epoch)
        self.seconds += this.seconds
        self.metrics.append(this.metrics)


def _join(
    program: loop.Program,
    epochs: int,
    records: list[_GroupRecord],
    state: loop.TrainState | None,
) -> Trained:
    seeds = tuple(seed for record in records for seed in record.seeds)
    curves = {
        name: np.concatenate([
            np.stack([metrics[name] for metrics in record.metrics], axis=1) for record in records
        ])
        for name in (records[0].metrics[0] if records else ())
    }
    points = np.asarray(records[0].epochs if records else [], int)
    seconds = sum(record.seconds for record in records) / max(len(seeds), 1)
    return Trained(program, epochs, seeds, points, curves, seconds, state)


def together_is_faster(network: Network, data: Data, batch_size: int) -> bool:
    """Times the plain gradient of all seeds as one program against one after the other.

    Args:
      network: the network.
      data: the data, with labels of all seeds.
      batch_size: examples of a gradient.

    Returns:
      Whether one program is faster.
    """
    count = data.train.labels.shape[0]
    batch = jax.tree.map(lambda x: x[:batch_size], data.train._replace(labels=data.train.labels[0]))
    batch = batch._replace(inputs=network.augment(jax.random.key(0), batch.inputs))
    first = network.init(jax.random.key(0))
    params, rest = jax.tree.map(lambda x: jnp.stack([x] * count), first)

    def many_gradients(params: Any, rest: Any) -> Any:
        """Thirty in a row, each depending on the last, as in training."""

        def body(_: int, params: Any) -> Any:
            grads = jax.grad(network.loss, has_aux=True)(params, batch, rest)[0]
            return jax.tree.map(lambda p, g: p - 1e-3 * g, params, grads)

        return jax.lax.fori_loop(0, 30, body, params)

    def seconds(function: Any, *args: Any) -> float:
        jax.block_until_ready(function(*args))
        times = []
        for _ in range(3):
            start = time.perf_counter()
            jax.block_until_ready(function(*args))
            times.append(time.perf_counter() - start)
        return min(times)

    together = seconds(jax.jit(jax.vmap(many_gradients)), params, rest)
    return bool(together < count * seconds(jax.jit(many_gradients), *first))
