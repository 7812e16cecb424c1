"""Strict dtype promotion with 64-bit numbers enabled and float32 parameters."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from contract_table import TABLE, batch, loss, make, parameters

from tsam_jax import methods, noise, value_and_grad

LAWS = {
    "sphere": noise.sphere(rms=0.1),
    "scheduled sphere": noise.sphere(radius=optax.linear_schedule(0.1, 0.2, 3)),
    "ball": noise.ball(rms=0.1),
    "ball by radius": noise.ball(radius=0.5),
    "gaussian": noise.gaussian(rms=0.1),
    "clipped gaussian": noise.gaussian(rms=0.1, clip=0.2),
    "filter_scaled": noise.filter_scaled(0.1),
    "leaf_scaled": noise.leaf_scaled(0.1),
    "antithetic": noise.antithetic(noise.sphere(rms=0.1)),
    "orthogonal": noise.orthogonal(noise.gaussian(rms=0.1)),
}


@pytest.fixture
def strict():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        yield


@pytest.mark.parametrize("name", LAWS)
def test_every_noise_law_draws_what_it_draws_otherwise(name, strict):
    params = parameters(jnp.float32)
    law = noise.law_at(LAWS[name], jnp.int32(1))

    def draw():
        key = jax.random.key(3)
        if isinstance(law, noise.Design):
            return law.draw(key, 1, 2, params)
        return law(key, params)

    eps = draw()
    chex.assert_trees_all_equal_shapes_and_dtypes(eps, params)
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        expected = draw()
    chex.assert_trees_all_close(eps, expected, rtol=1e-5)


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_method_steps(name, strict):
    params, x = parameters(jnp.float32), batch().astype(jnp.float32)
    step = value_and_grad(loss, make(name))
    state = step.init(params)
    for _ in range(TABLE[name].period):
        (value, grads), state = jax.jit(step)(params, state, x)
    assert bool(jnp.isfinite(value))
    chex.assert_trees_all_equal_shapes_and_dtypes(grads, params)
