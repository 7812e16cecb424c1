"""TSAM and SAM against the naive reference, and against closed forms on L = x^T A x / 2."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from tsam_jax import methods, noise, value_and_grad

STRATEGIES = ("unrolled", "vectorized", "streamed")
S = 3


def problem():
    """L = sum sin(3 u) + |u|^2 + (v . c)^2 / 2 and its gradient, in NumPy and in JAX."""
    c = np.array([[1.0, -2.0], [0.5, 3.0]])

    def loss(p, np=np):
        return np.sum(np.sin(3 * p["u"]) + p["u"] ** 2) + np.sum(p["v"] * c) ** 2 / 2

    def gradient(p):
        return {"u": 3 * np.cos(3 * p["u"]) + 2 * p["u"], "v": np.sum(p["v"] * c) * c}

    theta = {"u": np.array([0.3, -1.1, 0.7]), "v": np.array([[0.2, 0.1], [-0.4, 0.3]])}
    return loss, gradient, theta


CASES = [
    {"t": 20.0, "rho": 0.05, "delta": 0.0},
    {"t": 1.0, "rho": 0.5, "delta": 0.0},
    {"t": 3.0, "rho": 0.1, "delta": 0.3},
    {"t": 0.0, "rho": 0.1, "delta": 0.0},
    {"t": np.inf, "rho": 0.1, "delta": 0.0},
    {"t": np.inf, "rho": 0.1, "delta": 0.3},
    {"t": np.inf, "rho": 0.1, "delta": 1.0},
    {"t": 5.0, "rho": 0.1, "delta": 1.0},
]


def check_against_reference(make_estimator, law, mask, cases):
    """`make_estimator` takes a case's numbers, which are traced: all cases share one program."""
    loss, gradient, theta = problem()
    params = jax.tree.map(jnp.asarray, theta)

    def evaluator(**numbers):
        return value_and_grad(lambda p: loss(p, jnp), make_estimator(**numbers), key=3)

    @jax.jit
    def step(state, **numbers):
        return evaluator(**numbers)(params, state)

    seen = params if mask is None else {"u": params["u"], "v": None}
    draw = jax.jit(law)
    for case in cases:
        state = evaluator(**case).init(params)
        for k in range(2):
            keys = jax.random.split(jax.random.fold_in(jax.random.key(3), k), S)
            eps = [draw(key, seen) for key in keys]
            desired, losses, weights, _ = reference.tsam(
                loss, gradient, theta, eps, masked=None if mask is None else {"u"}, **case
            )
            traced = {name: x for name, x in case.items() if x != "half"}
            (_, grad), state = step(state, **traced)
            metrics = state.last.metrics
            np.testing.assert_allclose(metrics["losses"], losses, rtol=1e-12)
            np.testing.assert_allclose(metrics["weights"], weights, rtol=1e-9, atol=1e-15)
            np.testing.assert_allclose(
                metrics["effective_sample_size"], 1 / np.sum(weights**2), rtol=1e-9
            )
            for name in theta:
                np.testing.assert_allclose(grad[name], desired[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("mask", [None, {"u": True, "v": False}])
def test_tsam_is_the_naive_reference(mask, strategy, x64):
    law = noise.gaussian(rms=0.3)

    def make_estimator(**numbers):
        return methods.tsam(s=S, noise=law, mask=mask, strategy=strategy, **numbers)

    check_against_reference(make_estimator, law, mask, CASES)


def test_half_the_tilt_is_the_naive_reference(x64):
    law = noise.ball(rms=0.3)

    def make_estimator(t, rho, delta="half"):
        return methods.tsam(t, rho, S, noise=law, delta=delta)

    check_against_reference(make_estimator, law, None, [{"t": 3.0, "rho": 0.1, "delta": "half"}])


def test_schedules_follow_the_step_counter(x64):
    loss, gradient, theta = problem()
    estimator = methods.tsam(
        t=lambda step: 1.0 + step,
        rho=lambda step: 0.1 * (1 + step),
        delta=lambda step: 0.4 * step,
        s=S,
        noise=noise.sphere(radius=lambda step: 0.2 + 0.1 * step),
    )
    params = jax.tree.map(jnp.asarray, theta)
    step = value_and_grad(lambda p: loss(p, jnp), estimator, key=3)
    state, step = step.init(params), jax.jit(step)
    for k in range(4):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(3), k), S)
        eps = [noise.sphere(radius=0.2 + 0.1 * k)(key, params) for key in keys]
        delta = min(0.4 * k, 1.0)  # a schedule is clipped to [0, 1]
        desired, *_ = reference.tsam(
            loss, gradient, theta, eps, t=1.0 + k, rho=0.1 * (1 + k), delta=delta
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
    step = value_and_grad(loss, methods.sam(rho=0.3, steps=steps))
    (value, grad), state = step(x, step.init(x))
    np.testing.assert_allclose(grad, a @ point, rtol=1e-11)
    np.testing.assert_allclose(value, loss(point), rtol=1e-11)
    np.testing.assert_allclose(state.last.metrics["loss"], loss(x), rtol=1e-11)
    theirs = reference.sam(lambda p: {"x": a @ p["x"]}, {"x": np.asarray(x)}, rho=0.3, steps=steps)
    np.testing.assert_allclose(grad, theirs["x"], rtol=1e-11)


def test_gaussian_tilt_of_a_quadratic(x64):
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
        step = value_and_grad(loss, estimator, key=key)
        return step(x, step.init(x))[0]

    for seed in range(3):
        values, grads = estimates(jax.random.split(jax.random.key(seed), 20))
        for draws, exact in (values, value), (grads, tilted @ x):
            error = draws.std(axis=0, ddof=1) / np.sqrt(len(draws))
            assert np.all(np.abs(draws.mean(axis=0) - exact) < 4 * error)
        error = (grads.std(axis=0) / np.sqrt(20)).max()
        assert np.abs(grads.mean(axis=0) - a @ x).max() > 20 * error  # the tilt has an effect


def test_where_noise_dominates_a_shared_ascent_moves_farther_than_tsam(x64):
    """On a/2 |x|^2 at t = 0: a (x + rho u(x)), against a (x + rho E u(x + e)), which is shorter."""
    a, rho, sigma, x = 2.0, 0.5, 0.3, jnp.ones(100)
    length = jnp.linalg.norm(x)
    options = {"noise": noise.antithetic(noise.gaussian(rms=sigma)), "strategy": "vectorized"}

    def along(make):
        step = value_and_grad(lambda x: a / 2 * x @ x, make(0.0, rho, 2000, **options))
        _, grad = step(x, step.init(x))[0]
        return (grad / a - x) @ x / length  # average ascent along x, at most rho

    np.testing.assert_allclose(along(methods.shared_tsam), rho, rtol=1e-12)
    # E u(x + e) is close to x / sqrt(|x|^2 + d sigma^2) in high dimension
    np.testing.assert_allclose(
        along(methods.tsam), rho * length / jnp.sqrt(length**2 + 100 * sigma**2), rtol=2e-3
    )
