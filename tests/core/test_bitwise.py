"""Without noise and ascent, TSAM is the base optimizer, bit for bit, as users compile it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tsam_jax
from tsam_jax import noise

pytestmark = pytest.mark.usefixtures("optimized")

X = jnp.array([[0.3, -1.1], [0.7, 0.2]])
PARAMS = {"w": X, "b": jnp.array([0.1, -0.2])}


def loss(p):
    return jnp.sum(jnp.tanh(X @ p["w"] + p["b"]) ** 2) + 0.1 * jnp.sum(p["w"] ** 4)


def assert_bitwise(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


BASES = {
    "momentum": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adamw": optax.adamw(0.1),
    "chain": optax.chain(optax.clip_by_global_norm(0.1), optax.lion(0.1)),
}


def trained(optimizer, dtype, jit=jax.jit, **extra):
    def step(params, state):
        grads = jax.grad(loss)(params)
        updates, state = optimizer.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    step = jit(step)
    params = jax.tree.map(lambda x: x.astype(dtype), PARAMS)
    state = optimizer.init(params)
    for _ in range(3):
        params, state = step(params, state)
    return params


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_no_noise_and_no_ascent_is_bitwise_the_base(base, dtype, x64):
    desired = trained(BASES[base], dtype)
    optimizer = tsam_jax.tsam(BASES[base], 20.0, 0.0, 3, noise=noise.none)
    assert_bitwise(trained(optimizer, dtype, value_fn=loss), desired)
    assert jnp.any(desired["w"] != PARAMS["w"].astype(dtype))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float64, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore::tsam_jax.HalfPrecisionWarning")
def test_a_schedule_at_zero_is_bitwise_the_base_op_by_op(dtype, x64):
    """Op by op, since XLA may round a larger program differently."""
    optimizer = tsam_jax.tsam(
        BASES["momentum"],
        20.0,
        rho=lambda step: 0.0 * step,
        s=2,
        noise=noise.sphere(radius=lambda step: 0.0 * step),
        strategy="unrolled",
    )
    actual = trained(optimizer, dtype, jit=lambda f: f, value_fn=loss)
    assert_bitwise(actual, trained(BASES["momentum"], dtype, jit=lambda f: f))
