"""ASAM, PGN, WSAM, GSAM, ESAM2 and LookSAM on L = x^T A x / 2, where g(x) = A x."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_problem import PARAMS, evaluate, flat, loss

from tsam_jax import methods, value_and_grad


def quadratic(d=5):
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(d, d)))[0]
    a = basis @ np.diag(np.linspace(0.5, 4.0, d)) @ basis.T
    return a, (lambda x: x @ jnp.asarray(a) @ x / 2), np.linspace(-1.0, 2.0, d)


def unit(x):
    return x / np.sqrt(np.sum(x**2))


def in_numpy(name, a, x):
    """Gradient of a method at rho = 0.3, by the formula in its paper."""
    g, rho = a @ x, 0.3
    at_sam = a @ (x + rho * unit(g))
    if name == "asam":
        t = np.diag(np.abs(x) + 0.05)
        return a @ (x + rho * t @ t @ g / np.sqrt(np.sum((t @ g) ** 2)))
    if name == "gsam":
        cosine = g @ at_sam / np.sqrt(g @ g) / np.sqrt(at_sam @ at_sam)
        return at_sam - 0.4 * (g - np.sqrt(g @ g) * cosine * unit(at_sam))
    share = {"pgn": 1.7, "wsam": 0.3 / 0.7}[name]
    return (1 - share) * g + share * at_sam


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("asam", {"eta": 0.05, "adapt": True}),
        ("pgn", {"alpha": 1.7}),
        ("wsam", {"gamma": 0.3}),
        ("gsam", {"alpha": 0.4}),
    ],
)
def test_of_a_quadratic(name, arguments, x64):
    a, fun, x = quadratic()
    _, grad, _ = evaluate(methods.METHODS[name](0.3, **arguments), jnp.asarray(x), fun)
    np.testing.assert_allclose(grad, in_numpy(name, a, x), rtol=1e-11)


def test_values_are_those_of_what_is_minimised(x64):
    a, fun, x = quadratic()
    here, there = fun(x), fun(x + 0.3 * unit(a @ x))
    for estimator, value in (
        (methods.sam(0.3), there),
        (methods.pgn(0.3, 1.7), -0.7 * here + 1.7 * there),
        (methods.wsam(0.3, 0.3), here + 0.3 / 0.7 * (there - here)),
        (methods.gsam(0.3, 0.4), there),
        (methods.esam2((0.3,)), there),
        (methods.looksam(0.3), here),
    ):
        actual, _, state = evaluate(estimator, jnp.asarray(x), fun)
        np.testing.assert_allclose(actual, value, rtol=1e-12)
        assert actual == state.last.value
        np.testing.assert_allclose(state.last.metrics["loss"], here, rtol=1e-12)


def test_the_cosine_is_of_the_gradients_at_both_ends(x64):
    a, fun, x = quadratic()
    g = a @ x
    at_sam = a @ (x + 0.3 * unit(g))
    cosine = g @ at_sam / np.sqrt((g @ g) * (at_sam @ at_sam))
    _, _, state = evaluate(methods.gsam(0.3, 0.4), jnp.asarray(x), fun)
    np.testing.assert_allclose(state.last.metrics["cosine"], cosine, rtol=1e-12)


def test_gsam_takes_away_what_is_orthogonal_to_sam(x64):
    plain, sam = flat(jax.grad(loss)(PARAMS)), flat(evaluate(methods.sam(0.2))[1])
    removed = sam - flat(evaluate(methods.gsam(0.2, 0.4))[1])
    assert abs(removed @ sam) < 1e-12 * (sam @ sam)
    assert removed @ plain > 0  # so the step reduces the loss less and the gap more
    np.testing.assert_allclose((plain - removed / 0.4) @ sam, plain @ sam, rtol=1e-12)
    assert np.linalg.matrix_rank(np.stack([plain, sam, removed]), tol=1e-9) == 2


def test_esam2_of_a_quadratic_is_sam_with_the_largest_step(x64):
    _, fun, x = quadratic()
    value, grad, state = evaluate(methods.esam2((0.3, 0.05, 0.1)), jnp.asarray(x), fun)
    sam_value, sam_grad, _ = evaluate(methods.sam(0.3), jnp.asarray(x), fun)
    np.testing.assert_allclose(grad, sam_grad, rtol=1e-12)
    np.testing.assert_allclose(value, sam_value, rtol=1e-12)
    assert state.last.metrics["rho"] == 0.3
    assert np.all(np.diff(state.last.metrics["losses"]) > 0)


def test_looksam_of_a_quadratic(x64):
    """Five steps of gradient descent with k = 3; rho and alpha follow the step counter."""
    a, fun, x = quadratic()
    rho, alpha = (lambda k: 0.3 + 0.1 * k), (lambda k: 0.5 + 0.1 * k)
    step = value_and_grad(fun, methods.looksam(rho, every=3, alpha=alpha))
    params, state = jnp.asarray(x), step.init(jnp.asarray(x))
    step = jax.jit(step)
    for k in range(5):
        g = a @ x
        if k % 3 == 0:
            desired = a @ (x + rho(k) * unit(g))
            gv = desired - (desired @ unit(g)) * unit(g)
        else:
            desired = g + alpha(k) * np.sqrt(g @ g) * unit(gv)
        (_, grad), state = step(params, state)
        np.testing.assert_allclose(grad, desired, rtol=1e-9)
        np.testing.assert_allclose(state.memory, gv, rtol=1e-9, atol=1e-12)
        x, params = x - 0.1 * desired, params - 0.1 * grad
    assert state.step == 5
