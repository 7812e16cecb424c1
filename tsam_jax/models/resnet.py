"""Residual networks with basic blocks: ResNet-18, ResNet-34, and thin ones for CPUs."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
from flax import nnx

from tsam_jax.models import _layers
from tsam_jax.models._batch_norm import BatchNorm

# torchvision's initialisation of convolutions; the official CIFAR code keeps PyTorch's default.
_kaiming_fan_out = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


class Shortcut(nnx.Module):
    """Projection of a block's input to the shape of its output."""

    def __init__(self, n: int, m: int, stride: int, **options: Any) -> None:
        self.conv = _layers.convolution(n, m, 1, stride=stride, **options)
        self.norm = BatchNorm(m, dtype=options["dtype"], rngs=options["rngs"])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (batch, h, w, n) to (batch, h / stride, w / stride, m)."""
        return self.norm(self.conv(x))


class Block(nnx.Module):
    """Two convolutions with BatchNorm, and a shortcut around them."""

    def __init__(self, n: int, m: int, stride: int, **options: Any) -> None:
        self.conv1 = _layers.convolution(n, m, 3, stride=stride, **options)
        self.norm1 = BatchNorm(m, dtype=options["dtype"], rngs=options["rngs"])
        self.conv2 = _layers.convolution(m, m, 3, **options)
        self.norm2 = BatchNorm(m, dtype=options["dtype"], rngs=options["rngs"])
        self.shortcut = Shortcut(n, m, stride, **options) if stride != 1 or n != m else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (batch, h, w, n) to (batch, h / stride, w / stride, m)."""
        y = self.norm2(self.conv2(nnx.relu(self.norm1(self.conv1(x)))))
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(nnx.Module):
    """A stem, stages of blocks that halve the image and double the channels, and a head."""

    def __init__(
        self,
        blocks: Sequence[int],
        width: int,
        channels: int,
        num_outputs: int,
        *,
        pool_stem: bool,
        kernel_init: Callable[..., jax.Array],
        dropout: float,
        dtype: Any,
        remat: bool,
        rngs: nnx.Rngs,
    ) -> None:
        options = {"kernel_init": kernel_init, "dtype": dtype, "rngs": rngs}
        size, stride = (7, 2) if pool_stem else (3, 1)
        self.conv = _layers.convolution(channels, width, size, stride=stride, **options)
        self.norm = BatchNorm(width, dtype=dtype, rngs=rngs)
        stages, n = [], width
        for k, count in enumerate(blocks):
            m = width * 2**k
            strides = [1 if k == 0 else 2] + [1] * (count - 1)
            sizes = [n] + [m] * (count - 1)
            stages.append(
                nnx.List([Block(a, m, s, **options) for a, s in zip(sizes, strides, strict=True)])
            )
            n = m
        self.stages = nnx.List(stages)
        self.dropout = _layers.dropout(dropout, rngs)
        self.head = _layers.torch_linear(n, num_outputs, rngs)
        self.channels, self.pool_stem, self.remat = channels, pool_stem, remat

    def stem(self, images: jax.Array) -> jax.Array:
        """Map images (batch, height, width, channels) to the input of the first stage."""
        _layers.check_images(images, self.channels)
        x = nnx.relu(self.norm(self.conv(images)))
        if self.pool_stem:
            x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        return x

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps images (batch, height, width, channels) to logits (batch, num_outputs)."""
        x = self.stem(images)
        for stage in self.stages:
            for block in stage:
                x = _layers.run(block, x, remat=self.remat)
        return _layers.logits_of(self.head, self.dropout(x.mean((1, 2))))


def build(
    num_outputs: int,
    *,
    blocks: Sequence[int] = (2, 2, 2, 2),
    width: int = 64,
    stem: Literal["cifar", "imagenet"] = "cifar",
    image_shape: tuple[int, int, int] = (32, 32, 3),
    dropout: float = 0.0,
    dtype: Any = None,
    remat: bool = False,
    rngs: nnx.Rngs,
) -> ResNet:
    """Make a residual network with basic blocks; by default ResNet-18 for CIFAR.

    Args:
      num_outputs: number of logits.
      blocks: blocks of each stage; (2, 2, 2, 2) is ResNet-18, (3, 4, 6, 3) ResNet-34.
      width: channels of the first stage; each further stage doubles them.
      stem: "cifar" is a 3 x 3 convolution; "imagenet" is a 7 x 7 convolution and a 3 x 3 max-pool,
        both of stride 2.
      image_shape: (height, width, channels); only the channels matter; images of any size work.
      dropout: dropout rate before the head, in [0, 1); the sources have no dropout.
      dtype: dtype of computation, such as `jnp.bfloat16`; None for that of parameters and images.
        Parameters are float32; statistics and logits are at least float32.
      remat: whether the backward pass recomputes the blocks instead of storing their activations.
      rngs: keys for the initial weights. Convolutions are uniform within +-1 / sqrt(fan in) with
        the CIFAR stem (PyTorch's default, as in the official code), and normal with variance
        2 / fan out with the ImageNet stem (torchvision). The head is uniform within
        +-1 / sqrt(inputs).

    Returns:
      A `ResNet`: images (batch, height, width, channels) -> logits (batch, num_outputs).

    Raises:
      ValueError: if `stem` is unknown, a stage has no blocks, or a rate is outside [0, 1).

    Cost: ResNet-18 has 11.2 million parameters; a forward pass takes 0.56 billion multiplications
    per 32 x 32 image.

    Example:
      >>> import jax.numpy as jnp
      >>> images = jnp.zeros((2, 32, 32, 3))
      >>> nnx.eval_shape(lambda: build(10, rngs=nnx.Rngs(0))(images)).shape
      (2, 10)

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016. The CIFAR variant
    is that of the official TSAM code (image/model/resnet.py, 11,173,962 parameters).
    """
    if stem not in {"cifar", "imagenet"}:
        msg = f'`build(stem=...)` must be "cifar" or "imagenet", got {stem!r}.'
        raise ValueError(msg)
    if not blocks or min(blocks) < 1:
        msg = f"`build(blocks=...)` must have at least one block in each stage, got {blocks!r}."
        raise ValueError(msg)
    return ResNet(
        blocks,
        width,
        image_shape[2],
        num_outputs,
        pool_stem=stem == "imagenet",
        kernel_init=_layers.torch_default if stem == "cifar" else _kaiming_fan_out,
        dropout=dropout,
        dtype=dtype,
        remat=remat,
        rngs=rngs,
    )
