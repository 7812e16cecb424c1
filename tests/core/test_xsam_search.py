"""XSAM: its search for alpha, and the directions that it interpolates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_problem import X, assert_close, assert_differ, loss, parameters, run

from tsam_jax import Oracle, make_oracle, methods, value_and_grad

pytestmark = pytest.mark.usefixtures("fast_compile")


def test_the_search_comes_every_n_steps_and_alpha_stays_in_between():
    estimator = methods.xsam(0.3, rho_max=1.0, search_every=2)
    step, params = jax.jit(value_and_grad(loss, estimator)), parameters()
    state, alphas, losses = estimator.init(params), [], []
    for k in range(4):
        (_, _), state = step(params, state, (-1.0) ** k * (1 + k) * X)
        alphas.append(float(state.alpha))
        losses.append(np.asarray(state.losses))
    np.testing.assert_array_equal(losses[0], losses[1])
    np.testing.assert_array_equal(losses[2], losses[3])
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
    assert state.alpha == desired_state.alpha > 0


def test_equal_losses_choose_the_first_alpha():
    estimator = methods.xsam(0.3, alpha_grid=(0.4, 1.0), search_every=1)
    _, state = run(estimator, 1, lambda p: 0.0 * loss(p) + 3.0)
    assert state.alpha == jnp.float32(0.4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_losses_that_are_not_finite_are_not_chosen(bad):
    def broken(x):  # from 0, the direction to the right is v0 and upwards is v1
        return jnp.where(x[1] > 0.75, bad, x[0] + 3 * x[1] ** 2 + 8 * x[0] * x[1])

    estimator = methods.xsam(0.1, rho_max=1.0, search_every=1)
    _, state = run(estimator, 1, broken, params=jnp.zeros(2))
    losses = np.asarray(state.losses)
    finite = np.isfinite(losses)
    assert 0 < finite.sum() < 21
    best = np.argmax(np.where(finite, losses, -np.inf))
    np.testing.assert_allclose(state.alpha, best / 10, rtol=1e-6)


def test_without_a_finite_loss_alpha_stays():
    estimator = methods.xsam(0.3, alpha=0.7, search_every=1)
    ((_, grad, _),), state = run(estimator, 1, lambda p: jnp.nan * loss(p))
    np.testing.assert_allclose(state.alpha, 0.7, rtol=1e-6)
    assert all(jnp.all(jnp.isnan(g)) for g in jax.tree.leaves(grad))


def test_rounding_of_the_inner_product_is_no_nan():
    """On an isotropic quadratic both directions are one, and rounding takes them beyond 1."""
    estimator = methods.xsam(0.3, alpha=1.7, search_every=None)
    step = jax.jit(
        jax.vmap(lambda x: value_and_grad(lambda x: x @ x, estimator)(x, estimator.init(x))[0])
    )
    xs = jax.random.normal(jax.random.key(0), (300, 17))
    _, grads = step(xs)
    length = jnp.linalg.norm(xs, axis=1, keepdims=True)
    np.testing.assert_allclose(grads, 2 * xs * (1 + 0.3 / length), rtol=2e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore::tsam_jax.HalfPrecisionWarning")
def test_opposite_directions_are_finite():
    """One parameter, and an ascent beyond the maximum."""
    estimator = methods.xsam(1.0, search_every=1)
    fun = lambda x: -(x**2)  # noqa: E731
    for dtype in jnp.float32, jnp.bfloat16:
        (_, grad), state = value_and_grad(fun, estimator)(
            dtype(-0.25), estimator.init(dtype(-0.25))
        )
        assert jnp.isfinite(grad)
        assert jnp.isfinite(state.alpha)


def test_rho_max_is_twice_rho_by_default():
    default = run(methods.xsam(0.3, search_every=1))[1]
    given = run(methods.xsam(0.3, rho_max=0.6, search_every=1))[1]
    other = run(methods.xsam(0.3, rho_max=0.9, search_every=1))[1]
    assert_close(default.losses, given.losses, rtol=1e-6)
    assert_differ(default.losses, other.losses)


def test_calls_of_the_oracle_are_its_cost():
    for estimator, steps in (
        (methods.xsam(0.3, steps=2, search_every=3), 3),
        (methods.xsam(0.3, search_every=2), 4),
    ):
        calls, oracle = [], make_oracle(loss)
        counting = Oracle(
            lambda p: calls.append("gradient") or oracle.evaluate(p),  # noqa: B023 - used here
            lambda p: calls.append("value") or oracle.value(p),  # noqa: B023
        )
        state = estimator.init(parameters())
        with jax.disable_jit():
            for _ in range(steps):
                _, state = estimator.estimate(counting, parameters(), state)
        assert calls.count("gradient") == steps * estimator.cost.gradients
        assert calls.count("value") == pytest.approx(steps * estimator.cost.values)
        assert calls.count("value") > 0
