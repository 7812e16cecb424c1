"""Wide residual networks, in their standard form and in that of the official TSAM code."""

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
        """(batch, h, w, n) -> (batch, h / stride, w / stride, m)."""
        y = nnx.relu(self.norm1(x))
        # the projection is one of the activations, the identity one of the input itself
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
    """Makes WRN-depth-widening, with (depth - 4) / 6 units in each of its three groups.

    Args:
      num_outputs: number of logits.
      depth: 6 n + 4 with n >= 1: 10, 16, 22, 28, ...
      widening: k >= 1; the groups have 16 k, 32 k and 64 k channels.
      image_shape: (height, width, channels); only the channels matter, other sizes work too.
      dropout: rate between the convolutions of a unit, in [0, 1).
      dtype: what is computed in, `jnp.bfloat16` say; None for the type of parameters and images.
        Parameters are float32; statistics and logits are float32 at least.
      remat: whether the backward pass computes the units again instead of keeping what is in
        them.
      rngs: the initial weights: convolutions normal with variance 2 / fan in, the head zero, as
        in the official TSAM code.

    Returns:
      A `WideResNet`: images (batch, height, width, channels) -> logits (batch, num_outputs).

    Raises:
      ValueError: for a `depth` that is not 6 n + 4, or a rate outside [0, 1).

    Cost: WRN-16-8 has 11.0 million parameters, and on a 32 x 32 image 1.55 G multiplications a
    forward pass.

    Example:
      >>> import jax.numpy as jnp
      >>> images = jnp.zeros((2, 32, 32, 3))
      >>> nnx.eval_shape(lambda: build(10, rngs=nnx.Rngs(0))(images)).shape
      (2, 10)

    Source: Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016. Deviations: for
    widening 1 the first group projects its input too, and kernels start by fan in, both as in the
    official TSAM code.
    """
    if depth < 10 or (depth - 4) % 6:
        msg = (
            f"`build(depth=...)` must be 6 n + 4 for n >= 1 (10, 16, 22, 28, ...), got {depth!r}."
            " The network that the official TSAM code calls 16-8 is `build_official`."
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
    """Makes what the official TSAM code builds for a depth: one unit more in each group.

    Its "16-8", the paper's WideResNet, has 3 units a group: it is WRN-22-8.

    Args:
      num_outputs: number of logits.
      depth: the depth that the official code is given, 6 n + 4 with n >= 1.
      **options: the other arguments of `build`.

    Returns:
      `build(num_outputs, depth=depth + 6, ...)`.

    Raises:
      ValueError: as `build` does.

    Cost: "16-8" has 17.2 million parameters, and on a 32 x 32 image 2.5 G multiplications a
    forward pass.

    Example:
      >>> model = nnx.eval_shape(lambda: build_official(10, rngs=nnx.Rngs(0)))
      >>> [len(group) for group in model.groups]
      [3, 3, 3]

    Source: class WideResNet of the official TSAM code, after davda54/sam: a `DownsampleUnit`, and
    then `depth` basic units where the depth counts the former.
    """
    return build(num_outputs, depth=depth + 6, **options)
