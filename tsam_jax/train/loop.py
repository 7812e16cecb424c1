"""The one training loop: any method, any network, one seed or several at once."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tsam_jax.estimator import Cost, GradientEstimator, value_and_grad
from tsam_jax.methods import microbatched
from tsam_jax.train.config import Optimizer
from tsam_jax.train.mesh import Devices
from tsam_jax.train.metrics import measured_on_host
from tsam_jax.train.network import Batch, Network, in_chunks
from tsam_jax.train.optimizers import make_base
from tsam_jax.train.settings import Setting
from tsam_jax.train.task import MEASURED, Data

PARTS = Data._fields
"""The parts of a data set that can be measured."""


Stream = Callable[[int], Iterable[Batch]]
"""epoch -> its batches, in the order in which they are trained on; on the host."""

_DISPATCH = 16  # batches of a stream that are sent to the device at once
_CHUNK = 1000  # examples that are measured at a time
_AUGMENT = 2**32 - 1  # no epoch: the keys of the augmentation are not those of the order


class TrainState(NamedTuple):
    """All that training changes; with a leading axis over seeds where several run together.

    Attributes:
      step: optimizer steps done, which is also the position in the data; shape (), int32.
      key: PRNG key of the order of the batches and of the augmentation; shape ().
      params: the parameters.
      rest: the other state of the network.
      estimator: state of the gradient estimator.
      base: state of the base optimizer.
      average: average of (params, rest), which is measured; () if there is none.
      broken: the first step with a loss that is not finite, counted from 1; 0 if there is none;
        shape (), int32.
    """

    step: jax.Array
    key: jax.Array
    params: Any
    rest: Any
    estimator: Any
    base: Any
    average: Any
    broken: jax.Array


class Plan(NamedTuple):
    """How a network is trained.

    Attributes:
      estimator: makes the gradient estimator; takes `sample_axis` if that is spread.
      base: the base optimizer.
      batch_size: examples a step.
      accumulate: parts in which a batch is evaluated.
      ema: decay of the average of the parameters; None for no average.
    """

    estimator: Callable[..., GradientEstimator]
    base: optax.GradientTransformation
    batch_size: int
    accumulate: int = 1
    ema: float | None = None


class Program(NamedTuple):
    """Compiled functions that train a group of seeds.

    Attributes:
      init: seeds -> `TrainState` with a leading axis over them.
      advance: (state, data, number of epochs) -> state; the old state is given up.
      feed: (state, batches with a leading axis over steps) -> state, for data that are not on the
        device; the old state is given up.
      measure: (state, data) -> numbers of the measured parts, "test_loss" say, and the metrics of
        the method in the last step, such as "step_loss" (the mean, of several samples); shape (g,)
        each.
      predict: (state, inputs) -> outputs, shape (g, n, outputs).
      cost: cost of one step, if the estimator states it.
      steps_per_epoch: optimizer steps an epoch.
      batch_size: examples a step.
    """

    init: Callable[[Sequence[int]], TrainState]
    advance: Callable[[TrainState, Data, int], TrainState]
    feed: Callable[[TrainState, Batch], TrainState]
    measure: Callable[[TrainState, Data], dict[str, jax.Array]]
    predict: Callable[[TrainState, Any], jax.Array]
    cost: Cost | None
    steps_per_epoch: int
    batch_size: int


def plan_for(setting: Setting, optimizer: Optimizer, train_size: int, epochs: int) -> Plan:
    """How a setting is trained.

    Args:
      setting: the method.
      optimizer: the base optimizer, before what the setting replaces.
      train_size: number of training examples.
      epochs: epochs of the whole training, over which schedules run.

    Returns:
      The `Plan`.
    """
    chosen = optimizer.for_setting(setting)
    per_epoch = train_size // chosen.batch_size
    base = make_base(chosen, steps=epochs * per_epoch, steps_per_epoch=per_epoch)
    return Plan(setting.build, base, chosen.batch_size, chosen.accumulate, chosen.ema)


def make_program(
    network: Network,
    plan: Plan,
    train_size: int,
    parts: Sequence[str] = PARTS,
    devices: Devices | None = None,
) -> Program:
    """Compiles the training of one plan.

    Args:
      network: the network and its loss.
      plan: how it is trained.
      train_size: number of training examples; what is left of an epoch after the last full
        batch is left out.
      parts: what is measured, some of `PARTS`.
      devices: the mesh that it runs on; its state and data are the same on all devices of it.

    Returns:
      A `Program`.
    """
    devices = devices or Devices()
    batch_size, steps = plan.batch_size, train_size // plan.batch_size

    def accumulated(estimator: GradientEstimator) -> GradientEstimator:
        if plan.accumulate == 1:
            return estimator
        return microbatched(estimator, batch_size // plan.accumulate, batch=1)

    def start(keys: jax.Array, params: Any, rest: Any) -> TrainState:
        order_key, noise_key = keys
        estimator = value_and_grad(network.loss, plan.estimator(), key=noise_key).init(params)
        zero = jnp.zeros((), jnp.int32)
        # A copy: the state is given up as a whole, and no buffer can be given up twice.
        average = () if plan.ema is None else jax.tree.map(jnp.copy, (params, rest))
        base = plan.base.init(params)
        return TrainState(zero, order_key, params, rest, estimator, base, average, zero)

    def init(seeds: Sequence[int]) -> TrainState:
        keys = [_keys(seed) for seed in seeds]
        networks = [network.init(key[0]) for key in keys]  # may read files, so it is not mapped
        params, rest = jax.tree.map(lambda *x: jnp.stack(x), *networks)
        rows = jnp.stack([key[1:] for key in keys])
        return devices.replicate(jax.jit(jax.vmap(start))(rows, params, rest))  # type: ignore[no-any-return]

    axis = devices.sample_axis
    spread = plan.estimator() if axis is None else plan.estimator(sample_axis=axis)
    estimate = value_and_grad(network.loss, accumulated(spread), has_aux=True)

    def step(state: TrainState, batch: Batch) -> TrainState:
        key = jax.random.fold_in(jax.random.fold_in(state.key, _AUGMENT), state.step)
        batch = devices.split(batch._replace(inputs=network.augment(key, batch.inputs)))
        ((value, rest), grads), estimator = estimate(
            state.params, state.estimator, batch, state.rest
        )
        updates, base = plan.base.update(grads, state.base, state.params)
        params = optax.apply_updates(state.params, updates)
        done = state.step + 1
        broken = jnp.where((state.broken == 0) & ~jnp.isfinite(value), done, state.broken)
        average = state.average
        if plan.ema is not None:
            average = _averaged(average, (params, rest), plan.ema, state.step)
        return TrainState(done, state.key, params, rest, estimator, base, average, broken)

    def feed(state: TrainState, batches: Batch) -> TrainState:
        return jax.lax.scan(lambda state, batch: (step(state, batch), None), state, batches)[0]

    def one_epoch(state: TrainState, train: Batch) -> TrainState:
        key = jax.random.fold_in(state.key, state.step // steps)
        order = jax.random.permutation(key, train_size)
        order = order[: steps * batch_size].reshape(steps, batch_size)

        def body(state: TrainState, rows: jax.Array) -> tuple[TrainState, None]:
            return step(state, jax.tree.map(lambda x: x[rows], train)), None

        return jax.lax.scan(body, state, order)[0]

    def advance(state: TrainState, data: Data, epochs: jax.Array) -> TrainState:
        def body(_: int, state: TrainState) -> TrainState:
            return one_epoch(state, data.train)

        return TrainState(*jax.lax.fori_loop(0, epochs, body, state))

    def predict(state: TrainState, inputs: Any) -> jax.Array:
        params, rest = (state.params, state.rest) if plan.ema is None else state.average
        return in_chunks(lambda some: network.predict(params, some, rest), inputs, _CHUNK)

    def measure(state: TrainState, data: Data) -> dict[str, jax.Array]:
        metrics: dict[str, jax.Array] = {}
        for part in parts:
            some = jax.tree.map(lambda x: x[:MEASURED], data.train)
            examples = some if part == "train" else getattr(data, part)
            scores = network.score(predict(state, examples.inputs), examples.labels)
            metrics |= {f"{part}_{name}": value for name, value in scores.items()}
        last = state.estimator.last.metrics
        return metrics | {f"step_{name}": jnp.mean(x) for name, x in last.items()}

    shared: Any = None
    axes = Data(Batch(shared, 0), shared, shared)  # type: ignore[arg-type]  # labels differ by seed
    return Program(
        init,
        jax.jit(devices.spread(jax.vmap(advance, in_axes=(0, axes, None))), donate_argnums=0),
        jax.jit(devices.spread(jax.vmap(feed, in_axes=(0, None))), donate_argnums=0),
        measured_on_host(
            jax.jit(jax.vmap(measure, in_axes=(0, axes))), network.host_metrics, parts
        ),
        jax.jit(jax.vmap(predict, in_axes=(0, None))),
        plan.estimator().cost,
        steps,
        batch_size,
    )


def order_key(seed: int) -> jax.Array:
    """The key of a seed's order of batches; that of an epoch is `fold_in(key, epoch)`."""
    return _keys(seed)[1]


def _keys(seed: int) -> jax.Array:
    """The keys of the weights, the order of the batches and the noise."""
    return jax.random.split(jax.random.key(seed), 3)


def _averaged(average: Any, new: Any, decay: float, step: jax.Array) -> Any:
    """An exponential average, which forgets faster in its first steps; what has none is new.

    The decay is min(decay, (1 + n) / (10 + n)) in step n, as in TensorFlow's.

    Returns:
      The average after step n.
    """
    kept = jnp.minimum(decay, (1.0 + step) / (10.0 + step))

    def mixed(old: jax.Array, x: jax.Array) -> jax.Array:
        if not jnp.issubdtype(x.dtype, jnp.inexact):  # keys and counters
            return x
        return (x + kept * (old - x)).astype(x.dtype)

    return jax.tree.map(mixed, average, new)


class Round(NamedTuple):
    """Where training stands.

    Attributes:
      state: the state, until the next round is asked for.
      epoch: epochs done.
      seconds: time that the epochs of this round took, compilation and measuring left out.
      examples_per_second: training examples of one seed, in that time.
      metrics: numbers of the measured parts and of the estimator, shape (g,) each.
    """

    state: TrainState
    epoch: int
    seconds: float
    examples_per_second: float
    metrics: dict[str, np.ndarray]


def train(
    program: Program,
    state: TrainState,
    data: Data,
    *,
    epochs: int,
    every: int,
    stream: Stream | None = None,
) -> Iterator[Round]:
    """Trains, and measures at the end of every round of epochs.

    Args:
      program: the compiled functions.
      state: where to start; it is given up.
      data: the data of this group of seeds; with a `stream`, those that are measured.
      epochs: epochs in all, those that the state has behind it included.
      every: epochs a round; the last one may be shorter.
      stream: epoch -> its batches of training data, for what does not fit on the device; all seeds
        of the group get the same. As many as `program.steps_per_epoch`.

    Yields:
      A `Round` after each.
    """
    done = int(state.step[0]) // program.steps_per_epoch
    if stream is None:
        state = program.advance(state, data, 0)  # compiles
    while done < epochs:
        this = min(every - done % every, epochs - done)
        start = time.perf_counter()
        if stream is None:
            state = program.advance(state, data, this)
        else:
            for epoch in range(done, done + this):
                for batches in _stacked(stream(epoch)):
                    state = program.feed(state, batches)
        state = jax.block_until_ready(state)
        seconds = time.perf_counter() - start
        done += this
        examples = this * program.steps_per_epoch * program.batch_size
        metrics = jax.device_get(program.measure(state, data))
        yield Round(state, done, seconds, examples / seconds, metrics)


def _stacked(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Some batches at a time, with a leading axis: one dispatch for all of them."""
    batches = iter(batches)
    while some := list(itertools.islice(batches, _DISPATCH)):
        yield jax.tree.map(lambda *x: np.stack(x), *some)


def select_seeds(data: Data, rows: Sequence[int]) -> Data:
    """The data of some of the seeds.

    Args:
      data: data of all seeds.
      rows: which of them.

    Returns:
      `Data` with `train.labels` of these only.
    """
    labels = data.train.labels[jnp.asarray(rows)]
    return data._replace(train=data.train._replace(labels=labels))
