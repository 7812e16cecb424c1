"""What several architectures share: convolutions, dropout, rematerialised blocks, heads."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from tsam_jax.convolution import conv_general_dilated

# PyTorch's default for the kernels of its layers: uniform within +-1 / sqrt(fan in).
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
    """A square convolution without bias, padded by half its size on all sides."""
    return nnx.Conv(
        features_in,
        features_out,
        (size, size),
        strides=stride,
        padding=size // 2,  # "SAME" pads even images on one side only where the stride is 2
        use_bias=False,
        kernel_init=kernel_init,
        conv_general_dilated=conv_general_dilated,
        dtype=dtype,
        rngs=rngs,
    )


def dropout(rate: float, rngs: nnx.Rngs) -> nnx.Dropout:
    """Dropout, which without a rate has no key in the model's state either."""
    if not 0 <= rate < 1:
        msg = f"`dropout` must be at least 0 and less than 1, got {rate!r}."
        raise ValueError(msg)
    return nnx.Dropout(rate, rngs=rngs if rate else None)


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
    """The exact GELU, whose derivative is computed and kept in the forward pass.

    From the input alone XLA:CPU computes it anew in the backward pass, error function included.

    Returns:
      x P(normal <= x), of the shape and dtype of `x`.
    """
    return jax.nn.gelu(x, approximate=False)


@gelu.defjvp
def _gelu_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[Any, Any]:
    (x,), (tangent,) = primals, tangents
    cdf = 0.5 * (1 + jax.lax.erf(x * 0.5**0.5))
    slope = cdf + x * jnp.exp(-0.5 * x * x) * (0.5 / math.pi) ** 0.5
    return gelu(x), tangent * slope


def torch_linear(features_in: int, features_out: int, rngs: nnx.Rngs) -> nnx.Linear:
    """A head as `torch.nn.Linear` starts: kernel and bias uniform within +-1 / sqrt(inputs)."""
    bound = features_in**-0.5

    def bias_init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return nnx.Linear(
        features_in, features_out, kernel_init=torch_default, bias_init=bias_init, rngs=rngs
    )


def logits_of(head: nnx.Linear, features: jax.Array) -> jax.Array:
    """The head's outputs, in float32 at least, whatever the rest of the model computes in."""
    y: jax.Array = head(features.astype(jnp.promote_types(features.dtype, jnp.float32)))
    return y


def run(block: nnx.Module, *args: Any, remat: bool) -> jax.Array:
    """Runs a block; with `remat` its backward pass computes it again instead of keeping it."""
    call = nnx.remat(_call) if remat else _call
    y: jax.Array = call(block, *args)
    return y


def _call(block: Any, *args: Any) -> Any:
    return block(*args)


def check_images(images: jax.Array, channels: int, size: tuple[int, int] | None = None) -> None:
    """Refuses what is not a batch of images, channels last."""
    height, width = size or ("height", "width")
    fits = images.ndim == 4 and images.shape[3] == channels
    if not fits or (size is not None and images.shape[1:3] != size):
        msg = (
            f"`images` must have shape (batch, {height}, {width}, {channels}), got"
            f" {tuple(images.shape)}. Channels come last; sizes are chosen by"
            " `build(image_shape=...)`."
        )
        raise ValueError(msg)
