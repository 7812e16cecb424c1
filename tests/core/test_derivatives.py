"""Derivatives through a step (meta-gradients): finite at exact zeros, correct elsewhere."""

import functools

import chex
import jax
import jax.numpy as jnp
import pytest
from contract_table import batch, loss, make, parameters

from tsam_jax import methods, noise, tilting, value_and_grad

# In the second step, so that a method's memory takes part.
ESTIMATORS = {
    **{name: make(name) for name in methods.METHODS},
    "adaptive gsam": methods.gsam(0.1, 0.4, adapt=True),
    "adaptive fsam": methods.fsam(0.1, adapt=True),
    "rsam (c)": methods.rsam(0.1, gamma=0.1, lam=0.5),
    "rsam by leaf": methods.rsam(0.1, gamma=0.1, scaling="leaf"),
    "tsam without noise": methods.tsam(2.0, 0.1, 2, noise=noise.none),
    "tsam vectorized": methods.tsam(2.0, 0.1, 2, noise=noise.ball(rms=0.1), strategy="vectorized"),
    "tsam streamed": methods.tsam(2.0, 0.1, 2, noise=noise.ball(rms=0.1), strategy="streamed"),
    "tsam with auto tilt": methods.tsam(tilting.AutoTilt(0.6), 0.1, 3),
    "m_sam": methods.m_sam(methods.sam(0.1), 2, batch=1),
}


SECOND = {"wsam", "from_paper", "tsam vectorized", "tsam streamed"}  # forms of another of them
every_estimator = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SECOND else []) for n in ESTIMATORS]
)


def through_a_step(estimator, fun, steps=1, **options):
    """Map from params to the estimated gradient and value after some steps."""
    step = value_and_grad(fun, estimator, **options)

    def outputs(params, start, *args):
        state = step.init(jax.tree.map(jax.lax.stop_gradient, start))
        for _ in range(steps):
            (value, grad), state = step(params, state, *args)
        return value, grad

    return outputs


@every_estimator
def test_derivatives_are_finite_where_the_gradient_is_exactly_zero(name):
    """At the minimum of a quadratic, with biases that are exactly zero."""
    params = {"w": jnp.zeros((4, 3)), "b": jnp.zeros(3)}
    fun = lambda p, x: jnp.sum(p["w"] ** 2) + jnp.sum(p["b"] ** 2) + 0 * jnp.sum(x)  # noqa: E731
    outputs = through_a_step(ESTIMATORS[name], fun, steps=2)

    def total(p):  # its gradient is finite only if every derivative is
        return sum(jnp.sum(x) for x in jax.tree.leaves(outputs(p, p, batch())))

    chex.assert_tree_all_finite(jax.jit(jax.grad(total))(params))


@pytest.mark.parametrize("name", ["looksam", "xsam", "gsam", "sam", "fsam"])
def test_derivatives_are_finite_for_a_scalar_parameter(name):
    """The gradients are parallel: they have no orthogonal component and no angle."""
    outputs = through_a_step(make(name), lambda p, x: jnp.mean((p - x) ** 2), steps=2)
    derivative = jax.jit(jax.jacrev(lambda p: outputs(p, p, batch())))(jnp.float32(0.3))
    chex.assert_tree_all_finite(derivative)


@every_estimator
def test_derivatives_are_those_of_finite_differences(name):
    with jax.enable_x64(True):
        params = parameters(jnp.float64)
        direction = jax.tree.map(
            lambda x: jnp.cos(3 * jnp.arange(x.size * 1.0)).reshape(x.shape), params
        )
        start = params
        tilt = None
        if name == "tsam with auto tilt":  # its tilt is treated as a constant
            step = value_and_grad(loss, ESTIMATORS[name])
            _, state = step(params, step.init(params), batch())
            tilt = state.last.metrics["tilt"]

        @functools.partial(jax.jit, static_argnums=1)
        def along(r, estimator):
            """The outputs at `params + r * direction`, and their derivative by `r`."""
            outputs = through_a_step(estimator, loss)
            at = jax.tree.map(lambda x, d: x + r * d, params, direction)
            return jax.jvp(lambda p: outputs(p, start, batch()), (at,), (direction,))

        _, derivative = along(0.0, ESTIMATORS[name])
        fixed = ESTIMATORS[name] if tilt is None else methods.tsam(float(tilt), 0.1, 3)
        h = 1e-5
        high, low = along(h, fixed)[0], along(-h, fixed)[0]
        expected = jax.tree.map(lambda a, b: (a - b) / (2 * h), high, low)
    chex.assert_trees_all_close(derivative, expected, rtol=2e-6, atol=2e-6)
