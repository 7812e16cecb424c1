"""The state of an optimizer in other hands: pickle, flax, and optax's tree functions."""

import functools
import pickle

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bowl import BATCH, START, assert_same_bits, flat, loss, parameters

from tsam_jax import (
    GradientEstimator,
    estimate_gradient,
    methods,
    noise,
    sharpness_aware,
    tsam,
    value_and_grad,
)

LAW = noise.gaussian(rms=0.3)
TSAM = methods.tsam(2.0, 0.3, 2, noise=LAW, strategy="unrolled")
OPTIMIZERS = {  # no memory, with samples; a tree; a number, and metrics that are NaN
    "tsam": sharpness_aware(optax.adamw(0.1), TSAM, key=3),
    "typed_key": sharpness_aware(optax.adamw(0.1), TSAM, key=jax.random.key(3, impl="rbg")),
    "vasso": optax.chain(estimate_gradient(methods.vasso(0.3, 0.4)), optax.adam(0.1)),
    "xsam": sharpness_aware(optax.sgd(0.1, momentum=0.9), methods.xsam(0.3, search_every=4)),
}


def stepper(optimizer):
    @jax.jit
    def step(params, state, batch):
        updates, state = optimizer.update(None, state, params, value_fn=loss, batch=batch)
        return optax.apply_updates(params, updates), state

    def run(params, state, first, last):
        for k in range(first, last):
            params, state = step(params, state, jnp.asarray(BATCH * (1 + 0.2 * k), jnp.float32))
        return params, state

    return run


def by_flax(state, like):
    return flax.serialization.from_bytes(like, flax.serialization.to_bytes(state))


def by_pickle(state, like):
    del like
    return pickle.loads(pickle.dumps(state))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_that_was_written_and_read_goes_on_bit_for_bit(name):
    optimizer, fresh = OPTIMIZERS[name], parameters()
    run = stepper(optimizer)
    params, state = run(fresh, optimizer.init(fresh), 0, 2)
    end = run(params, state, 2, 4)
    for write_and_read in (by_flax, by_pickle):
        restored = write_and_read((params, state), (fresh, optimizer.init(fresh)))
        assert_same_bits(restored, (params, state))
        assert_same_bits(run(*restored, 2, 4), end)
    other = run(params, optimizer.init(fresh), 2, 4)
    assert np.abs(flat(other[0]) - flat(end[0])).max() > 1e-3


def test_a_state_has_names_in_flax_s_form():
    state = OPTIMIZERS["tsam"].init(parameters())
    of_estimator = flax.serialization.to_state_dict(state)["0"]
    assert set(of_estimator) == {"step", "key", "last", "memory"}
    assert set(of_estimator["last"]) == {"value", "metrics"}
    assert set(of_estimator["last"]["metrics"]) == {
        *("losses", "weights", "tilt", "effective_sample_size")
    }


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_cast_of_the_whole_state_is_refused(name):
    """It would round the key and the counter; that of what is shaped like parameters would not."""
    optimizer, params = OPTIMIZERS[name], parameters()
    state = optimizer.init(params)
    update = lambda state: optimizer.update(None, state, params, value_fn=loss, batch=BATCH)  # noqa: E731
    with pytest.raises(TypeError, match=r"int32 and uint32, got bfloat16 and bfloat16: a cast has"):
        update(optax.tree.cast(state, jnp.bfloat16))
    halves = optax.tree_map_params(optimizer, lambda x: x.astype(jnp.bfloat16), state)
    assert jnp.dtype(jnp.bfloat16) in {x.dtype for x in jax.tree.leaves(halves)}
    assert_same_bits(halves[0]._replace(memory=()), state[0]._replace(memory=()))
    _, after = jax.eval_shape(update, halves)
    assert after[0].step.dtype == jnp.int32


def test_the_cast_is_refused_without_optax_too():
    step, x = value_and_grad(jnp.sum, methods.erm()), jnp.ones(2)
    state = step.init(x)
    for broken in (
        optax.tree.cast(state, jnp.bfloat16),
        state._replace(key=state.key.astype(jnp.float32)),
        state._replace(step=state.step.astype(jnp.float32)),
    ):
        with pytest.raises(TypeError, match="must be int32 and uint32, got"):
            step(x, broken)


def test_a_state_has_buffers_and_types_of_its_own():
    """Whatever its `init` returns: parameters may be donated, and numbers become arrays."""

    def estimate(loss, params, memory, *, step, key):
        del step, key
        here = loss(params)
        return here._replace(metrics={"one": 1.0}), {"start": memory["start"], "steps": 0}

    init = lambda params: ({"start": params, "steps": 0}, {"one": 1.0})  # noqa: E731
    optimizer = sharpness_aware(optax.sgd(0.1), GradientEstimator(init, estimate))
    traces = []

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state):
        traces.append(1)
        updates, state = optimizer.update(None, state, params, value_fn=loss, batch=BATCH)
        return optax.apply_updates(params, updates), state

    params = parameters()
    state = optimizer.init(params)
    for _ in range(3):
        params, state = step(params, state)
    assert len(traces) == 1
    np.testing.assert_array_equal(flat(state[0].memory["start"]), START)


def test_a_metric_is_found_by_name_wherever_the_estimator_is():
    around = tsam(optax.adamw(0.1), 2.0, 0.3, 3, noise=LAW)
    chained = optax.chain(
        estimate_gradient(methods.tsam(2.0, 0.3, 3, noise=LAW)), optax.clip(1.0), optax.adamw(0.1)
    )
    injected = optax.inject_hyperparams(tsam, static_args=("s", "noise"))
    params = parameters()
    for optimizer in (around, chained, injected(optax.sgd(0.1), 2.0, 0.3, 3, noise=LAW)):
        state = optimizer.init(params)
        np.testing.assert_array_equal(optax.tree.get(state, "weights"), np.zeros(3))
        _, state = optimizer.update(None, state, params, value_fn=loss, batch=BATCH)
        weights = optax.tree.get(state, "weights")
        assert weights.shape == optax.tree.get(state, "losses").shape == (3,)
        np.testing.assert_allclose(np.sum(weights), 1.0, rtol=1e-6)
        size = optax.tree.get(state, "effective_sample_size")
        np.testing.assert_allclose(size, 1 / np.sum(np.square(weights)), rtol=1e-5)
    assert optax.tree.get(around.init(params), "no such metric") is None
