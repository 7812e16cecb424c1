"""BatchNorm of the model zoo against its definition: values, statistics, all derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tsam_jax.models._batch_norm import BatchNorm


def defined(x, scale, bias):
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    variance = jnp.square(x - mean).mean(axes)
    return scale * (x - mean) / jnp.sqrt(variance + 1e-5) + bias, mean, variance


def ours(x, scale, bias):
    """Output, mean and variance of the layer, the latter two from its running statistics."""
    layer = BatchNorm(x.shape[-1], rngs=nnx.Rngs(0))
    layer.scale, layer.bias = nnx.Param(scale), nnx.Param(bias)
    layer.mean = nnx.BatchStat(jnp.zeros_like(scale))
    layer.var = nnx.BatchStat(jnp.ones_like(scale))
    n = x.size // x.shape[-1]
    return layer(x), 10 * layer.mean[...], (10 * layer.var[...] - 9) * ((n - 1) / n)


# 4 * 4 * 8 and 64 rows are summed in blocks on a CPU, 3 * 5 rows are not
@pytest.mark.parametrize("shape", [(4, 4, 8, 5), (64, 3), (3, 5, 2), (1, 8, 8, 1)])
def test_values_statistics_and_derivatives_in_every_mode(shape, x64):
    keys = jax.random.split(jax.random.key(0), 4)
    x = 2 * jax.random.normal(keys[0], shape) + 1
    at = x, jnp.linspace(0.5, 2, shape[-1]), jnp.arange(1.0, shape[-1] + 1)
    along = tuple(jax.random.normal(k, a.shape) for k, a in zip(keys[1:], at, strict=True))
    weights = jnp.cos(jnp.arange(x.size)).reshape(shape)

    def loss(function):
        return lambda arguments: jnp.sum(jnp.sin(function(*arguments)[0] * weights))

    def derivatives(f):
        gradient = jax.grad(f)
        return (
            jax.jvp(f, (at,), (along,)),
            gradient(at),
            jax.jvp(gradient, (at,), (along,)),  # Hessian products
            jax.grad(lambda arguments: jax.jvp(f, (arguments,), (along,))[1])(at),
        )

    def compare(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)

    found, desired = (
        jax.jit(lambda f=f: (f(*at), derivatives(loss(f))))() for f in (ours, defined)
    )
    jax.tree.map(compare, found, desired)


def test_derivatives_of_the_statistics(x64):
    from tsam_jax.models._batch_norm import _normalise

    x = 2 * jax.random.normal(jax.random.key(0), (4, 4, 8, 5)) + 1
    ones = jnp.ones(5), jnp.zeros(5)

    def loss(function):
        def of_statistics(x):
            _, mean, variance = function(x, *ones)
            return jnp.sum(jnp.cos(mean) * variance)

        return jax.grad(of_statistics)

    of_ours = loss(lambda *arguments: _normalise(*arguments, 1e-5))(x)
    np.testing.assert_allclose(of_ours, loss(defined)(x), rtol=1e-10)
