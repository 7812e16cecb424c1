"""`delta`, the fraction of the tilt in the sampling; no tilt is ever negative."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_table import batch, loss, parameters

from tsam_jax import methods, noise, value_and_grad

BALL = noise.ball(rms=0.1)


def metrics_of(estimator, steps=1):
    step = value_and_grad(loss, estimator)
    state = step.init(parameters())
    for _ in range(steps):
        _, state = step(parameters(), state, batch())
    return state.last.metrics


def tsam(t, delta):
    return methods.tsam(t, 0.1, 3, noise=BALL, delta=delta)


def tsam_hmc(t, delta):
    return methods.tsam_hmc(t, 3, radius=0.5, beta=0.05, delta=delta)


both = pytest.mark.parametrize("method", [tsam, tsam_hmc])


@both
@pytest.mark.parametrize(("delta", "fraction"), [(0.0, 0.0), (0.25, 0.25), ("half", 0.5), (1, 1.0)])
def test_the_weights_use_the_rest_of_the_tilt(method, delta, fraction):
    metrics = metrics_of(method(8.0, delta))
    assert metrics["tilt"] == pytest.approx(8 * (1 - fraction))
    weights = jax.nn.softmax(8 * (1 - fraction) * metrics["losses"])
    np.testing.assert_allclose(metrics["weights"], weights, rtol=1e-5)


@both
def test_a_scheduled_t_that_starts_at_zero_gives_no_negative_tilt(method):
    """A constant delta would exceed a rising tilt at first, and favour the best sample."""
    rising = optax.linear_schedule(0.0, 8.0, 4)
    for steps, expected in ((1, 0.0), (2, 1.0), (3, 2.0)):
        metrics = metrics_of(method(rising, 0.5), steps)
        assert metrics["tilt"] == pytest.approx(expected)
        assert jnp.argmax(metrics["weights"]) == jnp.argmax(metrics["losses"]) or expected == 0


@both
@pytest.mark.parametrize("delta", [lambda step: 1.5 + 0 * step, lambda step: -2.0 + 0 * step])
def test_scheduled_fractions_are_clipped(method, delta):
    assert metrics_of(method(8.0, delta))["tilt"] == pytest.approx(0.0 if delta(0) > 1 else 8.0)


def test_a_scheduled_tilt_below_zero_counts_as_zero():
    metrics = metrics_of(tsam(lambda step: -3.0 + 0 * step, 0.0))
    assert metrics["tilt"] == 0
    np.testing.assert_allclose(metrics["weights"], 1 / 3, rtol=1e-6)


def test_traced_fractions_are_clipped():
    at = jax.jit(lambda delta: metrics_of(tsam(8.0, delta))["tilt"])
    assert [at(delta).item() for delta in (-1.0, 0.25, 3.0)] == pytest.approx([8.0, 6.0, 0.0])


def test_an_infinite_tilt():
    assert metrics_of(tsam(jnp.inf, 1.0))["tilt"] == 0
    np.testing.assert_allclose(metrics_of(tsam(jnp.inf, 1.0))["weights"], 1 / 3, rtol=1e-6)
    assert metrics_of(tsam(jnp.inf, "half"))["weights"].max() == 1
    assert metrics_of(tsam_hmc(jnp.inf, 0.0))["weights"].max() == 1
    with pytest.raises(ValueError, match=r"`tsam_hmc\(t=...\)` must be a finite number"):
        tsam_hmc(jnp.inf, "half")


@both
@pytest.mark.parametrize("delta", [-0.1, 1.1, jnp.float32(1.5), np.float64(2), jnp.nan])
def test_fractions_out_of_range_are_refused(method, delta):
    with pytest.raises(ValueError, match=r"\(delta=...\)` must be a number between 0 and 1"):
        method(8.0, delta)


@pytest.mark.parametrize("x", [-0.1, np.float32(-0.1), jnp.float32(-0.1), jnp.array(jnp.nan)])
@pytest.mark.parametrize("name", ["sam", "asam", "vasso", "fsam", "looksam", "xsam"])
def test_concrete_arrays_are_checked_like_numbers(name, x):
    with pytest.raises(ValueError, match=rf"`{name}\(rho=...\)` must be a finite number >= 0"):
        methods.METHODS[name](rho=x)
