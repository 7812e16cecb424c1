"""`optax.inject_hyperparams` with tilt, ascent and noise as values that change between steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from bowl import BATCH, flat, make_step, parameters

from tsam_jax import methods, noise, sharpness_aware, tsam

VALUES = {"t": 0.05, "rho": 0.3, "radius": 0.5, "learning_rate": 0.1}
CHANGED = {"t": 30.0, "rho": 0.05, "radius": 1.5, "learning_rate": 0.01}


def factory(t, rho, radius, learning_rate):
    estimator = methods.tsam(t, rho, 2, noise=noise.sphere(radius=radius), strategy="unrolled")
    return sharpness_aware(optax.sgd(learning_rate), estimator)


@functools.cache
def direct(**values):
    """The first step with plain numbers: `factory` without optax in between."""
    optimizer, params = factory(**values), parameters()
    return flat(make_step(optimizer)(params, optimizer.init(params), BATCH)[0])


def test_every_number_may_be_changed_between_steps_without_a_new_compilation():
    optimizer = optax.inject_hyperparams(factory)(**VALUES)
    step, params, traces = make_step(optimizer), parameters(), []
    assert set(optimizer.init(params).hyperparams) == set(VALUES)

    @jax.jit
    def counted(params, state, batch):
        traces.append(1)
        return step(params, state, batch)

    def injected(**values):
        state = optimizer.init(params)
        state.hyperparams.update({name: jnp.float32(x) for name, x in values.items()})
        return flat(counted(params, state, BATCH)[0])

    given = injected()
    np.testing.assert_allclose(given, direct(**VALUES), rtol=1e-5)
    for name, x in CHANGED.items():
        changed = injected(**{name: x})
        assert np.abs(changed - given).max() > 1e-3, name
    np.testing.assert_allclose(injected(**CHANGED), direct(**CHANGED), rtol=1e-5)
    assert len(traces) == 1


def test_the_sugar_itself_may_be_injected_and_scheduled():
    """`s` and the law are no numbers: `static_args`."""
    law, ramp = noise.sphere(radius=0.5), optax.linear_schedule(0.3, 0.0, transition_steps=2)
    injected = optax.inject_hyperparams(tsam, static_args=("s", "noise"))
    optimizer = injected(optax.sgd(0.1), t=0.05, rho=ramp, s=2, noise=law, strategy="unrolled")
    step, params = make_step(optimizer), parameters()
    state = optimizer.init(params)
    assert {"t", "rho", "delta"} <= set(state.hyperparams)
    after, state = step(params, state, BATCH)
    np.testing.assert_allclose(flat(after), direct(**VALUES), rtol=1e-5)
    _, state = step(params, state, BATCH)
    np.testing.assert_allclose(state.hyperparams["rho"], 0.15, rtol=1e-6)
