"""VaSSO, F-SAM, R-SAM and XSAM on L = x^T A x / 2, and one limit of R-SAM."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_problem import assert_close, loss, one_perturbation, parameters, run

from tsam_jax import methods, noise

A = jnp.array([[2.0, 0.3], [0.3, 0.5]])


START = jnp.array([1.0, -2.0])


SHIFTS = jnp.array([[0.0, 0.0], [1.0, 0.5], [-2.0, 1.0], [0.5, 0.5]])


def quadratic(x, shift=jnp.zeros(2)):  # noqa: B008 - a constant
    return (x - shift) @ A @ (x - shift) / 2


@pytest.fixture
def double(x64):
    return START.astype(jnp.float64), A.astype(jnp.float64), SHIFTS.astype(jnp.float64)


def test_vasso_on_a_quadratic(double):
    start, a, shifts = double
    outputs, state = run(methods.vasso(0.3, 0.4), 4, quadratic, params=start, xs=shifts)
    x, m = start, None
    for shift, (value, grad, _) in zip(shifts, outputs, strict=True):
        g = a @ (x - shift)
        m = g if m is None else 0.6 * m + 0.4 * g
        end = x + 0.3 * m / jnp.linalg.norm(m) - shift
        np.testing.assert_allclose(grad, a @ end, rtol=1e-10)
        np.testing.assert_allclose(value, end @ a @ end / 2, rtol=1e-10)
        x = x - 0.1 * a @ end
    np.testing.assert_allclose(state.memory, m, rtol=1e-12)


def test_fsam_on_a_quadratic(double):
    start, a, shifts = double
    estimator = methods.fsam(0.3, 0.7, 0.8)
    outputs, state = run(estimator, 4, quadratic, params=start, xs=shifts)
    x, m = start, None
    for shift, (_, grad, _) in zip(shifts, outputs, strict=True):
        g = a @ (x - shift)
        d, m = (g, g) if m is None else (g - 0.7 * m, 0.8 * m + 0.2 * g)
        end = x + 0.3 * d / jnp.linalg.norm(d) - shift
        np.testing.assert_allclose(grad, a @ end, rtol=1e-10)
        x = x - 0.1 * a @ end
    np.testing.assert_allclose(state.memory, m, rtol=1e-12)


@pytest.mark.parametrize("lam", [None, 2.0])
def test_rsam_on_a_quadratic(lam, double):
    start, a, _ = double
    estimator = methods.rsam(0.3, gamma=0.2, scaling="none", lam=lam)
    outputs, _ = run(estimator, 2, quadratic, params=start, key=7)
    x = start
    for step, (value, grad, _) in enumerate(outputs):
        d = one_perturbation(noise.gaussian(rms=0.2), start, step, key=7)
        g = a @ (x + d)
        if lam is None:
            end = x + d + 0.3 * g / jnp.linalg.norm(g)
        else:
            end = x + 0.3 * (lam * d + g) / jnp.linalg.norm(lam * d + g)
        np.testing.assert_allclose(grad, a @ end, rtol=1e-10)
        np.testing.assert_allclose(value, end @ a @ end / 2, rtol=1e-10)
        x = x - 0.1 * a @ end


def add(a, b, factor=1.0):
    return jax.tree.map(lambda x, y: x + factor * y, a, b)


def norm(tree):
    return jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(tree)))


def test_rsam_with_no_weight_of_the_noise_ascends_from_the_parameters():
    """lam = 0 is SAM, except that it ascends along the gradient at theta + D."""
    rsam = methods.rsam(0.3, gamma=0.2, lam=0.0)
    d = one_perturbation(noise.filter_scaled(0.2), parameters(), key=4)
    g = jax.grad(loss)(add(parameters(), d))
    desired = jax.grad(loss)(add(parameters(), g, 0.3 / norm(g)))
    ((_, grad, _),), state = run(rsam, 1, key=4)
    assert_close(grad, desired)
    smoothed = loss(add(parameters(), d))
    np.testing.assert_allclose(state.last.metrics["loss"], smoothed, rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 2])
def test_xsam_on_a_quadratic(steps, double):
    """In the plane of v0 and v1, v(alpha) is v0 rotated by alpha times their angle."""
    start, a, _ = double
    estimator = methods.xsam(0.3, steps=steps, rho_max=0.8, alpha_grid=(0.0, 0.5, 1.7, 2.0))
    ((_, grad, _),), state = run(estimator, 1, quadratic, params=start)
    end = start
    for _ in range(steps):
        end = end + 0.3 / steps * a @ end / jnp.linalg.norm(a @ end)
    last = a @ end
    angle_of = lambda v: jnp.arctan2(v[1], v[0])  # noqa: E731
    from_angle, to_angle = angle_of(end - start), angle_of(last)
    losses = []
    for alpha in (0.0, 0.5, 1.7, 2.0):
        angle = from_angle + alpha * (to_angle - from_angle)
        losses.append(quadratic(start + 0.8 * jnp.array([jnp.cos(angle), jnp.sin(angle)])))
        if alpha == state.memory:
            desired = jnp.linalg.norm(last) * jnp.array([jnp.cos(angle), jnp.sin(angle)])
    metrics = state.last.metrics
    np.testing.assert_allclose(metrics["losses"], jnp.stack(losses), rtol=1e-9)
    assert metrics["alpha"] == state.memory
    assert jnp.argmax(metrics["losses"]) == (0.0, 0.5, 1.7, 2.0).index(float(state.memory))
    np.testing.assert_allclose(grad, desired, rtol=1e-8)
