"""The convolution for CPU loops, against `jax.lax.conv_general_dilated`."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsam_jax.convolution import conv_general_dilated

PLAIN = jax.lax.conv_general_dilated
LAST = {1: ("NHC", "HIO", "NHC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}

pytestmark = pytest.mark.skipif(jax.default_backend() != "cpu", reason="plain elsewhere")

# spatial dimensions of image and kernel, strides, padding, dilations of image and kernel
CASES = {
    "plain": ((5, 7), (3, 3), (1, 1), "SAME", (1, 1), (1, 1)),
    "strides": ((6, 7), (3, 2), (2, 3), "SAME", (1, 1), (1, 1)),
    "lower": ((6, 5), (2, 4), (2, 1), "SAME_LOWER", (1, 1), (1, 1)),
    "remainder": ((9, 8), (2, 3), (3, 2), "VALID", (1, 1), (1, 1)),
    "asymmetric": ((5, 6), (3, 2), (2, 1), ((3, 0), (1, 4)), (1, 1), (1, 1)),
    "negative": ((7, 8), (3, 3), (2, 1), ((-1, 2), (-2, -1)), (1, 1), (1, 1)),
    "kernel dilation": ((9, 8), (3, 2), (2, 1), "SAME", (1, 1), (2, 3)),
    "image dilation": ((4, 5), (3, 3), (1, 1), ((2, 1), (0, 3)), (2, 3), (1, 1)),
    "all at once": ((4, 5), (3, 2), (3, 2), ((2, -1), (4, 1)), (3, 2), (2, 3)),
    "1x1": ((5, 6), (1, 1), (2, 2), "SAME", (1, 1), (1, 1)),
    "large kernel": ((2, 3), (4, 5), (1, 2), ((3, 2), (4, 3)), (1, 1), (1, 1)),
    "large kernel, all at once": ((2, 3), (4, 5), (2, 3), ((9, 1), (4, 9)), (3, 2), (2, 3)),
    "nothing left": ((2, 3), (4, 5), (1, 1), "VALID", (1, 1), (1, 1)),
    "1-D": ((9,), (4,), (2,), ((1, 3),), (1,), (2,)),
    "3-D": ((4, 3, 5), (2, 3, 2), (2, 1, 1), "SAME", (1, 1, 1), (1, 1, 2)),
}


def arrays(key, image, kernel, dtype=None):
    key_x, key_w = jax.random.split(key)
    x = jax.random.normal(key_x, (2, *image, 3), dtype)
    return x, jax.random.normal(key_w, (*kernel, 3, 4), dtype)


def convolution(function, name):
    _, _, strides, padding, lhs_dilation, rhs_dilation = CASES[name]

    def convolve(x, w):
        dilations = {"lhs_dilation": lhs_dilation, "rhs_dilation": rhs_dilation}
        numbers = LAST[len(strides)]
        return function(x, w, strides, padding, dimension_numbers=numbers, **dilations)

    return convolve


def gradient_of(convolve):
    return jax.grad(lambda x, w: jnp.sum(jnp.sin(convolve(x, w))), argnums=(0, 1))


def derivatives(convolve):
    """Value and tangent, gradient, and Hessian-vector product by reverse over reverse mode."""

    def all_of(x, w):
        v = jax.tree.map(jnp.cos, (x, w))
        grad, pullback = jax.vjp(gradient_of(convolve), x, w)
        return jax.jvp(convolve, (x, w), v), grad, pullback(v)

    return all_of


def assert_alike(ours, plain, rtol):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        a, b = np.asarray(a, np.complex128), np.asarray(b, np.complex128)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max(initial=0))


def pair(make):
    """Results of this convolution and JAX's, from one program."""
    return jax.jit(lambda *args: (make(conv_general_dilated)(*args), make(PLAIN)(*args)))


@pytest.mark.parametrize("name", CASES)
def test_values_and_first_and_second_derivatives_in_float64(name, key, x64):
    x, w = arrays(key, *CASES[name][:2])
    assert_alike(*pair(lambda f: derivatives(convolution(f, name)))(x, w), rtol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "preferred", "rtol"),
    [
        ("bfloat16", None, 1e-2),
        ("bfloat16", "float32", 1e-2),
        ("float16", None, 1e-3),
        ("complex64", None, 1e-5),
    ],
)
def test_dtypes(dtype, preferred, rtol, key):
    x, w = arrays(key, (5, 6), (3, 2), jnp.dtype(dtype))

    def both(function):
        options = {"dimension_numbers": LAST[2], "preferred_element_type": preferred}

        def convolve(x, w):
            return function(x, w, (1, 1), "SAME", **options)

        def pull(x, w):
            y, pullback = jax.vjp(convolve, x, w)
            return y, pullback(y)

        return pull

    (y, grads), plain = pair(both)(x, w)
    assert (y.dtype, grads[0].dtype) == (jnp.dtype(preferred or dtype), x.dtype)
    assert_alike((y, grads), plain, rtol)


@pytest.mark.parametrize("numbers", [None, ("HNWC", "OWIH", "CWNH")])
def test_layouts_and_forward_over_reverse_mode(numbers, key, x64):
    order = jax.lax.conv_dimension_numbers((1,) * 4, (1,) * 4, numbers)
    x = jax.random.normal(key, np.array([2, 3, 5, 6])[np.argsort(order.lhs_spec)])
    w = jax.random.normal(key, np.array([4, 3, 3, 2])[np.argsort(order.rhs_spec)])

    def product(function):
        options = {"dimension_numbers": numbers, "rhs_dilation": (1, 2)}

        def convolve(x, w):
            return function(x, w, (2, 1), ((1, 2), (0, 3)), **options)

        def value_and_product(x, w):
            tangent = jnp.cos(x), jnp.cos(w)
            return convolve(x, w), jax.jvp(gradient_of(convolve), (x, w), tangent)

        return value_and_product

    assert_alike(*pair(product)(x, w), rtol=1e-12)


@pytest.mark.parametrize("axes", [(3, None), (None, 2), (1, 4)])
@pytest.mark.parametrize("name", ["all at once", "large kernel"])
def test_vmap_over_images_kernels_and_both(name, axes, key, x64):
    x, w = (
        a if axis is None else jnp.stack([a, jnp.cos(a), -a], axis)
        for a, axis in zip(arrays(key, *CASES[name][:2]), axes, strict=True)
    )

    def mapped(function):
        convolve = convolution(function, name)
        inside = jax.vmap(convolve, axes)

        def product(x, w):
            return jax.vjp(gradient_of(convolve), x, w)[1]((x, w))

        return lambda x, w: (jax.vmap(product, axes)(x, w), jax.vjp(inside, x, w)[1](inside(x, w)))

    assert_alike(*pair(mapped)(x, w), rtol=1e-12)


def test_in_scan_cond_and_checkpoint(key, x64):
    x, w = arrays(key, *CASES["strides"][:2])

    def descend(function):
        loss = jax.checkpoint(lambda w: jnp.sum(jnp.sin(convolution(function, "strides")(x, w))))

        def step(w, up):
            sign = jax.lax.cond(up, lambda w: -jax.grad(loss)(w), jax.grad(loss), w)
            return w - 0.1 * sign, loss(w)

        return lambda w: jax.lax.scan(step, w, jnp.array([True, False, True]))

    ours, plain = pair(descend)(w)
    assert_alike(ours, plain, rtol=1e-12)


def test_inside_shard_map(key):
    x, w = arrays(key, *CASES["strides"][:2])
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec

    def over_the_batch(function):
        def gradient(x, w):  # x varies over the devices, w does not
            def loss(w):
                return jnp.sum(jnp.sin(convolution(function, "strides")(x, w)))

            return jax.grad(loss)(w)

        return jax.shard_map(gradient, mesh=mesh, in_specs=(spec("data"), spec()), out_specs=spec())

    assert_alike(*pair(over_the_batch)(x, w), rtol=1e-5)


def convolutions(program):
    """Lines of a compiled program that contain a convolution."""
    return [line for line in program.splitlines() if re.search(r"\bconvolution\(", line)]


FAST = {1: "dim_labels=b0f_0io->b0f", 2: "dim_labels=b01f_01io->b01f"}


# With all of XLA's optimizations, which swap, transpose and reverse operands.
@pytest.mark.parametrize(
    ("name", "members"), [("plain", None), ("strides", 2), ("large kernel", None), ("1-D", None)]
)
def test_compiled_inside_a_scan_every_derivative_has_the_fast_form(name, members, key):
    x, w = arrays(key, *CASES[name][:2])
    gradient = gradient_of(convolution(conv_general_dilated, name))

    def product(x, w):
        return jax.vjp(gradient, x, w)[1]((x, w))

    if members:
        w, product = jnp.stack([w] * members), jax.vmap(product, (None, 0))

    @jax.jit
    def loop(x, w):
        return jax.lax.map(lambda scale: product(x, scale * w), jnp.arange(3.0))

    found = convolutions(loop.lower(x, w).compile().as_text())
    assert len(found) >= 5
    assert [line for line in found if FAST[len(CASES[name][2])] not in line] == []
    assert [line for line in found if "reversal" in line] == []


@pytest.mark.parametrize(
    ("strides", "features", "blocks"),
    [((1, 1), 64, "5x8x16x16x64"), ((2, 2), 64, "20x2x16x16x64"), ((1, 1), 16, "2x20x16x16x16")],
)
def test_long_sums_of_kernel_gradients_go_in_blocks(strides, features, blocks, key):
    """Of 40 images: blocks of 2,048 pixels, or with few features as many as 32 images."""
    x = jax.random.normal(key, (40, 16 * strides[0], 16 * strides[1], features))
    w = 0.05 * jax.random.normal(key, (3, 3, features, features))

    def product(function):
        def convolve(x, w):
            return function(x, w, strides, "SAME", dimension_numbers=LAST[2])

        return lambda x, w: jax.jvp(gradient_of(convolve), (x, w), (jnp.cos(x), jnp.cos(w)))

    program = jax.jit(product(conv_general_dilated)).lower(x, w).as_text()
    assert blocks in program  # of cotangents
    assert_alike(*pair(product)(x, w), rtol=1e-5)


def test_groups_and_other_backends_have_the_plain_one(monkeypatch):
    x, w = jnp.ones((2, 5, 5, 4)), jnp.ones((2, 2, 2, 4))

    def program(function, **options):
        return str(
            jax.make_jaxpr(
                lambda x, w: function(x, w, (1, 1), "SAME", dimension_numbers=LAST[2], **options)
            )(x, w)
        )

    for groups in {"feature_group_count": 2}, {"batch_group_count": 2}:
        w = jnp.ones((2, 2, 4 // groups.get("feature_group_count", 1), 4))
        assert program(conv_general_dilated, **groups) == program(PLAIN, **groups)
    w = jnp.ones((2, 2, 4, 4))
    assert program(conv_general_dilated) != program(PLAIN)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert program(conv_general_dilated) == program(PLAIN)


@pytest.mark.parametrize(
    ("w", "options"),
    [
        (jnp.ones((2, 2, 5, 4)), {"padding": "SAME"}),
        (jnp.ones((2, 2, 3, 4), jnp.int32), {"padding": "SAME"}),
        (jnp.ones((2, 2, 3, 4)), {"padding": "NEAR"}),
        (jnp.ones((2, 2, 3, 4)), {"padding": "SAME", "lhs_dilation": (2, 2)}),
    ],
)
def test_errors_are_those_of_jax(w, options):
    x = jnp.ones((2, 5, 5, 3))

    def message(function):
        with pytest.raises((TypeError, ValueError, RuntimeError)) as caught:
            function(x, w, (1, 1), dimension_numbers=LAST[2], **options)
        return str(caught.value)

    assert message(conv_general_dilated) == message(PLAIN)


def test_taylor_coefficients_are_those_of_jax():
    """`jax.experimental.jet` works in both arguments, to second order."""
    from jax.experimental import jet

    keys = jax.random.split(jax.random.key(0), 6)
    x, *dx = (jax.random.normal(key, (2, 5, 5, 3)) for key in keys[:3])
    w, *dw = (jax.random.normal(key, (3, 3, 3, 4)) for key in keys[3:])
    layout = ("NHWC", "HWIO", "NHWC")

    def coefficients(convolve):
        f = lambda x, w: jnp.sin(convolve(x, w, (1, 1), "SAME", dimension_numbers=layout))  # noqa: E731
        return jax.jit(lambda x, w: jet.jet(f, (x, w), (dx, dw)))(x, w)

    ours = coefficients(conv_general_dilated)
    theirs = coefficients(jax.lax.conv_general_dilated)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), ours, theirs)
