"""The moving averages of VaSSO and F-SAM."""

import jax
import jax.numpy as jnp
import pytest
from small_problem import X, assert_bitwise, loss, parameters

from tsam_jax import methods, value_and_grad


def test_averages_are_kept_of_masked_leaves_only():
    for maker in methods.vasso, methods.fsam:
        average, _ = maker(0.3, mask={"w": True, "b": False}).init(parameters())
        assert average["b"] is None
        assert average["w"].shape == (2, 2)


@pytest.mark.parametrize("name", ["vasso", "fsam"])
def test_one_gradient_that_is_not_finite_does_not_stay_in_the_average(name):
    step, params = value_and_grad(loss, methods.METHODS[name](0.3)), parameters()
    state, step = step.init(params), jax.jit(step)
    _, before = step(params, state, X)
    (value, _), after = step(params, before, X * jnp.nan)
    assert jnp.isnan(value)
    assert jnp.any(before.memory["w"] != 0)
    assert_bitwise(after.memory, before.memory)
    assert after.step == 2
    (value, grad), _ = step(params, after, X)
    assert all(jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves((value, grad)))
