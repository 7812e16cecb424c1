"""Half-precision parameters: how much of a perturbation survives rounding, and the warning."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_table import batch, loss, make, parameters
from small_problem import points_of

from tsam_jax import HalfPrecisionWarning, methods, noise, value_and_grad

KEYS = jax.random.split(jax.random.key(0))
WEIGHTS = jax.random.normal(KEYS[0], (1024, 1024)) / 32  # usual scale for 1024 inputs
SLOPES = jax.random.normal(KEYS[1], WEIGHTS.shape)  # the gradient


def warnings_of(estimator, params):
    """Warnings that Python shows by default while a step is traced twice."""

    def step(params, x):
        step = value_and_grad(loss, estimator)
        return step(params, step.init(params), x)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for size in 2, 3:
            jax.eval_shape(step, params, batch()[:size])
    assert {this.category for this in caught} <= {HalfPrecisionWarning}
    return [str(this.message) for this in caught]


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_method_that_perturbs_warns_once(name):
    messages = warnings_of(make(name), parameters(jnp.bfloat16))
    assert len(messages) == (name != "erm")
    for message in messages:
        assert "bfloat16 parameters" in message
        assert "`dtype=jnp.bfloat16, param_dtype=jnp.float32`" in message


def test_only_perturbed_leaves_in_half_precision_count():
    estimator, params = methods.tsam(1.0, 0.1, 2), parameters()
    assert not warnings_of(estimator, params)
    narrow = {**params, "w": params["w"].astype(jnp.float16)}
    (message,) = warnings_of(estimator, narrow)
    assert "float16 parameters" in message
    masked = methods.tsam(1.0, 0.1, 2, mask={name: name != "w" for name in params})
    assert not warnings_of(masked, narrow)
    assert not warnings_of(methods.tsam(1.0, 0.0, 2, noise=noise.none), narrow)


def surviving(dtype, rho):
    """How much of a SAM step survives the addition: the fraction of its length along the intended
    step, and the fraction of weights that move."""
    slope = lambda w: jnp.sum(SLOPES.astype(dtype) * w)  # noqa: E731
    points = points_of(methods.sam(rho), WEIGHTS.astype(dtype), slope)
    before, after = (point.astype(jnp.float32) for point in points)
    along = jnp.vdot(after - before, SLOPES) / optax.tree.norm(SLOPES)
    return along / rho, jnp.mean(after != before)


# With a million weights of rms 1/32, rho = 0.05 is 5e-5 per weight, and the spacing of bfloat16 is
# 1e-4 to 2e-4. A weight moves if its step is more than half the spacing.
@pytest.mark.filterwarnings("ignore::tsam_jax.HalfPrecisionWarning")
@pytest.mark.parametrize(
    ("dtype", "rho", "along", "moved"),
    [
        (jnp.float32, 0.01, 1.00, 1.00),
        (jnp.float16, 0.05, 1.00, 0.86),
        (jnp.float16, 0.01, 0.88, 0.47),
        (jnp.bfloat16, 0.5, 1.00, 0.89),
        (jnp.bfloat16, 0.1, 0.94, 0.54),
        (jnp.bfloat16, 0.05, 0.71, 0.33),
        (jnp.bfloat16, 0.01, 0.18, 0.07),
    ],
)
def test_what_survives_of_an_ascent_step(dtype, rho, along, moved):
    np.testing.assert_allclose(surviving(dtype, rho), (along, moved), atol=0.01)
