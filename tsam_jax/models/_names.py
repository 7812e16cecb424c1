"""How PyTorch checkpoints name the tensors of a layer, and lay them out."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Source(NamedTuple):
    """Where a variable of a model comes from: a tensor's name, and tensor -> array."""

    name: str
    layout: Callable[[np.ndarray], np.ndarray]


Names = dict[str, Source]  # by the variable's path, "layers/0/norm/scale" say


class Format(NamedTuple):
    """How to read one kind of checkpoint.

    Attributes:
      build: (num_outputs, *, rngs, **options) -> the model.
      options: what the checkpoint says of the options.
      names: the source of each parameter and running statistic.
      head: the path of the head, a dense layer; made anew for other numbers of outputs.
      before_head: the path of a dense layer that checkpoints without head may lack; None for none.
      ignored: a regular expression of the tensors that are not the model's.
    """

    build: Callable[..., Any]
    options: dict[str, Any]
    names: Names
    head: str
    before_head: str | None
    ignored: str


def same(x: np.ndarray) -> np.ndarray:
    """The tensor as it is."""
    return x


def matrix(x: np.ndarray) -> np.ndarray:
    """(out, in) -> (in, out)."""
    return x.transpose(1, 0)


def kernel(x: np.ndarray) -> np.ndarray:
    """(out, in, height, width) -> (height, width, in, out)."""
    return x.transpose(2, 3, 1, 0)


def patches(x: np.ndarray) -> np.ndarray:
    """(out, in, height, width) -> (height * width * in, out)."""
    return kernel(x).reshape(-1, x.shape[0])


def dense(ours: str, theirs: str) -> Names:
    """A dense layer."""
    return {
        f"{ours}/kernel": Source(f"{theirs}.weight", matrix),
        f"{ours}/bias": Source(f"{theirs}.bias", same),
    }


def norm(ours: str, theirs: str) -> Names:
    """LayerNorm."""
    return {
        f"{ours}/scale": Source(f"{theirs}.weight", same),
        f"{ours}/bias": Source(f"{theirs}.bias", same),
    }


def batch_norm(ours: str, theirs: str) -> Names:
    """BatchNorm, with its running statistics."""
    return norm(ours, theirs) | {
        f"{ours}/mean": Source(f"{theirs}.running_mean", same),
        f"{ours}/var": Source(f"{theirs}.running_var", same),
    }


def convolution(ours: str, theirs: str) -> Names:
    """A convolution without bias."""
    return {f"{ours}/kernel": Source(f"{theirs}.weight", kernel)}


def embedding(ours: str, theirs: str) -> Names:
    """A table of vectors."""
    return {f"{ours}/embedding": Source(f"{theirs}.weight", same)}


def fused_attention(ours: str, weight: str, bias: str) -> Names:
    """Query, key and value, one below the other in a tensor of 3 n rows."""

    def part(i: int, layout: Callable[[np.ndarray], np.ndarray]) -> Callable[..., np.ndarray]:
        return lambda x: layout(x[i * (len(x) // 3) : (i + 1) * (len(x) // 3)])

    names = {}
    for i, name in enumerate(("query", "key", "value")):
        names[f"{ours}/{name}/kernel"] = Source(weight, part(i, matrix))
        names[f"{ours}/{name}/bias"] = Source(bias, part(i, same))
    return names
