"""The encoder layers of BERT, DistilBERT and ViT."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from tsam_jax.models import _layers

_normal = nnx.initializers.normal(0.02)


class Settings(NamedTuple):
    """Settings shared by all layers of a model.

    Attributes:
      width: features of a token.
      heads: attention heads, a divisor of `width`.
      hidden: hidden units of the feed-forward part.
      dropout: dropout rate at the end of each branch, in [0, 1).
      attention_dropout: dropout rate of the attention weights, in [0, 1).
      epsilon: constant that LayerNorm adds to the variance.
      dtype: dtype of computation; None for that of parameters and inputs.
    """

    width: int
    heads: int
    hidden: int
    dropout: float
    attention_dropout: float
    epsilon: float
    dtype: Any


def check_heads(width: int, heads: int) -> None:
    """Raises ValueError unless `heads` divides `width`."""
    if heads < 1 or width % heads:
        msg = f"`heads` must divide `width`, got heads={heads} and width={width}."
        raise ValueError(msg)


def dense(n: int, m: int, dtype: Any, rngs: nnx.Rngs) -> nnx.Linear:
    """Makes a dense layer: kernel normal with standard deviation 0.02, bias zero."""
    return nnx.Linear(n, m, kernel_init=_normal, dtype=dtype, rngs=rngs)


def embedding(size: int, width: int, dtype: Any, rngs: nnx.Rngs) -> nnx.Embed:
    """Makes an embedding table: normal with standard deviation 0.02."""
    table = nnx.Embed(size, width, embedding_init=_normal, rngs=rngs)
    table.dtype = dtype  # nnx.Embed would replace None by the current dtype of the table
    return table


def layer_norm(s: Settings, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Makes a LayerNorm whose statistics are in at least float32, with the accurate variance."""
    return nnx.LayerNorm(
        s.width, epsilon=s.epsilon, dtype=s.dtype, use_fast_variance=False, rngs=rngs
    )


class SelfAttention(nnx.Module):
    r"""$\mathrm{softmax}(Q K^\top / \sqrt{d}) V$ for each head, then a dense layer."""

    def __init__(self, s: Settings, *, rngs: nnx.Rngs) -> None:
        self.query, self.key, self.value, self.out = (
            dense(s.width, s.width, s.dtype, rngs) for _ in range(4)
        )
        self.dropout = _layers.dropout(s.attention_dropout, rngs)
        self.heads = s.heads

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Maps (batch, length, width) to the same; `mask` (batch, length) is False at padding."""
        query, key, value = (
            y.reshape(*y.shape[:2], self.heads, -1)
            for y in (self.query(x), self.key(x), self.value(x))
        )
        # On XLA:CPU, products of matrices that are contiguous in memory are 2.7 times as fast here.
        heads_first = jax.default_backend() == "cpu"
        if heads_first:
            query, key, value = (y.swapaxes(1, 2) for y in (query, key, value))
        axes = "hqd,hkd" if heads_first else "qhd,khd"
        scores = jnp.einsum("b{},b{}->bhqk".format(*axes.split(",")), query, key)
        scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
        scores = scores / query.shape[-1] ** 0.5
        if mask is not None:
            # not -inf, which would give NaN for a sentence of only padding
            scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(scores.dtype).min)
        weights = self.dropout(jax.nn.softmax(scores).astype(value.dtype))
        y = jnp.einsum(f"bhqk,b{axes.split(',')[1]}->bqhd", weights, value)
        return self.out(y.reshape(*y.shape[:2], -1))


class FeedForward(nnx.Module):
    """Two dense layers with the exact GELU between them."""

    def __init__(self, s: Settings, *, rngs: nnx.Rngs) -> None:
        self.up = dense(s.width, s.hidden, s.dtype, rngs)
        self.down = dense(s.hidden, s.width, s.dtype, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (..., width) to (..., width)."""
        if jax.default_backend() != "cpu":
            y: jax.Array = self.down(jax.nn.gelu(self.up(x), approximate=False))
            return y
        # Flatten tokens to rows of one matrix. Otherwise XLA:CPU fuses the activation into
        # transposed reads and does not vectorise it, which takes 4 times as long.
        rows = self.down(_layers.gelu(self.up(x.reshape(-1, x.shape[-1]))))
        return rows.reshape(*x.shape[:-1], -1)


class PostNormLayer(nnx.Module):
    """A layer of BERT and DistilBERT, with LayerNorm after each residual sum."""

    def __init__(self, s: Settings, *, output_dropout: float, rngs: nnx.Rngs) -> None:
        self.attention = SelfAttention(s, rngs=rngs)
        self.attention_dropout = _layers.dropout(output_dropout, rngs)
        self.attention_norm = layer_norm(s, rngs)
        self.feed_forward = FeedForward(s, rngs=rngs)
        self.dropout = _layers.dropout(s.dropout, rngs)
        self.norm = layer_norm(s, rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Maps (batch, length, width) to the same."""
        x = self.attention_norm(x + self.attention_dropout(self.attention(x, mask)))
        y: jax.Array = self.norm(x + self.dropout(self.feed_forward(x)))
        return y


class PreNormLayer(nnx.Module):
    """A layer of ViT, with LayerNorm at the start of each branch."""

    def __init__(self, s: Settings, *, rngs: nnx.Rngs) -> None:
        self.attention_norm = layer_norm(s, rngs)
        self.attention = SelfAttention(s, rngs=rngs)
        self.attention_dropout = _layers.dropout(s.dropout, rngs)
        self.norm = layer_norm(s, rngs)
        self.feed_forward = FeedForward(s, rngs=rngs)
        self.dropout = _layers.dropout(s.dropout, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (batch, length, width) to the same."""
        x = x + self.attention_dropout(self.attention(self.attention_norm(x)))
        return x + self.dropout(self.feed_forward(self.norm(x)))


def check_tokens(
    token_ids: jax.Array, attention_mask: jax.Array | None, token_type_ids: jax.Array | None, n: int
) -> None:
    """Raises ValueError for wrong shapes or dtypes, or sentences of more than n tokens."""
    if token_ids.ndim != 2 or not jnp.issubdtype(token_ids.dtype, jnp.integer):
        msg = (
            f"`token_ids` must be integers of shape (batch, length), got {token_ids.dtype} of shape"
            f" {tuple(token_ids.shape)}."
        )
        raise ValueError(msg)
    if token_ids.shape[1] > n:
        msg = (
            f"`token_ids` must have at most {n} tokens, the model's number of positions, got"
            f" {token_ids.shape[1]}. Truncate the input."
        )
        raise ValueError(msg)
    for name, x in (("attention_mask", attention_mask), ("token_type_ids", token_type_ids)):
        if x is not None and x.shape != token_ids.shape:
            msg = (
                f"`{name}` must have the shape of `token_ids`, {tuple(token_ids.shape)}, got"
                f" {tuple(x.shape)}."
            )
            raise ValueError(msg)
