"""flax's convolutions with that of `tsam_jax.convolution`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tsam_jax.convolution import conv_general_dilated

pytestmark = [
    pytest.mark.skipif(jax.default_backend() != "cpu", reason="plain elsewhere"),
]

OPTIONS = {"kernel_size": (3, 3), "strides": 2, "padding": "CIRCULAR", "kernel_dilation": 2}


def linen(dtype, x, **function):
    conv = nn.Conv(4, dtype=dtype, **OPTIONS, **function)
    return lambda params: conv.apply(params, x), conv.init(jax.random.key(0), x)


def of_nnx(dtype, x, **function):
    conv = nnx.Conv(3, 4, dtype=dtype, rngs=nnx.Rngs(0), **OPTIONS, **function)
    graphdef, params = nnx.split(conv)
    return lambda params: nnx.merge(graphdef, params)(x), params


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("build", [linen, of_nnx])
def test_output_and_gradients_are_those_of_the_module(build, dtype, key):
    x = jax.random.normal(key, (2, 7, 6, 3))

    def run(**function):
        apply, params = build(jnp.dtype(dtype), x, **function)

        def pull(params):
            y, pullback = jax.vjp(apply, params)
            return y, *pullback(y)

        return jax.jit(pull).trace(params), params

    (ours, params), (plain, _) = run(conv_general_dilated=conv_general_dilated), run()
    assert ("tsam_jax_convolution" in str(ours.jaxpr)) > ("tsam_jax_" in str(plain.jaxpr))
    results = [jax.tree.leaves(x.lower().compile()(params)) for x in (ours, plain)]
    for a, b in zip(*results, strict=True):
        assert a.dtype == b.dtype
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        rtol = 1e-5 if dtype == "float32" else 1e-2
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())
