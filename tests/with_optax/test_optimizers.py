"""Bases of many kinds, against the same optimizer fed by hand with gradients from NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bowl import (
    BATCH,
    climbed,
    flat,
    loss,
    make_step,
    one_update,
    parameters,
    sam_gradient,
    value,
)

from tsam_jax import methods, sharpness_aware

RHO = 0.3
BASES = {
    "sgd": optax.sgd(0.05, momentum=0.9, nesterov=True),
    "adamw": optax.adamw(optax.cosine_decay_schedule(0.1, 5), weight_decay=0.1),
    "lion": optax.lion(0.05),
    "muon": optax.contrib.muon(0.05),
    "schedule_free": optax.contrib.schedule_free(optax.sgd(0.05), 0.05),
    "reduce_on_plateau": optax.chain(
        optax.sgd(0.5), optax.contrib.reduce_on_plateau(factor=0.5, patience=1)
    ),
}


@pytest.mark.parametrize("name", BASES)
def test_the_base_is_fed_the_gradients_and_values_of_sam(name):
    base = optax.with_extra_args_support(BASES[name])
    optimizer = sharpness_aware(base, methods.sam(RHO))
    step, params = make_step(optimizer), parameters()
    update = jax.jit(base.update)
    state, by_hand, base_state = optimizer.init(params), params, base.init(params)
    for _ in range(4):
        params, state = step(params, state, BATCH)
        point = flat(by_hand)
        grad = parameters(point=sam_gradient(point, BATCH, RHO))
        objective = jnp.float32(value(climbed(point, BATCH, RHO), BATCH))
        updates, base_state = update(grad, base_state, by_hand, value=objective)
        by_hand = optax.apply_updates(by_hand, updates)
    np.testing.assert_allclose(flat(params), flat(by_hand), rtol=1e-4, atol=1e-5)
    for x, y in zip(jax.tree.leaves(state[1]), jax.tree.leaves(base_state), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def test_the_plateau_is_that_of_the_objective():
    """Where nothing moves, the objective does not fall, and the scale is halved at each step."""
    base = optax.chain(optax.sgd(0.0), optax.contrib.reduce_on_plateau(factor=0.5, patience=1))
    optimizer = sharpness_aware(base, methods.sam(RHO))
    step, params = make_step(optimizer), parameters()
    state, scales = optimizer.init(params), []
    for _ in range(3):
        params, state = step(params, state, BATCH)
        scales.append(float(state[1][1].scale))
    assert scales == [1.0, 0.5, 0.25]


PLATEAU = optax.contrib.reduce_on_plateau(factor=0.5, patience=1)
WITH_PLATEAU = {
    "inside": sharpness_aware(optax.chain(optax.sgd(0.1), PLATEAU), methods.sam(RHO)),
    "outside": optax.chain(sharpness_aware(optax.sgd(0.1), methods.sam(RHO)), PLATEAU),
}


def plateau_of(state):
    return optax.tree.get(state, "best_value"), optax.tree.get(state, "scale")


@pytest.mark.parametrize("place", WITH_PLATEAU)
def test_a_plateau_of_the_value_of_the_caller(place):
    """A validation loss, say: while it stays, the scale is halved, though the objective falls."""
    optimizer, params = WITH_PLATEAU[place], parameters()

    @jax.jit
    def step(params, state, validation):
        updates, state = optimizer.update(
            None, state, params, value_fn=loss, batch=BATCH, value=validation
        )
        return optax.apply_updates(params, updates), state

    state, seen = optimizer.init(params), []
    for validation in (7.0, 7.0, 7.0, 6.0):
        params, state = step(params, state, jnp.float32(validation))
        seen.append(tuple(map(float, plateau_of(state))))
    assert seen == [(7.0, 1.0), (7.0, 0.5), (7.0, 0.25), (6.0, 0.25)]


def test_a_plateau_inside_gets_the_objective_unless_there_is_another_value():
    best, _ = plateau_of(one_update(WITH_PLATEAU["inside"])[1])
    desired = value(climbed(flat(parameters()), BATCH, RHO), BATCH)
    np.testing.assert_allclose(best, desired, rtol=1e-6)
    assert abs(desired - value(flat(parameters()), BATCH)) > 0.1
