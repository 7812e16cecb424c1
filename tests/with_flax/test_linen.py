"""Linen's TrainState with an estimator: BatchNorm in a mutable collection, dropout by key."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.train_state import TrainState
from flax_models import batch

from tsam_jax import methods, value_and_grad

SAM = methods.sam(0.5)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(8)(x))
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(nn.relu(x)))


class EstimatorTrainState(TrainState):
    batch_stats: Any
    estimator_state: Any


def loss_fn(params, batch, batch_stats, key):
    variables = {"params": params, "batch_stats": batch_stats}
    logits, changed = Net().apply(
        variables, batch[0], train=True, mutable=["batch_stats"], rngs={"dropout": key}
    )
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()
    return loss, changed["batch_stats"]


STEP = value_and_grad(loss_fn, SAM, has_aux=True)


def test_a_train_state_takes_the_steps_of_sam():
    variables = Net().init(jax.random.key(0), batch()[0], train=False)
    state = EstimatorTrainState.create(
        apply_fn=Net().apply,
        params=variables["params"],
        tx=optax.sgd(0.1, momentum=0.9),
        batch_stats=variables["batch_stats"],
        estimator_state=STEP.init(variables["params"]),
    )

    @jax.jit
    def train_step(state, batch, key):
        key = jax.random.fold_in(key, state.step)
        ((loss, batch_stats), grads), estimator_state = STEP(
            state.params, state.estimator_state, batch, state.batch_stats, key
        )
        new = {"batch_stats": batch_stats, "estimator_state": estimator_state}
        return state.apply_gradients(grads=grads, **new), loss

    params, stats, tx = state.params, state.batch_stats, state.tx
    tx_state, gradient = tx.init(params), jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    for k in range(2):
        state, loss = train_step(state, batch(k), jax.random.key(1))
        key = jax.random.fold_in(jax.random.key(1), k)
        (_, new_stats), grads = gradient(params, batch(k), stats, key)
        length = optax.tree.norm(grads)
        ascent = jax.tree.map(lambda p, g: p + 0.5 * g / length, params, grads)  # noqa: B023
        (desired, _), grads = gradient(ascent, batch(k), stats, key)
        updates, tx_state = tx.update(grads, tx_state, params)
        params, stats = optax.apply_updates(params, updates), new_stats
        np.testing.assert_allclose(loss, desired, rtol=1e-5)
    actual = (state.params, state.batch_stats, state.estimator_state.step)
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)  # noqa: E731
    jax.tree.map(close, actual, (params, stats, jnp.int32(2)))
