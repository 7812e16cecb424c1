"""The one training loop: any method, any network, one seed or several at once."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tsam_jax.estimator import Cost, value_and_grad
from tsam_jax.train.config import Optimizer
from tsam_jax.train.mesh import Devices
from tsam_jax.train.settings import Setting
from tsam_jax.train.task import Batch, Data, Network

PARTS = Data._fields
"""The parts of a data set that can be measured."""


class TrainState(NamedTuple):
    """All that training changes; with a leading axis over seeds where several run together.

    Attributes:
      epoch: epochs done; shape (), int32.
      key: PRNG key of the order of the batches; shape ().
      params: the parameters.
      rest: the other state of the network.
      estimator: state of the gradient estimator.
      base: state of the base optimizer.
    """

    epoch: jax.Array
    key: jax.Array
    params: Any
    rest: Any
    estimator: Any
    base: Any


class Program(NamedTuple):
    """Compiled functions that train a group of seeds.

    Attributes:
      init: seeds, shape (g,), int32 -> `TrainState` with a leading axis g.
      advance: (state, data, number of epochs) -> state; the old state is given up.
      measure: (state, data) -> loss and accuracy of the measured parts, "test_loss" say; shape
        (g,) each.
      cost: what one step costs.
      steps_per_epoch: optimizer steps an epoch.
    """

    init: Callable[[jax.Array], TrainState]
    advance: Callable[[TrainState, Data, int], TrainState]
    measure: Callable[[TrainState, Data], dict[str, jax.Array]]
    cost: Cost
    steps_per_epoch: int


def make_program(
    network: Network,
    setting: Setting,
    optimizer: Optimizer,
    train_size: int,
    parts: Sequence[str] = PARTS,
    devices: Devices | None = None,
) -> Program:
    """Compiles the training of one setting.

    Args:
      network: the network and its loss.
      setting: the method.
      optimizer: the base optimizer, before what the setting replaces.
      train_size: number of training examples; what is left of an epoch after the last full
        batch is left out.
      parts: what is measured, some of `PARTS`.
      devices: the mesh that it runs on; its state and data are the same on all devices of it.

    Returns:
      A `Program`.
    """
    devices = devices or Devices()
    chosen = optimizer.for_setting(setting)
    base = optax.chain(  # as torch's SGD: the L2 penalty enters the momentum
        optax.add_decayed_weights(chosen.weight_decay),
        optax.sgd(chosen.lr, momentum=chosen.momentum),
    )
    batch_size, steps = chosen.batch_size, train_size // chosen.batch_size

    def init(seed: jax.Array) -> TrainState:
        init_key, order_key, noise_key = jax.random.split(jax.random.key(seed), 3)
        params, rest = network.init(init_key)
        estimator = setting.build(noise_key).init(params)
        epoch = jnp.zeros((), jnp.int32)
        return TrainState(epoch, order_key, params, rest, estimator, base.init(params))

    spread = setting.build(sample_axis=devices.sample_axis)
    estimate = value_and_grad(network.loss, spread, has_aux=True)

    def step(state: TrainState, batch: Batch) -> TrainState:
        ((_, (rest, _)), grads), estimator = estimate(
            state.params, state.estimator, batch, state.rest
        )
        updates, base_state = base.update(grads, state.base, state.params)
        params = optax.apply_updates(state.params, updates)
        return state._replace(params=params, rest=rest, estimator=estimator, base=base_state)

    def one_epoch(state: TrainState, train: Batch) -> TrainState:
        order = jax.random.permutation(jax.random.fold_in(state.key, state.epoch), train_size)
        order = order[: steps * batch_size].reshape(steps, batch_size)

        def body(state: TrainState, rows: jax.Array) -> tuple[TrainState, None]:
            batch = devices.split(Batch(train.inputs[rows], train.labels[rows]))
            return step(state, batch), None

        state, _ = jax.lax.scan(body, state, order)
        return state._replace(epoch=state.epoch + 1)

    def advance(state: TrainState, data: Data, epochs: jax.Array) -> TrainState:
        def body(_: int, state: TrainState) -> TrainState:
            return one_epoch(state, data.train)

        return TrainState(*jax.lax.fori_loop(0, epochs, body, state))

    def measure(state: TrainState, data: Data) -> dict[str, jax.Array]:
        metrics: dict[str, jax.Array] = {}
        for part in parts:
            loss, accuracy = network.measure(state.params, getattr(data, part), state.rest)
            metrics |= {f"{part}_loss": loss, f"{part}_accuracy": accuracy}
        return metrics

    shared: Any = None
    axes = Data(Batch(shared, 0), shared, shared)  # type: ignore[arg-type]  # labels differ by seed
    return Program(
        lambda seeds: devices.replicate(jax.jit(jax.vmap(init))(seeds)),
        jax.jit(devices.spread(jax.vmap(advance, in_axes=(0, axes, None))), donate_argnums=0),
        jax.jit(jax.vmap(measure, in_axes=(0, axes))),
        setting.build().cost,
        steps,
    )


class Round(NamedTuple):
    """Where training stands.

    Attributes:
      state: the state, until the next round is asked for.
      epoch: epochs done.
      seconds: time that the epochs of this round took, compilation and measuring left out.
      metrics: loss and accuracy of the measured parts, shape (g,) each.
    """

    state: TrainState
    epoch: int
    seconds: float
    metrics: dict[str, np.ndarray]


def train(
    program: Program, state: TrainState, data: Data, *, epochs: int, every: int
) -> Iterator[Round]:
    """Trains, and measures at the end of every round of epochs.

    Args:
      program: the compiled functions.
      state: where to start; it is given up.
      data: the data of this group of seeds.
      epochs: epochs in all, those that the state has behind it included.
      every: epochs a round; the last one may be shorter.

    Yields:
      A `Round` after each.
    """
    done = int(state.epoch[0])
    state = program.advance(state, data, 0)  # compiles
    while done < epochs:
        this = min(every - done % every, epochs - done)
        start = time.perf_counter()
        state = jax.block_until_ready(program.advance(state, data, this))
        seconds = time.perf_counter() - start
        done += this
        yield Round(state, done, seconds, jax.device_get(program.measure(state, data)))


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
