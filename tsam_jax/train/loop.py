"""The one training loop: any method, any network."""

import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tsam_jax.data import streaming
from tsam_jax.estimator import GradientEstimator, value_and_grad
from tsam_jax.methods import microbatched
from tsam_jax.train.config import Optimizer
from tsam_jax.train.mesh import Devices
from tsam_jax.train.network import Batch, Network, in_chunks
from tsam_jax.train.optimizers import NUMBERS, make_base
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
    """Training state."""

    step: jax.Array  # optimizer steps done, which is also the position in the data; int32
    key: jax.Array  # of the order of the batches and of the augmentation
    params: Any
    rest: Any  # the other state of the network
    estimator: Any
    base: Any  # state of the base optimizer
    average: Any  # average of (params, rest), which is measured; () if there is none
    broken: jax.Array  # the first step with a loss that is not finite, from 1; 0 if none; int32
    numbers: dict[str, jax.Array]  # of the method and of the base optimizer


class Plan(NamedTuple):
    """How to train a network. Numbers are arguments: runs that differ only in them share it."""

    estimator: Callable[..., GradientEstimator]  # (numbers, sample_axis=axis) -> estimator
    base: Callable[[Mapping[str, Any]], optax.GradientTransformation]
    options: Optimizer  # batch size, micro-batches, average of the parameters, recalibration


class Program(NamedTuple):
    """Compiled functions that train; old states are donated.

    Attributes:
      init: (seed, numbers) -> `TrainState`.
      advance: (state, data, number of epochs) -> state.
      feed: (state, batches with a leading axis over steps) -> state, for data that are not on the
        device.
      weights: (state, data) -> (params, rest) that are measured: averages if there are some,
        recalibrated if asked.
      measure: (weights, state, data) -> numbers of the measured parts, such as "test_loss", and the
        metrics of the method in the last step, such as "step_loss".
    """

    init: Callable[..., TrainState]
    advance: Callable[[TrainState, Data, int], TrainState]
    feed: Callable[[TrainState, Batch], TrainState]
    weights: Callable[[TrainState, Data], Any]
    measure: Callable[[Any, TrainState, Data], dict[str, float]]
    steps_per_epoch: int
    batch_size: int


def plan_for(setting: Setting, optimizer: Optimizer, train_size: int, epochs: int) -> Plan:
    """How a setting is trained, its schedules over so many epochs."""
    per_epoch = train_size // optimizer.batch_size
    make = functools.partial(make_base, steps=epochs * per_epoch, steps_per_epoch=per_epoch)
    base = lambda numbers: make(optimizer, numbers=numbers)  # noqa: E731
    return Plan(setting.build, base, optimizer)


def numbers_for(setting: Setting, optimizer: Optimizer) -> dict[str, float]:
    """The arguments of a setting's program."""
    return setting.numbers | {name: float(getattr(optimizer, name)) for name in NUMBERS}


def make_program(
    network: Network,
    plan: Plan,
    train_size: int,
    parts: Sequence[str] = PARTS,
    devices: Devices | None = None,
    metrics: Mapping[str, Callable[..., Any]] | None = None,
) -> Program:
    """Compiles the training of one plan.

    The rest of an epoch after the last full batch is left out. `metrics` are measured on each part
    besides the loss, on the host.
    """
    devices = devices or Devices()
    batch_size, ema = plan.options.batch_size, plan.options.ema
    steps, accumulate = train_size // batch_size, plan.options.accumulate

    @jax.jit
    def start(keys: jax.Array, params: Any, rest: Any, numbers: Any) -> TrainState:
        order_key, noise_key = keys
        estimator = value_and_grad(network.loss, plan.estimator(numbers), key=noise_key)
        zero = jnp.zeros((), jnp.int32)
        # A copy: the state is donated as a whole, and no buffer can be donated twice.
        average = () if ema is None else jax.tree.map(jnp.copy, (params, rest))
        own, base = estimator.init(params), plan.base(numbers).init(params)
        return TrainState(zero, order_key, params, rest, own, base, average, zero, numbers)

    def init(seed: int, numbers: Mapping[str, float] | None = None) -> TrainState:
        first, *others = keys(seed)
        table = {name: jnp.asarray(x, float) for name, x in (numbers or {}).items()}
        state = start(jnp.stack(others), *network.init(first), table)  # init may read files
        return devices.replicate(state)  # type: ignore[no-any-return]

    def step(state: TrainState, batch: Batch) -> TrainState:
        key = jax.random.fold_in(jax.random.fold_in(state.key, _AUGMENT), state.step)
        batch = batch._replace(inputs=network.augment(key, batch.inputs))
        batch = devices.split(batch, "data")
        axis = {} if devices.sample_axis is None else {"sample_axis": devices.sample_axis}
        estimator = plan.estimator(state.numbers, **axis)
        if accumulate > 1:
            estimator = microbatched(estimator, batch_size // accumulate, batch=1)
        estimate = value_and_grad(network.loss, estimator, has_aux=True)
        ((value, rest), grads), own = estimate(state.params, state.estimator, batch, state.rest)
        updates, base = plan.base(state.numbers).update(grads, state.base, state.params)
        params = optax.apply_updates(state.params, updates)
        done = state.step + 1
        average = () if ema is None else _averaged(state.average, (params, rest), ema, state.step)
        broken = jnp.where((state.broken == 0) & ~jnp.isfinite(value), done, state.broken)
        return TrainState(done, state.key, params, rest, own, base, average, broken, state.numbers)

    @functools.partial(jax.jit, donate_argnums=0)
    @devices.spread
    def feed(state: TrainState, batches: Batch) -> TrainState:
        return jax.lax.scan(lambda state, batch: (step(state, batch), None), state, batches)[0]

    def one_epoch(state: TrainState, train: Batch) -> TrainState:
        key = jax.random.fold_in(state.key, state.step // steps)
        take = lambda rows: jax.tree.map(lambda x: x[rows], train)  # noqa: E731
        body = lambda state, rows: (step(state, take(rows)), None)  # noqa: E731
        return jax.lax.scan(body, state, streaming.order(key, train_size, batch_size))[0]

    @functools.partial(jax.jit, donate_argnums=0)
    @devices.spread
    def advance(state: TrainState, data: Data, epochs: jax.Array) -> TrainState:
        body = lambda _, state: one_epoch(state, data.train)  # noqa: E731
        return TrainState(*jax.lax.fori_loop(0, epochs, body, state))

    @jax.jit
    def weights(state: TrainState, data: Data) -> Any:
        params, rest = (state.params, state.rest) if ema is None else state.average
        if plan.options.recalibrate:
            count = min(train_size, MEASURED) // batch_size
            rows = np.arange(count * batch_size).reshape(count, batch_size)
            batches = jax.tree.map(lambda x: x[rows], data.train.inputs)
            rest = network.recalibrate(params, rest, batches)
        return params, rest

    @jax.jit
    def predictions(weights: Any, state: TrainState, data: Data) -> Any:
        last = state.estimator.last.metrics
        found, outputs = {f"step_{name}": jnp.mean(x) for name, x in last.items()}, {}
        predict = lambda some: network.predict(weights[0], some, weights[1])  # noqa: E731
        for part in parts:
            examples = getattr(data, part)
            if part == "train":  # the first ones
                examples = jax.tree.map(lambda x: x[: min(train_size, MEASURED)], examples)
            outputs[part] = in_chunks(predict, examples.inputs, _CHUNK)
            found[f"{part}_loss"] = network.criterion(outputs[part], examples.labels)
        return devices.split((found, outputs))

    def measure(weights: Any, state: TrainState, data: Data) -> dict[str, float]:
        found, outputs = jax.device_get(predictions(weights, state, data))
        for part, own in outputs.items():
            labels = np.asarray(getattr(data, part).labels)[: len(own)]
            for name, function in (metrics or {}).items():
                found[f"{part}_{name}"] = function(own, labels)
        return {name: float(x) for name, x in found.items()}

    return Program(init, advance, feed, weights, measure, steps, batch_size)


def keys(seed: int) -> jax.Array:
    """The keys of the weights, of the order of the batches and of the noise."""
    return jax.random.split(jax.random.key(seed), 3)


def _averaged(average: Any, new: Any, decay: float, step: jax.Array) -> Any:
    """The exponential average after step n, with TensorFlow's min(decay, (1 + n) / (10 + n))."""
    kept = jnp.minimum(decay, (1.0 + step) / (10.0 + step))

    def mixed(old: jax.Array, x: jax.Array) -> jax.Array:
        averaged = jnp.issubdtype(x.dtype, jnp.inexact)  # not keys and counters
        return (x + kept * (old - x)).astype(x.dtype) if averaged else x

    return jax.tree.map(mixed, average, new)


class Round(NamedTuple):
    """The state of training after some epochs."""

    state: TrainState  # until the next round is asked for
    weights: Any  # (params, rest) that were measured
    epoch: int
    seconds: float  # of the epochs of this round, without compilation and evaluation
    examples_per_second: float  # in that time
    metrics: dict[str, float]  # of the measured parts and of the estimator


def train(
    program: Program,
    state: TrainState,
    data: Data,
    *,
    ends: Sequence[int],
    stream: Stream | None = None,
) -> Iterator[Round]:
    """Trains, and measures at the end of every round of epochs.

    `ends` are ascending; those that lie behind the state, which is donated, are skipped. A `stream`
    has data that do not fit on the device: `data` are then those that are measured.
    """
    done = int(state.step) // program.steps_per_epoch
    ahead = [end for end in ends if end > done]
    if stream is None and ahead:
        state = program.advance(state, data, 0)  # compiles
    for end in ahead:
        start = time.perf_counter()
        if stream is None:
            state = program.advance(state, data, end - done)
        else:
            for epoch in range(done, end):
                batches = iter(stream(epoch))
                while some := list(itertools.islice(batches, _DISPATCH)):
                    state = program.feed(state, jax.tree.map(lambda *x: np.stack(x), *some))
        state = jax.block_until_ready(state)
        seconds = time.perf_counter() - start
        examples = (end - done) * program.steps_per_epoch * program.batch_size
        weights = program.weights(state, data)
        metrics = program.measure(weights, state, data)
        yield Round(state, weights, end, seconds, examples / seconds, metrics)
        done = end
