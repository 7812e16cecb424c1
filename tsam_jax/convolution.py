"""Convolution whose gradients are fast inside loops on XLA:CPU.

XLA:CPU has a fast implementation for one layout: images (batch, *spatial, features) and kernels
(*spatial, in, out). JAX's gradients use other layouts. At the top level of a program, XLA rewrites
them to the fast one. Inside scan, map, while and cond it does not, and they run as a scalar loop
that is 16 to 24 times slower (JAX issue 12868). The convolution in this module has all its
derivatives, of any order, in the fast layout.
"""

import contextlib
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from tsam_jax import _mesh

__all__ = ["conv_general_dilated"]

_PIXELS = 2048  # of a block of images that fits in the cache


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> jax.Array:
    r"""`jax.lax.conv_general_dilated` with gradients that are fast inside loops on the CPU.

    $y_{n p o} = \sum_{k c} x_{n, \, S p + D k - l, \, c} \, w_{k c o}$ for strides S, kernel
    dilation D and low padding l. Values, shapes, dtypes, errors and derivatives of all orders, in
    forward and reverse mode, are those of `jax.lax.conv_general_dilated`.

    In flax, pass it as `nnx.Conv(..., conv_general_dilated=conv_general_dilated)`, or in the same
    way to `flax.linen.Conv`. Strategy "auto" then streams samples on the CPU as well.

    All layouts, strides, paddings and dilations are supported, in any number of spatial dimensions.
    XLA's fast implementation covers float32 and narrower types, in one to three dimensions. If
    `jax.default_backend()` is not "cpu" when the function is traced, or with groups or
    `out_sharding`, the function calls `jax.lax.conv_general_dilated`.

    Args:
      lhs: the images, of rank n + 2.
      rhs: the kernels, of rank n + 2, in the dtype of `lhs`.
      window_strides: n integers >= 1.
      padding: "SAME", "SAME_LOWER", "VALID", or n pairs (low, high) of integers, which may be
        negative.
      lhs_dilation: n integers >= 1; None for 1.
      rhs_dilation: n integers >= 1; None for 1.
      dimension_numbers: three strings such as ("NHWC", "HWIO", "NHWC") or a
        `jax.lax.ConvDimensionNumbers`; None for ("NCHW", "OIHW", "NCHW") in n dimensions.
      feature_group_count: integer >= 1.
      batch_group_count: integer >= 1.
      precision: None, a `jax.lax.Precision`, its name, or a pair of them.
      preferred_element_type: dtype of the result and of its accumulation; None for that of `lhs`.
      out_sharding: sharding of the result in explicit sharding mode, or None.

    Returns:
      The convolution, of rank n + 2.

    Raises:
      TypeError, ValueError: as `jax.lax.conv_general_dilated` does.

    Cost: that of `jax.lax.conv_general_dilated`. Under `jax.vmap` over both arguments, convolutions
      run one after the other, which is faster on the CPU than JAX's grouped convolution.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> x, w = jnp.arange(4.0).reshape(1, 4, 1), jnp.array([1.0, 2.0]).reshape(2, 1, 1)
      >>> convolve = lambda w: conv_general_dilated(
      ...     x, w, (1,), "VALID", dimension_numbers=("NHC", "HIO", "NHC")
      ... )
      >>> convolve(w).ravel().tolist()
      [2.0, 5.0, 8.0]
      >>> jax.grad(lambda w: convolve(w).sum())(w).ravel().tolist()
      [3.0, 6.0]

    Source: XLA:CPU's pass conv_canonicalization, which does the same at the top level.
    """
    plain = partial(
        jax.lax.conv_general_dilated,
        window_strides=window_strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=out_sharding,
    )
    grouped = feature_group_count != 1 or batch_group_count != 1
    traced = isinstance(lhs, jax.core.Tracer) or isinstance(rhs, jax.core.Tracer)
    if jax.default_backend() != "cpu" or grouped or out_sharding is not None or not traced:
        return plain(lhs, rhs)
    jax.eval_shape(plain, lhs, rhs)  # raises JAX's errors for wrong arguments
    numbers = jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    (n, c, *image), (o, i, *kernel), (n_out, c_out, *out) = numbers
    lhs, rhs = _varying_alike(lhs, rhs)
    images = jnp.transpose(lhs, (n, *image, c))
    kernels = jnp.transpose(rhs, (*kernel, i, o))
    ones = (1,) * len(image)
    rhs_dilation = tuple(map(int, rhs_dilation or ones))
    if isinstance(padding, str):
        sizes = [(k - 1) * d + 1 for k, d in zip(kernels.shape, rhs_dilation, strict=False)]
        padding = jax.lax.padtype_to_pads(images.shape[1:-1], sizes, window_strides, padding)
    y = _fast_p.bind(
        images,
        kernels,
        window_strides=tuple(map(int, window_strides)),
        padding=tuple((int(low), int(high)) for low, high in padding),
        lhs_dilation=tuple(map(int, lhs_dilation or ones)),
        rhs_dilation=rhs_dilation,
        precision=tuple(precision) if isinstance(precision, list) else precision,
        preferred_element_type=preferred_element_type,
    )
    back = sorted(range(y.ndim), key=(n_out, *out, c_out).__getitem__)
    return jnp.transpose(y, back)


def _varying_alike(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Types arrays inside `shard_map` as varying over the same mesh axes."""
    axes = sorted(frozenset().union(*(_mesh.varying_over(jax.typeof(x)) for x in arrays)))
    varying: tuple[jax.Array, ...] = _mesh.as_varying(arrays, tuple(axes))
    return varying


def _lowered(lhs: jax.Array, rhs: jax.Array, **params: Any) -> jax.Array:
    """Computes the primitive for (n, *spatial, c) and (*spatial, i, o)."""
    # The gradient of the kernels is a convolution with swapped axes: its window is a whole image,
    # its features are the images of the batch. Over the whole batch, XLA fuses the transposition
    # with the layers before, does not vectorise them, and the sums do not fit in the cache.
    # Transposing and summing blocks of images in turn takes 0.5 to 0.9 of the time.
    *window, images, outputs = rhs.shape
    area = max(math.prod(window), math.prod(lhs.shape[1:-1]), 1)
    least, most = (1, max(_PIXELS // area, 2)) if outputs >= 32 else (8, 32)
    sizes = range(least, min(most, images // 2) + 1)
    block = max((k for k in sizes if images % k == 0), default=0)
    like = jax.eval_shape(partial(_plain, **params), lhs, rhs)
    of_kernels = math.prod(window) > math.prod(like.shape[1:-1])
    long = block * area >= _PIXELS // 4 and jnp.result_type(lhs).itemsize >= 4
    if not (of_kernels and long and _mesh.on_one_cpu()):
        return _plain(lhs, rhs, **params)

    def add(y: jax.Array, pair: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        swapped = pair[0].swapaxes(0, -1), jnp.moveaxis(pair[1], 0, -2)
        return y + _plain(*swapped, **params), None

    # images and cotangents in their own layout
    blocks = (
        x.reshape(-1, block, *x.shape[1:]) for x in (lhs.swapaxes(0, -1), jnp.moveaxis(rhs, -2, 0))
    )
    start, _ = _varying_alike(jnp.zeros(like.shape, like.dtype), lhs)
    return jax.lax.scan(add, start, tuple(blocks))[0]


def _plain(lhs: jax.Array, rhs: jax.Array, **params: Any) -> jax.Array:
    """Computes one convolution in XLA's fast layout."""
    last = lhs.ndim - 1
    image, kernel = (0, last, *range(1, last)), (last, last - 1, *range(last - 1))
    numbers = jax.lax.ConvDimensionNumbers(image, kernel, image)
    convolve = partial(jax.lax.conv_general_dilated, dimension_numbers=numbers)
    if lhs.size == 0 or math.prod(rhs.shape[:-2]) <= math.prod(lhs.shape[1:-1]):
        return convolve(lhs, rhs, **params)
    # If kernels are larger than images, XLA swaps them and leaves the fast layout; swap them here.
    lengths = _lengths(lhs.shape, rhs.shape, lhs.shape, params)
    swapped = {
        "lhs_dilation": params["rhs_dilation"],
        "rhs_dilation": params["lhs_dilation"],
        "padding": tuple(
            (low + image - size, high + image - size)
            for (low, high), (image, size, _) in zip(params["padding"], lengths, strict=True)
        ),
    }
    images = jnp.moveaxis(jnp.flip(rhs, range(rhs.ndim - 2)), -1, 0)
    kernels = jnp.moveaxis(jnp.flip(lhs, range(1, last)), 0, -1)
    return convolve(images, kernels, **{**params, **swapped}).swapaxes(0, -1)


def _abstract(lhs: Any, rhs: Any, **params: Any) -> Any:
    return jax.make_jaxpr(partial(_plain, **params))(lhs, rhs).out_avals[0]


def _transpose_lhs(g: jax.Array, lhs: Any, rhs: jax.Array, **params: Any) -> jax.Array:
    """Returns the images' cotangent: the result's cotangent, convolved with flipped kernels."""
    lengths = _lengths(lhs.aval.shape, rhs.shape, g.shape, params)
    padding = [
        (size - 1 - low, image + low - result)
        for (low, _), (image, size, result) in zip(params["padding"], lengths, strict=True)
    ]
    flipped = jnp.flip(rhs, range(rhs.ndim - 2)).swapaxes(-1, -2).astype(g.dtype)
    swapped = {
        "window_strides": params["lhs_dilation"],
        "lhs_dilation": params["window_strides"],
        "padding": tuple(padding),
    }
    y: jax.Array = _fast_p.bind(g, flipped, **{**params, **swapped})
    return y.astype(lhs.aval.dtype)


def _transpose_rhs(g: jax.Array, lhs: jax.Array, rhs: Any, **params: Any) -> Any:
    """Returns the kernels' cotangent: a convolution with the images' features as batch axis."""
    if g.size == 0:
        return ad.Zero(rhs.aval)
    lengths = _lengths(lhs.shape, rhs.aval.shape, g.shape, params)
    padding = [
        (low, size + result - image - low - 1)
        for (low, _), (image, size, result) in zip(params["padding"], lengths, strict=True)
    ]
    swapped = {
        "window_strides": params["rhs_dilation"],
        "rhs_dilation": params["window_strides"],
        "padding": tuple(padding),
    }
    images, kernels = lhs.swapaxes(0, -1).astype(g.dtype), jnp.moveaxis(g, 0, -2)
    y = _fast_p.bind(images, kernels, **{**params, **swapped})
    return jnp.moveaxis(y, 0, -2).astype(rhs.aval.dtype)


def _lengths(
    lhs: Sequence[int], rhs: Sequence[int], out: Sequence[int], params: dict[str, Any]
) -> list[tuple[int, int, int]]:
    """Returns the dilated lengths of image, kernel and result in each dimension."""

    def dilated(lengths: Sequence[int], by: Sequence[int]) -> list[int]:
        return [(n - 1) * d + 1 if n else 0 for n, d in zip(lengths, by, strict=True)]

    image = dilated(lhs[1:-1], params["lhs_dilation"])
    kernel = dilated(rhs[:-2], params["rhs_dilation"])
    return list(zip(image, kernel, dilated(out[1:-1], params["window_strides"]), strict=True))


def _batch(args: Sequence[Any], axes: Sequence[Any], **params: Any) -> tuple[jax.Array, int]:
    """Batches images as a larger batch, kernels as more output features, and both by a map."""
    (lhs, rhs), (lhs_axis, rhs_axis) = args, axes
    convolve = partial(_fast_p.bind, **params)
    if rhs_axis is None:
        images = jnp.moveaxis(lhs, lhs_axis, 0)
        y = convolve(images.reshape(-1, *images.shape[2:]), rhs)
        return y.reshape(*images.shape[:2], *y.shape[1:]), 0
    if lhs_axis is None:
        kernels = jnp.moveaxis(rhs, rhs_axis, -2)
        y = convolve(lhs, kernels.reshape(*kernels.shape[:-2], -1))
        return y.reshape(*y.shape[:-1], *kernels.shape[-2:]), y.ndim - 1
    pairs = jnp.moveaxis(lhs, lhs_axis, 0), jnp.moveaxis(rhs, rhs_axis, 0)
    return jax.lax.map(lambda pair: convolve(*pair), pairs), 0


_fast_p = Primitive("tsam_jax_convolution")  # strategy "auto" searches for JAX's name
_fast_p.def_impl(_lowered)
_fast_p.def_abstract_eval(_abstract)
mlir.register_lowering(_fast_p, mlir.lower_fun(_lowered, multiple_results=False))
ad.defbilinear(_fast_p, _transpose_lhs, _transpose_rhs)
batching.primitive_batchers[_fast_p] = _batch
with contextlib.suppress(ImportError, AttributeError):
    # `jax.experimental.jet` gets JAX's own rule for bilinear functions, as its convention for
    # Taylor coefficients changes between versions. Without the rule, only `jet` raises an error.
    from jax.experimental import jet

    jet.jet_rules[_fast_p] = partial(jet._bilinear_taylor_rule, _fast_p)
