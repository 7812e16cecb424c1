"""A small convolutional network."""

from typing import Any

import jax
from flax import nnx

from tsam_jax.convolution import conv_general_dilated
from tsam_jax.models import _layers


class Stage(nnx.Module):
    """A 3 x 3 convolution, ReLU, and a 2 x 2 max-pool."""

    def __init__(self, n: int, m: int, *, dtype: Any, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(
            n,
            m,
            (3, 3),
            kernel_init=nnx.initializers.he_normal(),
            conv_general_dilated=conv_general_dilated,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (batch, h, w, n) to (batch, h // 2, w // 2, m)."""
        y: jax.Array = nnx.max_pool(nnx.relu(self.conv(x)), (2, 2), strides=(2, 2))
        return y


class CNN(nnx.Module):
    """Two stages, a hidden layer, and a head."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        width: int,
        num_outputs: int,
        *,
        dropout: float,
        dtype: Any,
        remat: bool,
        rngs: nnx.Rngs,
    ) -> None:
        height, breadth, channels = image_shape
        self.stages = nnx.List([
            Stage(n, m, dtype=dtype, rngs=rngs) for n, m in ((channels, width), (width, 2 * width))
        ])
        he_normal = nnx.initializers.he_normal()
        inputs, hidden = (height // 4) * (breadth // 4) * 2 * width, 4 * width
        self.hidden = nnx.Linear(inputs, hidden, kernel_init=he_normal, dtype=dtype, rngs=rngs)
        self.dropout = _layers.dropout(dropout, rngs)
        self.head = nnx.Linear(hidden, num_outputs, kernel_init=he_normal, rngs=rngs)
        self.image_shape, self.remat = image_shape, remat

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps images (batch, height, width, channels) to logits (batch, num_outputs)."""
        height, breadth, channels = self.image_shape
        _layers.check_images(images, channels, (height, breadth))
        x = images
        for stage in self.stages:
            x = _layers.run(stage, x, remat=self.remat)
        x = nnx.relu(self.hidden(x.reshape(x.shape[0], -1)))
        return _layers.logits_of(self.head, self.dropout(x))


def build(
    num_outputs: int,
    *,
    width: int = 32,
    image_shape: tuple[int, int, int] = (32, 32, 3),
    dropout: float = 0.0,
    dtype: Any = None,
    remat: bool = False,
    rngs: nnx.Rngs,
) -> CNN:
    """Make a CNN of two convolutions and two dense layers, without normalisation.

    Args:
      num_outputs: number of logits.
      width: channels of the first convolution. The second has twice as many, and the hidden layer
        has 4 `width` units.
      image_shape: (height, width, channels), with height and width >= 4.
      dropout: dropout rate before the head, in [0, 1).
      dtype: dtype of computation, such as `jnp.bfloat16`; None for that of parameters and images.
        Parameters are float32, and logits at least float32.
      remat: whether the backward pass recomputes the convolutions instead of storing their
        activations.
      rngs: keys for the initial weights (He normal kernels, zero biases).

    Returns:
      A `CNN`: images (batch, height, width, channels) -> logits (batch, num_outputs).

    Raises:
      ValueError: if the images are smaller, or a rate is outside [0, 1).

    Cost: 545 thousand parameters by default; 6.1 million multiplications per image in a forward
    pass.

    Example:
      >>> import jax.numpy as jnp
      >>> images = jnp.zeros((2, 32, 32, 3))
      >>> nnx.eval_shape(lambda: build(10, rngs=nnx.Rngs(0))(images)).shape
      (2, 10)

    Source: the network of flax's MNIST example, with a narrower hidden layer.
    """
    if min(image_shape[:2]) < 4:
        msg = f"`build(image_shape=...)` must be at least (4, 4, channels), got {image_shape!r}."
        raise ValueError(msg)
    return CNN(
        image_shape, width, num_outputs, dropout=dropout, dtype=dtype, remat=remat, rngs=rngs
    )
