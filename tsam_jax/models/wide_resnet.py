"""Wide residual networks: the standard ones, and those of the official TSAM code."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from tsam_jax.models import _layers
from tsam_jax.models._batch_norm import BatchNorm

_kaiming_fan_in = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")


class Unit(nnx.Module):
    """BatchNorm and ReLU before each of two convolutions; the first unit of a group projects."""

    def __init__(
        self, n: int, m: int, stride: int, *, first: bool, dropout: float, **options: Any
    ) -> None:
        dtype, rngs = options["dtype"], options["rngs"]
        self.norm1 = BatchNorm(n, dtype=dtype, rngs=rngs)
        self.conv1 = _layers.convolution(n, m, 3, stride=stride, **options)
        self.norm2 = BatchNorm(m, dtype=dtype, rngs=rngs)
        self.dropout = _layers.dropout(dropout, rngs)
        self.conv2 = _layers.convolution(m, m, 3, **options)
        self.shortcut = _layers.convolution(n, m, 1, stride=stride, **options) if first else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (batch, h, w, n) to (batch, h / stride, w / stride, m)."""
        y = nnx.relu(self.norm1(x))
        # The projection acts on the activations, the identity on the input.
        shortcut = x if self.shortcut is None else self.shortcut(y)
        y = self.dropout(nnx.relu(self.norm2(self.conv1(y))))
        return shortcut + self.conv2(y)


class WideResNet(nnx.Module):
    """A stem, three groups of units, and a head."""

    def __init__(
        self,
        units: int,
        widths: Sequence[int],
        channels: int,
        num_outputs: int,
        *,
        dropout: float,
        dtype: Any,
        remat: bool,
        rngs: nnx.Rngs,
    ) -> None:
        options = {"kernel_init": _kaiming_fan_in, "dtype": dtype, "rngs": rngs}
        self.conv = _layers.convolution(channels, 16, 3, **options)
        groups, n = [], 16
        for k, m in enumerate(widths):
            stride = 1 if k == 0 else 2
            group = [Unit(n, m, stride, first=True, dropout=dropout, **options)]
            group += [
                Unit(m, m, 1, first=False, dropout=dropout, **options) for _ in range(units - 1)
            ]
            groups.append(nnx.List(group))
            n = m
        self.groups = nnx.List(groups)
        self.norm = BatchNorm(n, dtype=dtype, rngs=rngs)
        self.head = nnx.Linear(n, num_outputs, kernel_init=nnx.initializers.zeros, rngs=rngs)
        self.channels, self.remat = channels, remat

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps images (batch, height, width, channels) to logits (batch, num_outputs)."""
        _layers.check_images(images, self.channels)
        x = self.conv(images)
        for group in self.groups:
            for unit in group:
                x = _layers.run(unit, x, remat=self.remat)
        return _layers.logits_of(self.head, nnx.relu(self.norm(x)).mean((1, 2)))


def build(
    num_outputs: int,
    *,
    depth: int = 16,
    widening: int = 8,
    image_shape: tuple[int, int, int] = (32, 32, 3),
    dropout: float = 0.0,
    dtype: Any = None,
    remat: bool = False,
    rngs: nnx.Rngs,
) -> WideResNet:
    """Make a wide residual network, WRN-depth-widening.

    Each of its three groups has (depth - 4) / 6 units.

    Args:
      num_outputs: number of logits.
      depth: 6 n + 4 with n >= 1: 10, 16, 22, 28, ...
      widening: k >= 1; the groups have 16 k, 32 k and 64 k channels.
      image_shape: (height, width, channels); only the channels matter; images of any size work.
      dropout: dropout rate between the convolutions of a unit, in [0, 1).
      dtype: dtype of computation, such as `jnp.bfloat16`; None for that of parameters and images.
        Parameters are float32; statistics and logits are at least float32.
      remat: whether the backward pass recomputes the units instead of storing their activations.
      rngs: keys for the initial weights. As in the official TSAM code, convolutions are normal with
        variance 2 / fan in, and the head is zero.

    Returns:
      A `WideResNet`: images (batch, height, width, channels) -> logits (batch, num_outputs).

    Raises:
      ValueError: if `depth` is not 6 n + 4, or a rate is outside [0, 1).

    Cost: WRN-16-8 has 11.0 million parameters; a forward pass takes 1.55 billion multiplications
    per 32 x 32 image.

    Example:
      >>> import jax.numpy as jnp
      >>> images = jnp.zeros((2, 32, 32, 3))
      >>> nnx.eval_shape(lambda: build(10, rngs=nnx.Rngs(0))(images)).shape
      (2, 10)

    Source: Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016. Deviations, both as in the
    official TSAM code: kernels are initialised by fan in, and the first group projects its input
    even with widening 1.
    """
    if depth < 10 or (depth - 4) % 6:
        msg = (
            f"`build(depth=...)` must be 6 n + 4 for n >= 1 (10, 16, 22, 28, ...), got {depth!r}."
            " `build_official` makes the network that the official TSAM code calls 16-8."
        )
        raise ValueError(msg)
    return WideResNet(
        (depth - 4) // 6,
        (16 * widening, 32 * widening, 64 * widening),
        image_shape[2],
        num_outputs,
        dropout=dropout,
        dtype=dtype,
        remat=remat,
        rngs=rngs,
    )


def build_official(num_outputs: int, *, depth: int = 16, **options: Any) -> WideResNet:
    """Make the network that the official TSAM code builds for a given depth.

    It has one unit more in each group. The official "16-8", the paper's WideResNet, has 3 units in
    each group, which makes it WRN-22-8.

    Args:
      num_outputs: number of logits.
      depth: depth in the sense of the official code, 6 n + 4 with n >= 1.
      **options: the other arguments of `build`.

    Returns:
      `build(num_outputs, depth=depth + 6, ...)`.

    Raises:
      ValueError: as `build` does.

    Cost: "16-8" has 17.2 million parameters; a forward pass takes 2.5 billion multiplications per
    32 x 32 image.

    Example:
      >>> model = nnx.eval_shape(lambda: build_official(10, rngs=nnx.Rngs(0)))
      >>> [len(group) for group in model.groups]
      [3, 3, 3]

    Source: class WideResNet of the official TSAM code, after davda54/sam. Each group is a
    `DownsampleUnit` and `depth` basic units, although the depth should count the former.
    """
    return build(num_outputs, depth=depth + 6, **options)
