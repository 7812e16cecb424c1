"""Names and memory layouts of a layer's tensors in PyTorch checkpoints."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Source(NamedTuple):
    """Source of a model's variable: the name of a tensor, and a map from tensor to array."""

    name: str
    layout: Callable[[np.ndarray], np.ndarray]


Names = dict[str, Source]  # keys are paths of variables, such as "layers/0/norm/scale"


class Format(NamedTuple):
    """How to read one kind of checkpoint.

    Attributes:
      build: (num_outputs, *, rngs, **options) -> the model.
      options: options that the checkpoint determines.
      names: source of each parameter and running statistic.
      head: path of the head, a dense layer; initialised if the number of outputs differs.
      before_head: path of a dense layer that checkpoints without a head may lack, or None.
      ignored: regular expression for tensors that the model does not use.
    """

    build: Callable[..., Any]
    options: dict[str, Any]
    names: Names
    head: str
    before_head: str | None
    ignored: str


def same(x: np.ndarray) -> np.ndarray:
    """Returns the tensor unchanged."""
    return x


def matrix(x: np.ndarray) -> np.ndarray:
    """Maps (out, in) to (in, out)."""
    return x.transpose(1, 0)


def kernel(x: np.ndarray) -> np.ndarray:
    """Maps (out, in, height, width) to (height, width, in, out)."""
    return x.transpose(2, 3, 1, 0)


def patches(x: np.ndarray) -> np.ndarray:
    """Maps (out, in, height, width) to (height * width * in, out)."""
    return kernel(x).reshape(-1, x.shape[0])


def dense(ours: str, theirs: str) -> Names:
    """Names of a dense layer."""
    return {
        f"{ours}/kernel": Source(f"{theirs}.weight", matrix),
        f"{ours}/bias": Source(f"{theirs}.bias", same),
    }


def norm(ours: str, theirs: str) -> Names:
    """Names of LayerNorm."""
    return {
        f"{ours}/scale": Source(f"{theirs}.weight", same),
        f"{ours}/bias": Source(f"{theirs}.bias", same),
    }


def batch_norm(ours: str, theirs: str) -> Names:
    """Names of BatchNorm, including its running statistics."""
    return norm(ours, theirs) | {
        f"{ours}/mean": Source(f"{theirs}.running_mean", same),
        f"{ours}/var": Source(f"{theirs}.running_var", same),
    }


def convolution(ours: str, theirs: str) -> Names:
    """Names of a convolution without bias."""
    return {f"{ours}/kernel": Source(f"{theirs}.weight", kernel)}


def embedding(ours: str, theirs: str) -> Names:
    """Names of an embedding table."""
    return {f"{ours}/embedding": Source(f"{theirs}.weight", same)}


def fused_attention(ours: str, weight: str, bias: str) -> Names:
    """Names of query, key and value, stacked in one tensor of 3 n rows."""

    def part(i: int, layout: Callable[[np.ndarray], np.ndarray]) -> Callable[..., np.ndarray]:
        return lambda x: layout(x[i * (len(x) // 3) : (i + 1) * (len(x) // 3)])

    names = {}
    for i, name in enumerate(("query", "key", "value")):
        names[f"{ours}/{name}/kernel"] = Source(weight, part(i, matrix))
        names[f"{ours}/{name}/bias"] = Source(bias, part(i, same))
    return names
