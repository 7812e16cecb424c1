"""Parts shared by several architectures: convolutions, dropout, rematerialisation, heads."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from tsam_jax.convolution import conv_general_dilated

# PyTorch's default for kernels: uniform within +-1 / sqrt(fan in).
torch_default = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def convolution(
    features_in: int,
    features_out: int,
    size: int,
    *,
    stride: int = 1,
    kernel_init: Callable[..., jax.Array],
    dtype: Any,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """Makes a square convolution without bias, padded by half its size on all sides."""
    return nnx.Conv(
        features_in,
        features_out,
        (size, size),
        strides=stride,
        padding=size // 2,  # with stride 2, "SAME" would pad even images on one side only
        use_bias=False,
        kernel_init=kernel_init,
        conv_general_dilated=conv_general_dilated,
        dtype=dtype,
        rngs=rngs,
    )


def dropout(rate: float, rngs: nnx.Rngs) -> nnx.Dropout:
    """Makes a dropout layer; with rate 0 it keeps no key in the model's state."""
    if not 0 <= rate < 1:
        msg = f"`dropout` must be at least 0 and less than 1, got {rate!r}."
        raise ValueError(msg)
    return nnx.Dropout(rate, rngs=rngs if rate else None)


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU that computes and stores its derivative in the forward pass.

    With automatic differentiation, XLA:CPU stores only the input and evaluates the error function
    again in the backward pass.

    Returns:
      x P(N(0, 1) <= x), with the shape and dtype of `x`.
    """
    return jax.nn.gelu(x, approximate=False)


@gelu.defjvp
def _gelu_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[Any, Any]:
    (x,), (tangent,) = primals, tangents
    cdf = 0.5 * (1 + jax.lax.erf(x * 0.5**0.5))
    slope = cdf + x * jnp.exp(-0.5 * x * x) * (0.5 / math.pi) ** 0.5
    return gelu(x), tangent * slope


def torch_linear(features_in: int, features_out: int, rngs: nnx.Rngs) -> nnx.Linear:
    """Makes a head initialised like `torch.nn.Linear`: uniform within +-1 / sqrt(inputs)."""
    bound = features_in**-0.5

    def bias_init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return nnx.Linear(
        features_in, features_out, kernel_init=torch_default, bias_init=bias_init, rngs=rngs
    )


def logits_of(head: nnx.Linear, features: jax.Array) -> jax.Array:
    """Applies the head in at least float32, whatever dtype the rest of the model uses."""
    y: jax.Array = head(features.astype(jnp.promote_types(features.dtype, jnp.float32)))
    return y


def run(block: nnx.Module, *args: Any, remat: bool) -> jax.Array:
    """Runs a block; with `remat`, the backward pass recomputes its activations."""
    call = nnx.remat(_call) if remat else _call
    y: jax.Array = call(block, *args)
    return y


def _call(block: Any, *args: Any) -> Any:
    return block(*args)


def check_images(images: jax.Array, channels: int, size: tuple[int, int] | None = None) -> None:
    """Raises ValueError unless `images` is a batch of images with the channels last."""
    height, width = size or ("height", "width")
    fits = images.ndim == 4 and images.shape[3] == channels
    if not fits or (size is not None and images.shape[1:3] != size):
        msg = (
            f"`images` must have shape (batch, {height}, {width}, {channels}), got"
            f" {tuple(images.shape)}. Channels come last; `build(image_shape=...)` sets the sizes."
        )
        raise ValueError(msg)
