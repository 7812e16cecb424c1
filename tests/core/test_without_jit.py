"""Without `jit`, a step compiles nothing once each of its branches has run."""

import jax
import jax.numpy as jnp
import optax
import pytest
from contract_table import TABLE, batch, loss, make, parameters

from tsam_jax import methods, noise, sharpness_aware, tilting, value_and_grad

_COMPILED = "/jax/core/compile/backend_compile_duration"


class Compilations:
    """Counts XLA compilations."""

    def __init__(self):
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self.hear)

    def hear(self, event, *_args, **_kwargs):
        self.count += event == _COMPILED


@pytest.fixture(scope="module")
def compilations():
    return Compilations()


def after(steps, step, compilations):
    """Compilations of further steps, after every branch has run for the first time."""
    for _ in range(steps):
        step()
    before = compilations.count
    for _ in range(steps):
        step()
    return compilations.count - before


def test_the_counter_counts(compilations):
    before = compilations.count
    jax.jit(lambda x: x * 3 + 1)(jnp.ones(7))
    assert compilations.count > before


@pytest.mark.parametrize("name", methods.METHODS)
def test_an_eager_step_compiles_nothing(name, compilations):
    step = value_and_grad(loss, make(name))
    state = [step.init(parameters())]

    def again():
        _, state[0] = step(parameters(), state[0], batch())

    assert after(max(2, TABLE[name].period), again, compilations) == 0


ESTIMATORS = {
    "streamed": methods.tsam(2.0, 0.1, 3, strategy="streamed"),
    "vectorized": methods.tsam(2.0, 0.1, 3, strategy="vectorized"),
    "auto tilt": methods.tsam(tilting.AutoTilt(0.5), 0.1, 3),
    "antithetic": methods.tsam(2.0, 0.1, 2, noise=noise.antithetic(noise.ball(rms=0.1))),
    "orthogonal": methods.tsam(2.0, 0.1, 2, noise=noise.orthogonal(noise.sphere(rms=0.1))),
    "split batch": methods.tsam(2.0, 0.1, 3, split_batch="x"),
    "m_sam": methods.m_sam(methods.sam(0.1), 2, batch="x", strategy="streamed"),
    "microbatched": methods.microbatched(methods.sam(0.1), 2, batch="x", strategy="streamed"),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_neither_do_strategies_designs_and_parts_of_a_batch(name, compilations):
    step = value_and_grad(loss, ESTIMATORS[name])
    state = [step.init(parameters())]

    def again():
        _, state[0] = step(parameters(), state[0], batch())

    assert after(2, again, compilations) == 0


def test_neither_does_the_optax_adapter_with_a_new_closure_at_each_step(compilations):
    optimizer = sharpness_aware(optax.sgd(0.01, momentum=0.9), make("tsam"))
    carried = [parameters(), optimizer.init(parameters())]

    def again():
        params, state = carried
        value_fn = lambda p: loss(p, batch())  # noqa: E731 - as users write it
        updates, state = optimizer.update(None, state, params, value_fn=value_fn)
        carried[:] = [optax.apply_updates(params, updates), state]

    assert after(2, again, compilations) == 0
