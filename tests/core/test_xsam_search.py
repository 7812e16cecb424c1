"""XSAM: the search for alpha, and the interpolated directions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_problem import X, assert_close, assert_differ, listen, loss, parameters, run

from tsam_jax import Loss, methods, value_and_grad


def test_the_search_comes_every_n_steps_and_alpha_stays_in_between():
    step = value_and_grad(loss, methods.xsam(0.3, rho_max=1.0, search_every=2))
    params = parameters()
    state, step, alphas, losses = step.init(params), jax.jit(step), [], []
    for k in range(4):
        (_, _), state = step(params, state, (-1.0) ** k * (1 + k) * X)
        assert state.last.metrics["alpha"] == state.memory
        alphas.append(float(state.memory))
        losses.append(np.asarray(state.last.metrics["losses"]))
    assert np.all(np.isfinite(losses[::2]))
    assert np.all(np.isnan(losses[1::2]))
    assert np.all(losses[0] != losses[2])
    assert alphas[0] == alphas[1]
    assert alphas[2] == alphas[3]
    for k in 0, 2:
        assert np.isclose(alphas[k], np.argmax(losses[k]) / 10)


@pytest.mark.parametrize("constant", [-60.0, 0.0, 60.0])
def test_a_constant_does_not_change_the_search(constant, x64):
    start, a = jnp.array([1.0, -2.0]), jnp.array([[2.0, 0.3], [0.3, 0.5]])
    plain = lambda x: x @ a @ x / 2  # noqa: E731
    estimator = methods.xsam(0.3, search_every=1)
    shifted = lambda x: plain(x) + constant  # noqa: E731
    outputs, state = run(estimator, 2, shifted, params=start)
    desired, desired_state = run(estimator, 2, plain, params=start)
    assert_close([o[1] for o in outputs], [o[1] for o in desired], rtol=1e-10)
    assert state.memory == desired_state.memory > 0


def test_equal_losses_choose_the_first_alpha():
    estimator = methods.xsam(0.3, alpha_grid=(0.4, 1.0), search_every=1)
    _, state = run(estimator, 1, lambda p: 0.0 * loss(p) + 3.0)
    assert state.memory == jnp.float32(0.4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_losses_that_are_not_finite_are_not_chosen(bad):
    def broken(x):  # from 0, v0 points right and v1 points up
        return jnp.where(x[1] > 0.75, bad, x[0] + 3 * x[1] ** 2 + 8 * x[0] * x[1])

    estimator = methods.xsam(0.1, rho_max=1.0, search_every=1)
    _, state = run(estimator, 1, broken, params=jnp.zeros(2))
    losses = np.asarray(state.last.metrics["losses"])
    finite = np.isfinite(losses)
    assert 0 < finite.sum() < 21
    best = np.argmax(np.where(finite, losses, -np.inf))
    np.testing.assert_allclose(state.memory, best / 10, rtol=1e-6)


def test_without_a_finite_loss_alpha_stays():
    estimator = methods.xsam(0.3, alpha=0.7, search_every=1)
    ((_, grad, _),), state = run(estimator, 1, lambda p: jnp.nan * loss(p))
    np.testing.assert_allclose(state.memory, 0.7, rtol=1e-6)
    assert all(jnp.all(jnp.isnan(g)) for g in jax.tree.leaves(grad))


def test_rounding_of_the_inner_product_is_no_nan():
    """On an isotropic quadratic both directions agree, and rounding takes their cosine beyond 1."""
    estimator = methods.xsam(0.3, alpha=1.7, search_every=None)
    step = value_and_grad(lambda x: x @ x, estimator)
    xs = jax.random.normal(jax.random.key(0), (300, 17))
    _, grads = jax.jit(jax.vmap(lambda x: step(x, step.init(x))[0]))(xs)
    length = jnp.linalg.norm(xs, axis=1, keepdims=True)
    np.testing.assert_allclose(grads, 2 * xs * (1 + 0.3 / length), rtol=2e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore::tsam_jax.HalfPrecisionWarning")
def test_opposite_directions_are_finite():
    """One parameter, with an ascent beyond the maximum."""
    step = value_and_grad(lambda x: -(x**2), methods.xsam(1.0, search_every=1))
    for dtype in jnp.float32, jnp.bfloat16:
        x = dtype(-0.25)
        (_, grad), state = step(x, step.init(x))
        assert jnp.isfinite(grad)
        assert jnp.isfinite(state.memory)


def test_rho_max_is_twice_rho_by_default():
    default, given, other = (
        run(methods.xsam(0.3, search_every=1, **options))[1].last.metrics["losses"]
        for options in ({}, {"rho_max": 0.6}, {"rho_max": 0.9})
    )
    assert_close(default, given, rtol=1e-6)
    assert_differ(default, other)


def test_calls_of_the_loss_are_its_cost():
    for estimator, steps in (
        (methods.xsam(0.3, steps=2, search_every=3), 3),
        (methods.xsam(0.3, search_every=2), 4),
    ):
        _, calls = listen(estimator, Loss(loss), parameters(), steps)
        kinds = [kind for kind, _ in calls]
        assert kinds.count("gradient") == steps * estimator.cost.gradients
        assert kinds.count("value") == pytest.approx(steps * estimator.cost.values)
        assert kinds.count("value") > 0
