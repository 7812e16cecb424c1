"""The tilt chosen by the effective sample size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsam_jax import methods, noise, tilting, value_and_grad
from tsam_jax.tilting import AutoTilt, effective_sample_size, tilt_for_ess, tilt_weights

LAW = noise.gaussian(rms=0.4)
X = jnp.array([0.3, -1.1, 0.7])


@jax.jit
def chosen(losses, fraction):
    t = tilt_for_ess(losses, fraction)
    return t, effective_sample_size(tilt_weights(losses, t))


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
@pytest.mark.parametrize("fraction", [0.15, 0.5, 0.9, 0.999])
def test_the_effective_sample_size_is_the_fraction(fraction, scale):
    for seed in range(5):
        losses = scale * jax.random.normal(jax.random.key(seed), (8,))
        t, ess = chosen(losses, fraction)
        np.testing.assert_allclose(ess, 8 * fraction, rtol=1e-4)
        assert 0 < t < jnp.inf


def test_float64_has_more_digits(x64):
    losses = jax.random.normal(jax.random.key(0), (8,), jnp.float64)
    np.testing.assert_allclose(chosen(losses, 0.4)[1], 3.2, rtol=1e-12)
    # with two losses the weights are (1, e^{-t}) / (1 + e^{-t}); ESS 1.6 is a weight of 3/4
    np.testing.assert_allclose(chosen(jnp.array([0.0, 1.0]), 0.8)[0], np.log(3), rtol=1e-12)


def test_a_factor_on_the_losses_divides_it_and_a_constant_does_not_matter():
    losses = jnp.array([1.0, 2.0, 5.0, 4.0])
    t, _ = chosen(losses, 0.5)
    np.testing.assert_allclose(chosen(8 * losses, 0.5)[0], t / 8, rtol=1e-6)
    np.testing.assert_allclose(chosen(losses + 16, 0.5)[0], t, rtol=1e-6)
    tilts = [float(chosen(losses, f)[0]) for f in (0.3, 0.5, 0.8, 0.99)]
    assert tilts == sorted(tilts, reverse=True)


@pytest.mark.parametrize(
    ("losses", "fraction", "t", "ess"),
    [
        ([1.0, 2.0, 3.0, 4.0], 1.0, 0.0, 4.0),
        ([1.0, 2.0, 3.0, 4.0], 0.25, np.inf, 1.0),  # 1 / s
        ([1.0, 2.0, 3.0], 1 / 3, np.inf, 1.0),
        ([2.0, 2.0, 2.0], 0.5, np.inf, 3.0),  # constant
        ([2.0, 2.0, 2.0], 1.0, 0.0, 3.0),
        ([5.0], 0.5, np.inf, 1.0),  # s = 1
        ([0.0, 2.0, 2.0, 1.0], 0.5, np.inf, 2.0),  # ties
        ([np.nan] * 3, 0.5, np.nan, np.nan),
    ],
)
def test_limits(losses, fraction, t, ess):
    np.testing.assert_allclose(chosen(jnp.array(losses), fraction), [t, ess], rtol=1e-6)


def test_losses_that_are_not_finite_do_not_count():
    losses = jnp.array([np.nan, 1.0, 2.0, np.inf, 4.0, 3.0, -np.inf])
    desired, _ = chosen(jnp.array([1.0, 2.0, 4.0, 3.0]), 0.5)
    t, ess = chosen(losses, 0.5)
    np.testing.assert_allclose([t, ess], [desired, 2.0], rtol=1e-5)


def loss(x):
    return jnp.sum(jnp.sin(2 * x)) + jnp.sum(x**2)


def run(estimator, fun=loss, x=X):
    """Runs one step; returns value, gradient and metrics."""
    step = value_and_grad(fun, estimator)
    (value, grad), state = jax.jit(step)(x, step.init(x))
    return value, grad, state.last.metrics


@pytest.mark.parametrize("strategy", ["auto", "unrolled", "vectorized"])
@pytest.mark.parametrize("rho", [0.0, 0.1])
def test_the_step_is_that_of_the_chosen_tilt(rho, strategy):
    value, grad, metrics = run(methods.tsam(AutoTilt(0.5), rho, 4, noise=LAW, strategy=strategy))
    np.testing.assert_allclose(effective_sample_size(metrics["weights"]), 2.0, rtol=1e-4)
    assert metrics["tilt"].shape == ()
    desired_value, desired, desired_metrics = run(
        methods.tsam(float(metrics["tilt"]), rho, 4, noise=LAW, strategy="unrolled")
    )
    np.testing.assert_allclose(value, desired_value, rtol=1e-5)
    np.testing.assert_allclose(grad, desired, rtol=1e-4)
    assert metrics.keys() == desired_metrics.keys()
    for name in metrics:
        np.testing.assert_allclose(metrics[name], desired_metrics[name], rtol=1e-4)


@pytest.mark.parametrize("strategy", ["unrolled", "vectorized"])
def test_a_sample_that_is_not_finite(strategy):
    def broken(x):
        return jnp.where(x[0] > X[0], jnp.nan, loss(x))

    estimator = methods.tilted_sampling(AutoTilt(0.6), 8, noise=LAW, strategy=strategy)
    _, grad, metrics = run(estimator, broken)
    present = np.isfinite(metrics["losses"])
    assert 1 < present.sum() < 8
    ess = effective_sample_size(metrics["weights"])
    np.testing.assert_allclose(ess, 0.6 * present.sum(), rtol=1e-4)
    np.testing.assert_allclose(metrics["effective_sample_size"], ess, rtol=1e-6)
    assert np.all(np.isfinite(grad))
    assert not np.isfinite(run(estimator, lambda x: jnp.nan * loss(x))[0])


def test_the_fraction_may_be_a_schedule_or_traced():
    estimator = methods.tilted_sampling(AutoTilt(lambda step: 0.5 + 0.25 * step), 4, noise=LAW)
    step = value_and_grad(loss, estimator)
    state, step = step.init(X), jax.jit(step)
    for ess in 2.0, 3.0:
        _, state = step(X, state)
        weights = state.last.metrics["weights"]
        np.testing.assert_allclose(effective_sample_size(weights), ess, rtol=1e-4)
    traced = jax.jit(lambda f: run(methods.tilted_sampling(AutoTilt(f), 4, noise=LAW))[2])
    weights = traced(0.75)["weights"]
    np.testing.assert_allclose(effective_sample_size(weights), 3.0, rtol=1e-4)


def test_without_noise_and_ascent_it_is_the_plain_gradient():
    estimator = methods.tsam(AutoTilt(0.5), 0.0, 3, noise=noise.none)
    assert estimator.cost.gradients == 1
    value, grad, metrics = run(estimator)
    np.testing.assert_allclose(grad, jax.grad(loss)(X), rtol=1e-6)
    assert value == loss(X)
    np.testing.assert_allclose(metrics["weights"], np.full(3, 1 / 3))
    assert metrics["tilt"] == jnp.inf  # the losses are equal


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
@pytest.mark.filterwarnings("ignore::tsam_jax.HalfPrecisionWarning")
def test_dtypes_are_stable(dtype, x64):
    estimator = methods.tsam(AutoTilt(0.5), 0.1, 4, noise=LAW)
    x, step = X.astype(dtype), value_and_grad(loss, estimator)
    before = jax.eval_shape(step.init, x)
    (value, grad), after = jax.eval_shape(step, x, before)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type)
    tilt = after.last.metrics["tilt"]
    assert value.dtype == tilt.dtype == jnp.result_type(dtype, jnp.float32)
    assert grad.dtype == dtype


def test_strict_modes():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        jax.eval_shape(lambda: run(methods.tsam(AutoTilt(0.5), 0.1, 4, noise=LAW)))


def test_mistakes():
    for fraction in 0.0, -1.0, 1.5, np.nan:
        for call in AutoTilt, lambda f: tilting.tilt_for_ess(jnp.ones(2), f):
            with pytest.raises(ValueError, match=r"fraction=...\)` must be a number above 0 and"):
                call(fraction)
    with pytest.raises(TypeError, match=r"`AutoTilt\(fraction=...\)` must be a number or a sched"):
        AutoTilt("half")
    with pytest.raises(ValueError, match=r"`tsam\(delta=...\)` must be 0 with an `AutoTilt`"):
        methods.tsam(AutoTilt(0.5), 0.1, 3, delta="half")
    for method in methods.tilted_sampling, methods.tsam:
        arguments = {"s": 3} | ({"rho": 0.1} if method is methods.tsam else {})
        message = rf"`{method.__name__}\(strategy=...\)` cannot be 'streamed'"
        with pytest.raises(ValueError, match=message):
            method(AutoTilt(0.5), **arguments, strategy="streamed")
