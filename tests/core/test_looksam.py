"""LookSAM: the steps between its SAM steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_problem import PARAMS, assert_bitwise, evaluate, flat, loss, parameters, points_of

from tsam_jax import methods, value_and_grad


def test_looksam_looks_every_kth_step():
    points = points_of(methods.looksam(0.1, every=3), steps=7)
    clean = [bool(jnp.all(point["w"] == PARAMS["w"])) for point in points]
    assert clean == [True, False, True, True, True, False, True, True, True, False]
    step = value_and_grad(loss, methods.looksam(0.1, every=3))
    program = jax.make_jaxpr(step)(parameters(), step.init(parameters()))
    branches = [equation.primitive.name for equation in program.eqns].count("cond")
    assert branches == 1  # so that the steps in between do not pay for it


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float64])
@pytest.mark.parametrize("shape", [(), (7,)])
@pytest.mark.filterwarnings("ignore::tsam_jax.HalfPrecisionWarning")
def test_looksam_does_not_blow_up_rounding(shape, dtype, x64):
    """If SAM's gradient is parallel to the plain one, there is nothing to add."""
    x = jnp.full(shape, 0.7, dtype)
    fun = lambda x: jnp.sum(jnp.square(x)) * dtype(1.3)  # noqa: E731
    estimator = methods.looksam(0.1, every=2)
    _, _, state = evaluate(estimator, x, fun)
    _, grad, state = evaluate(estimator, x, fun, state)
    np.testing.assert_array_equal(grad, jax.grad(fun)(x))
    assert not np.any(state.memory)


def test_a_look_that_is_not_finite_is_not_kept():
    estimator = methods.looksam(0.1, every=1)
    _, _, state = evaluate(estimator)
    broken = lambda p: loss(p) / (p["b"][0] == PARAMS["b"][0])  # noqa: E731
    _, grad, after = evaluate(estimator, fun=broken, state=state)
    assert not np.all(np.isfinite(flat(grad)))
    assert np.any(flat(state.memory))
    assert_bitwise(after.memory, state.memory)
    assert after.step == 2


def test_cost():
    assert methods.looksam(0.1, every=5).cost == (1.2, 0)
