"""ESAM2: the search along the ray."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_problem import assert_close, evaluate, loss

from tsam_jax import methods


def test_ties_go_to_the_smallest_step():
    plateau = lambda x: jnp.minimum(x, 1.0)  # noqa: E731
    estimator = methods.esam2((4.0, 0.5, 0.05, 2.0))
    value, _, state = evaluate(estimator, jnp.float32(0.9), plateau)
    np.testing.assert_allclose(state.last.metrics["losses"], [0.95, 1.0, 1.0, 1.0])
    assert (value, state.last.metrics["rho"]) == (1.0, 0.5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_losses_that_are_not_finite_are_not_chosen(bad):
    broken = lambda x: jnp.where(jnp.abs(x - 1.6) < 0.2, bad, x)  # noqa: E731
    for rhos, best in ((0.2, 0.6, 0.4), 0.4), ((0.2, 0.6, 1.0), 1.0):
        _, grad, state = evaluate(methods.esam2(rhos), jnp.float32(1.0), broken)
        assert state.last.metrics["rho"] == jnp.float32(best)
        assert grad == 1.0


def test_the_worst_step_may_be_any():
    for rhos, worst in ((0.5, 1.0, 2.0), 1.0), ((1.2, 2.0, 3.0), 1.2), ((0.2, 0.9), 0.9):
        value, grad, state = evaluate(methods.esam2(rhos), jnp.float32(0.5), jnp.sin)
        assert state.last.metrics["rho"] == jnp.float32(worst)
        np.testing.assert_allclose(value, np.sin(0.5 + worst), rtol=1e-6)
        np.testing.assert_allclose(grad, np.cos(0.5 + worst), rtol=1e-5)


def test_step_sizes_may_be_traced_scheduled_and_arrays():
    desired = evaluate(methods.esam2((0.1, 0.4)))
    given = {
        "array": methods.esam2(np.array([0.4, 0.1])),
        "jax array": methods.esam2(jnp.array([0.4, 0.1])),
        "schedules": methods.esam2([lambda step: 0.4 + step, 0.1]),
    }
    for estimator in given.values():
        assert_close(evaluate(estimator), desired)
    traced = jax.jit(lambda rhos: evaluate(methods.esam2(rhos)))(jnp.array([0.1, 0.4]))
    assert_close(traced, desired)
    _, _, state = evaluate(given["schedules"], state=desired[2])
    assert state.last.metrics["rho"] == jnp.float32(1.4)


def test_probes_of_a_traced_step_are_traced_once():
    traces = []

    def counted(p):
        traces.append(1)
        return loss(p)

    evaluate(methods.esam2(tuple(np.geomspace(0.01, 0.5, 24))), fun=counted)
    assert len(traces) <= 3  # two gradients, and the probes


def test_cost():
    assert methods.esam2((0.1, 0.2, 0.3)).cost == (2, 3)
