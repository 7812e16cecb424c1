"""The benchmark's networks, in plain JAX: what is measured is the step, not a model library."""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tsam_jax.convolution import conv_general_dilated


class Problem(NamedTuple):
    """A loss, parameters to start from, and a batch: `loss(params, inputs, targets)`."""

    loss: Callable[..., jax.Array]
    params: Any
    inputs: jax.Array
    targets: jax.Array


def cross_entropy(apply: Callable[[Any, jax.Array], jax.Array]) -> Callable[..., jax.Array]:
    def loss(params: Any, inputs: jax.Array, targets: jax.Array) -> jax.Array:
        logits = apply(params, inputs).astype(jnp.float32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    return loss


def weights(key: jax.Array, *shape: int) -> jax.Array:
    return jax.random.normal(key, shape) / math.sqrt(math.prod(shape[:-1]))


def mlp(key: jax.Array, batch: int, hidden: Sequence[int] = (1024, 1024, 256)) -> Problem:
    """Dense layers: by default four, with 2.1 million parameters."""
    keys = iter(jax.random.split(key, len(hidden) + 2))
    sizes = (784, *hidden, 10)
    params = [(weights(next(keys), n, m), jnp.zeros(m)) for n, m in itertools.pairwise(sizes)]

    def apply(params: Any, x: jax.Array) -> jax.Array:
        *hidden, (head, bias) = params
        for w, b in hidden:
            x = jax.nn.relu(x @ w + b)
        return x @ head + bias

    x = jax.random.normal(next(keys), (batch, sizes[0]))
    return Problem(cross_entropy(apply), params, x, jnp.arange(batch) % 10)


def batch_norm(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * scale + shift


def resnet(
    key: jax.Array,
    batch: int,
    *,
    width: int,
    stages: int,
    convolve: Callable[..., jax.Array] = jax.lax.conv_general_dilated,
) -> Problem:
    """A ResNet of two blocks a stage in its CIFAR form, with batch statistics.

    ResNet-18 has 4 stages of 64 to 512 channels. With 3 stages of 16 to 64 it is a ResNet-14.
    """
    keys = iter(jax.random.split(key, 32))
    strides = (1, 1, *[2, 1] * (stages - 1))

    def layer(size: int, n: int, m: int) -> tuple[jax.Array, ...]:
        return weights(next(keys), size, size, n, m), jnp.ones(m), jnp.zeros(m)

    stem, blocks, n = layer(3, 3, width), [], width
    for stride in strides:
        m = n * stride
        shortcut = layer(1, n, m) if m != n else None
        blocks.append((layer(3, n, m), layer(3, m, m), shortcut))
        n = m
    params = {"stem": stem, "blocks": blocks, "head": weights(next(keys), n, 10)}

    def normed(x: jax.Array, layer: Any, stride: int = 1) -> jax.Array:
        kernel, scale, shift = layer
        numbers = ("NHWC", "HWIO", "NHWC")
        around = [(kernel.shape[0] // 2,) * 2] * 2  # as in PyTorch; "SAME" differs for stride 2
        y = convolve(x, kernel, (stride, stride), around, dimension_numbers=numbers)
        return batch_norm(y, scale, shift)

    def apply(params: Any, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(normed(x, params["stem"]))
        for (first, second, shortcut), stride in zip(params["blocks"], strides, strict=True):
            y = normed(jax.nn.relu(normed(x, first, stride)), second)
            x = jax.nn.relu(y + (x if shortcut is None else normed(x, shortcut, stride)))
        return x.mean((1, 2)) @ params["head"]

    x = jax.random.normal(next(keys), (batch, 32, 32, 3))
    return Problem(cross_entropy(apply), params, x, jnp.arange(batch) % 10)


def transformer(key: jax.Array, batch: int) -> Problem:
    """Four causal pre-norm layers of width 128 over 64 tokens."""
    layers, width, heads, length, vocabulary = 4, 128, 4, 64, 96
    keys = iter(jax.random.split(key, 4 * layers + 4))
    params = {
        "tokens": weights(next(keys), vocabulary, width),
        "positions": weights(next(keys), length, width),
        "layers": [
            {
                "qkv": weights(next(keys), width, 3 * width),
                "out": weights(next(keys), width, width),
                "up": weights(next(keys), width, 4 * width),
                "down": weights(next(keys), 4 * width, width),
                "scales": jnp.ones((2, width)),
            }
            for _ in range(layers)
        ],
        "head": weights(next(keys), width, vocabulary),
    }

    def rms_norm(x: jax.Array, scale: jax.Array) -> jax.Array:
        return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6) * scale

    def apply(params: Any, tokens: jax.Array) -> jax.Array:
        x = params["tokens"][tokens] + params["positions"]
        for p in params["layers"]:
            qkv = (rms_norm(x, p["scales"][0]) @ p["qkv"]).reshape(*x.shape[:2], 3, heads, -1)
            query, key, value = jnp.unstack(qkv, axis=2)
            mixed = jax.nn.dot_product_attention(query, key, value, is_causal=True)
            x = x + mixed.reshape(x.shape) @ p["out"]
            x = x + jax.nn.gelu(rms_norm(x, p["scales"][1]) @ p["up"]) @ p["down"]
        return x @ params["head"]

    tokens = jax.random.randint(next(keys), (batch, length + 1), 0, vocabulary)
    return Problem(cross_entropy(apply), params, tokens[:, :-1], tokens[:, 1:])


RESNET14 = {"width": 16, "stages": 3}
RESNET18 = {"width": 64, "stages": 4}

MODELS: dict[str, Callable[[jax.Array, int], Problem]] = {
    "mlp": mlp,
    "mlp_small": partial(mlp, hidden=(24,)),
    "transformer": transformer,
    "resnet14": partial(resnet, **RESNET14),
    "resnet14_fast_in_loops": partial(resnet, **RESNET14, convolve=conv_general_dilated),
    "resnet18": partial(resnet, **RESNET18),
    "resnet18_fast_in_loops": partial(resnet, **RESNET18, convolve=conv_general_dilated),
}


def build(name: str, *, batch: int, dtype: str = "float32") -> Problem:
    """Returns the problem with its parameters and real-valued inputs in `dtype`.

    A name that is not in `MODELS` is one of the zoo, `zoo:resnet18` say.
    """
    if name.startswith("zoo:"):
        from benchmarks.zoo import from_zoo  # flax is optional

        return from_zoo(name.removeprefix("zoo:"), batch=batch, dtype=dtype)
    if name not in MODELS:
        msg = f"`model` must be one of {', '.join(MODELS)}, or zoo:NAME, got {name!r}."
        raise ValueError(msg)
    problem = MODELS[name](jax.random.key(0), batch)

    def cast(x: jax.Array) -> jax.Array:
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(cast, problem._replace(loss=None))._replace(loss=problem.loss)


def size(params: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(params))
