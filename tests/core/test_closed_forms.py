"""Against the naive reference, and closed forms on L = x^T A x / 2."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from tsam_jax import methods, noise, value_and_grad

STRATEGIES = ("unrolled", "vectorized", "streamed")
S = 4


def problem():
    """L = sum sin(3 u) + |u|^2 + (v . c)^2 / 2 and its gradient, in NumPy and in JAX."""
    c = np.array([[1.0, -2.0], [0.5, 3.0]])

    def loss(p, np=np):
        return np.sum(np.sin(3 * p["u"]) + p["u"] ** 2) + np.sum(p["v"] * c) ** 2 / 2

    def gradient(p):
        return {"u": 3 * np.cos(3 * p["u"]) + 2 * p["u"], "v": np.sum(p["v"] * c) * c}

    theta = {"u": np.array([0.3, -1.1, 0.7]), "v": np.array([[0.2, 0.1], [-0.4, 0.3]])}
    return loss, gradient, theta


CASES = {
    "official": {"t": 20.0, "rho": 0.05},
    "wide": {"t": 1.0, "rho": 0.5},
    "delta": {"t": 3.0, "rho": 0.1, "delta": 1.0},
    "half": {"t": 3.0, "rho": 0.1, "delta": "half"},
    "mean": {"t": 0.0, "rho": 0.1},
    "worst": {"t": np.inf, "rho": 0.1},
    "all-of-it-delta": {"t": 5.0, "rho": 0.1, "delta": 5.0},
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("mask", [None, {"u": True, "v": False}])
@pytest.mark.parametrize("case", CASES)
def test_tsam_is_the_naive_reference(case, mask, strategy, x64):
    loss, gradient, theta = problem()
    law = noise.gaussian(rms=0.3)
    estimator = methods.tsam(s=S, noise=law, mask=mask, strategy=strategy, key=3, **CASES[case])
    params = jax.tree.map(jnp.asarray, theta)
    step = jax.jit(value_and_grad(lambda p: loss(p, jnp), estimator))
    state = estimator.init(params)
    draw = jax.jit(law)
    for k in range(2):
        seen = params if mask is None else {"u": params["u"], "v": None}
        keys = jax.random.split(jax.random.fold_in(state.key, k), S)
        eps = [draw(key, seen) for key in keys]
        desired, losses, weights, _ = reference.tsam(
            loss, gradient, theta, eps, masked=None if mask is None else {"u"}, **CASES[case]
        )
        (_, grad), state = step(params, state)
        np.testing.assert_allclose(state.losses, losses, rtol=1e-12)
        np.testing.assert_allclose(state.weights, weights, rtol=1e-9, atol=1e-15)
        for name in theta:
            np.testing.assert_allclose(grad[name], desired[name], rtol=1e-9, atol=1e-12)


def test_schedules_follow_the_step_counter(x64):
    loss, gradient, theta = problem()
    estimator = methods.tsam(
        t=lambda step: 1.0 + step,
        rho=lambda step: 0.1 * (1 + step),
        delta=lambda step: 0.5 * step,
        s=S,
        noise=noise.sphere(radius=lambda step: 0.2 + 0.1 * step),
        key=3,
    )
    params = jax.tree.map(jnp.asarray, theta)
    step = jax.jit(value_and_grad(lambda p: loss(p, jnp), estimator))
    state = estimator.init(params)
    for k in range(3):
        keys = jax.random.split(jax.random.fold_in(state.key, k), S)
        eps = [noise.sphere(radius=0.2 + 0.1 * k)(key, params) for key in keys]
        desired, *_ = reference.tsam(
            loss, gradient, theta, eps, t=1.0 + k, rho=0.1 * (1 + k), delta=0.5 * k
        )
        (_, grad), state = step(params, state)
        for name in theta:
            np.testing.assert_allclose(grad[name], desired[name], rtol=1e-10, atol=1e-12)


def quadratic(d=5):
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(d, d)))[0]
    a = jnp.asarray(basis @ np.diag(np.linspace(0.5, 4.0, d)) @ basis.T)
    return a, (lambda x: x @ a @ x / 2), jnp.asarray(np.linspace(-1.0, 2.0, d))


@pytest.mark.parametrize("steps", [1, 3])
def test_sam_of_a_quadratic(steps, x64):
    a, loss, x = quadratic()
    point = x
    for _ in range(steps):
        point += 0.3 / steps * (a @ point) / jnp.linalg.norm(a @ point)
    sam = methods.sam(rho=0.3, steps=steps)
    (value, grad), _ = value_and_grad(loss, sam)(x, sam.init(x))
    np.testing.assert_allclose(grad, a @ point, rtol=1e-11)
    np.testing.assert_allclose(value, loss(point), rtol=1e-11)
    theirs = reference.sam(lambda p: {"x": a @ p["x"]}, {"x": np.asarray(x)}, rho=0.3, steps=steps)
    np.testing.assert_allclose(grad, theirs["x"], rtol=1e-11)


@pytest.mark.parametrize("seed", range(3))
def test_gaussian_tilt_of_a_quadratic(seed, x64):
    """E over Gaussian noise in closed form: gradient A (I - t sigma^2 A)^-1 x, and its value."""
    a, loss, x = quadratic()
    d, t, sigma, n = x.size, 0.5, 0.2, 2000  # t sigma^2 lambda_max = 0.08
    shrink = np.eye(d) - t * sigma**2 * np.asarray(a)
    tilted = np.asarray(a) @ np.linalg.inv(shrink)
    value = x @ tilted @ x / 2 - np.linalg.slogdet(shrink)[1] / (2 * t)

    estimator = methods.tilted_sampling(
        t=t, s=n, noise=noise.gaussian(rms=sigma), strategy="vectorized"
    )

    @jax.jit
    @jax.vmap
    def estimates(key):
        state = estimator.init(x)._replace(key=key)
        return value_and_grad(loss, estimator)(x, state)[0]

    values, grads = estimates(jax.random.split(jax.random.key(seed), 20))
    # the bias of a softmax over n samples is about t^2 Var(L) / n of the spread: negligible here
    for draws, exact in (values, value), (grads, tilted @ x):
        error = draws.std(axis=0, ddof=1) / np.sqrt(len(draws))
        assert np.all(np.abs(draws.mean(axis=0) - exact) < 4 * error + 1e-6)
    plain = a @ x  # the tilt is visible: far outside of the error
    assert np.abs(grads.mean(axis=0) - plain).max() > 20 * (grads.std(axis=0) / np.sqrt(20)).max()
