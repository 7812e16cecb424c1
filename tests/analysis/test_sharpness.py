"""Average-case, worst-case and m-sharpness, against closed forms on quadratics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

from tsam_jax.analysis import average_sharpness, m_sharpness, worst_case_sharpness
from tsam_jax.noise import gaussian

SCALES = np.array([0.5, 1.0, 2.0, 4.0])
KEY = jax.random.key(0)


def quadratic(params):
    x = jnp.concatenate([params["a"], params["b"]])
    return 3.0 + 0.5 * jnp.sum(SCALES * x**2)


def at(*x):
    x = jnp.asarray(x, jnp.float32)
    return {"a": x[:1], "b": x[1:]}


def flat(tree):
    return np.concatenate([tree["a"], tree["b"]])


def exact_worst_case(x, rho, sizes=1.0):
    """The trust-region solution: (mu - S) u = gradient in u, with |u| = rho and mu above S."""
    scales, gradient = SCALES * sizes**2, SCALES * np.asarray(x) * sizes
    length = lambda mu: np.linalg.norm(gradient / (mu - scales)) - rho  # noqa: E731
    u = gradient / (brentq(length, scales.max() + 1e-9, 1e6) - scales)
    return gradient @ u + 0.5 * u @ (scales * u), sizes * u


def test_average_sharpness_is_half_the_trace_and_does_not_see_the_level():
    result = average_sharpness(
        quadratic, at(0, 0, 0, 0), KEY, noise=gaussian(rms=0.3), num_samples=2000
    )
    assert abs(result.value - 0.5 * 0.3**2 * SCALES.sum()) < 4 * result.standard_error
    # its own error is that of the variance of a quadratic form
    expected = np.sqrt(0.5 * 0.3**4 * np.sum(SCALES**2) / 2000)
    np.testing.assert_allclose(result.standard_error, expected, rtol=0.15)


def test_worst_case_at_a_minimum_is_along_the_top_eigenvector():
    found = worst_case_sharpness(quadratic, at(0, 0, 0, 0), KEY, rho=0.3)
    np.testing.assert_allclose(found.sharpness, 0.5 * 4.0 * 0.3**2, rtol=1e-3)
    np.testing.assert_allclose(np.abs(flat(found.perturbation)), [0, 0, 0, 0.3], atol=0.01)


@pytest.mark.parametrize("eta", [None, 0.1])
def test_worst_case_on_a_slope_is_the_trust_region_solution(eta):
    x = np.array([1.0, -2.0, 0.5, 0.1])
    sizes = 1.0 if eta is None else np.abs(x) + eta
    kwargs = {} if eta is None else {"adapt": True, "eta": eta}
    exact, point = exact_worst_case(x, 0.3, sizes)
    found = worst_case_sharpness(quadratic, at(*x), KEY, rho=0.3, **kwargs)
    np.testing.assert_allclose(found.sharpness, exact, rtol=1e-3)
    np.testing.assert_allclose(flat(found.perturbation), point, atol=0.02)
    length = np.linalg.norm(flat(found.perturbation) / sizes)
    np.testing.assert_allclose(length, 0.3, rtol=1e-4)


def test_adaptive_sharpness_does_not_see_a_rescaling_of_two_layers():
    x, y = jax.random.normal(jax.random.key(1), (2, 20))

    def loss(p):
        return jnp.mean((jnp.tanh(p["w"] * x) + p["u"] * p["v"] * x - y) ** 2)

    @jax.jit
    def rescaled(factor):
        params = {"w": jnp.float32(0.5), "u": 0.7 * factor, "v": 0.4 / factor}
        return worst_case_sharpness(
            loss, params, KEY, rho=0.2, adapt=True, eta=0.0, steps=40
        ).sharpness

    np.testing.assert_allclose(rescaled(jnp.float32(5.0)), rescaled(jnp.float32(1.0)), rtol=1e-2)


def test_a_loss_that_only_falls_has_no_sharpness():
    found = worst_case_sharpness(lambda x: -jnp.sum(x**2), jnp.zeros(2), KEY, rho=0.5)
    assert found.sharpness == 0.0
    np.testing.assert_array_equal(found.perturbation, [0.0, 0.0])


def test_restarts_find_the_higher_of_two_hills():
    def hills(x):
        return jnp.exp(-20 * (x[0] - 1) ** 2) + 2 * jnp.exp(-20 * (x[0] + 1) ** 2)

    loss = lambda x: hills(x) + 0.01 * x[0]  # noqa: E731

    def found(restarts):
        def run(key):
            return worst_case_sharpness(
                loss, jnp.zeros(1), key, rho=1.5, step_size=0.1, restarts=restarts
            ).sharpness

        return jax.jit(jax.vmap(run))(jax.random.split(KEY, 4))

    one, many = found(1), found(8)
    np.testing.assert_allclose(many, 2.0, atol=0.1)
    assert one.min() < 1.1


def test_m_sharpness_lets_each_micro_batch_have_its_own_perturbation():
    x = jax.random.normal(jax.random.key(2), (6, 4, 3))

    def loss(w, batch):
        return jnp.mean(batch @ w)

    slopes = np.linalg.norm(np.mean(x, axis=1), axis=1)
    result = m_sharpness(loss, jnp.zeros(3), x, KEY, rho=0.5)
    np.testing.assert_allclose(result.value, 0.5 * slopes.mean(), rtol=1e-3)
    np.testing.assert_allclose(
        result.standard_error, 0.5 * slopes.std(ddof=1) / np.sqrt(6), rtol=1e-2
    )


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"rho": -1.0}, r"`worst_case_sharpness\(rho=...\)`.*got -1.0"),
        ({"rho": 1.0, "steps": 0}, r"`worst_case_sharpness\(steps=...\)`.*got 0"),
        ({"rho": 1.0, "restarts": 0}, r"`worst_case_sharpness\(restarts=...\)`.*got 0"),
    ],
)
def test_what_is_out_of_range_is_an_error(kwargs, message):
    with pytest.raises(ValueError, match=message):
        worst_case_sharpness(quadratic, at(0, 0, 0, 0), KEY, **kwargs)
