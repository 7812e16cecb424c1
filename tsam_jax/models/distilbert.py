"""DistilBERT: encoder, and a head for classification or regression."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from tsam_jax.models import _layers
from tsam_jax.models import _transformer as transformer


class Embeddings(nnx.Module):
    """Sum of the embeddings of token and position, then LayerNorm."""

    def __init__(
        self, s: transformer.Settings, vocabulary: int, max_length: int, *, rngs: nnx.Rngs
    ) -> None:
        self.words, self.positions = (
            transformer.embedding(n, s.width, s.dtype, rngs) for n in (vocabulary, max_length)
        )
        self.norm = transformer.layer_norm(s, rngs)
        self.dropout = _layers.dropout(s.dropout, rngs)

    def __call__(self, token_ids: jax.Array) -> jax.Array:
        """Maps tokens (batch, length) to (batch, length, width)."""
        positions = self.positions(jnp.arange(token_ids.shape[1]))
        return self.dropout(self.norm(self.words(token_ids) + positions))


class DistilBert(nnx.Module):
    """Embeddings, layers, a dense layer on the first token, and a head."""

    def __init__(
        self,
        s: transformer.Settings,
        *,
        vocabulary: int,
        max_length: int,
        depth: int,
        num_outputs: int,
        head_dropout: float,
        remat: bool,
        rngs: nnx.Rngs,
    ) -> None:
        self.embeddings = Embeddings(s, vocabulary, max_length, rngs=rngs)
        self.layers = nnx.List([
            transformer.PostNormLayer(s, output_dropout=0.0, rngs=rngs) for _ in range(depth)
        ])
        self.pre_classifier = transformer.dense(s.width, s.width, s.dtype, rngs)
        self.dropout = _layers.dropout(head_dropout, rngs)
        self.head = transformer.dense(s.width, num_outputs, None, rngs)
        self.max_length, self.remat = max_length, remat

    def __call__(
        self,
        token_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        token_type_ids: jax.Array | None = None,
    ) -> jax.Array:
        """Maps tokens (batch, length) to outputs (batch, num_outputs).

        Args:
          token_ids: integers (batch, length); ids outside the vocabulary make the outputs NaN.
          attention_mask: (batch, length), nonzero at tokens and 0 at padding; None for no padding.
          token_type_ids: ignored, as DistilBERT has no token types; accepted so that all text
            models have the same signature.

        Returns:
          Logits, or predictions of a model trained for regression.
        """
        transformer.check_tokens(token_ids, attention_mask, token_type_ids, self.max_length)
        mask = None if attention_mask is None else attention_mask != 0
        x = self.embeddings(token_ids)
        for layer in self.layers:
            x = _layers.run(layer, x, mask, remat=self.remat)
        pooled = nnx.relu(self.pre_classifier(x[:, 0]))
        return _layers.logits_of(self.head, self.dropout(pooled))


def build(
    num_outputs: int,
    *,
    vocabulary: int = 30522,
    max_length: int = 512,
    width: int = 768,
    depth: int = 6,
    heads: int = 12,
    hidden: int | None = None,
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
    head_dropout: float = 0.2,
    epsilon: float = 1e-12,
    dtype: Any = None,
    remat: bool = False,
    rngs: nnx.Rngs,
) -> DistilBert:
    """Make DistilBERT with a randomly initialised head.

    Args:
      num_outputs: number of logits; 1 for regression.
      vocabulary: number of tokens.
      max_length: largest number of tokens in an input.
      width: features of a token.
      depth: number of layers.
      heads: attention heads, a divisor of `width`.
      hidden: hidden units of the feed-forward part; None for 4 x `width`.
      dropout: dropout rate after the embeddings and after the feed-forward part, in [0, 1).
      attention_dropout: dropout rate of the attention weights, in [0, 1).
      head_dropout: dropout rate before the head, in [0, 1).
      epsilon: constant that LayerNorm adds to the variance.
      dtype: dtype of computation, such as `jnp.bfloat16`; None for that of the parameters.
        Parameters are float32; LayerNorm's statistics, softmax and outputs are at least float32.
      remat: whether the backward pass recomputes the layers instead of storing their activations.
      rngs: keys for the initial weights (normal with standard deviation 0.02, zero biases); its
        stream "dropout" gives the keys of dropout.

    Returns:
      A `DistilBert`: (token_ids, attention_mask=None, token_type_ids=None), each (batch, length),
      -> outputs (batch, num_outputs).

    Raises:
      ValueError: if `heads` does not divide `width`, or a rate is outside [0, 1).

    Cost: 67.0 million parameters by default; a forward pass takes about 43 million multiplications
    per token.

    Example:
      >>> import jax.numpy as jnp
      >>> tokens, mask = jnp.array([[1, 2, 0]]), jnp.array([[1, 1, 0]])
      >>> nnx.eval_shape(lambda: build(2, rngs=nnx.Rngs(0))(tokens, mask)).shape
      (1, 2)

    Source: Sanh et al., "DistilBERT", 2019, as in `DistilBertForSequenceClassification` of Hugging
    Face transformers. Deviation: the embedding of the padding token is initialised like the others,
    not to zero. With an attention mask this has no effect.
    """
    transformer.check_heads(width, heads)
    hidden = 4 * width if hidden is None else hidden
    return DistilBert(
        transformer.Settings(width, heads, hidden, dropout, attention_dropout, epsilon, dtype),
        vocabulary=vocabulary,
        max_length=max_length,
        depth=depth,
        num_outputs=num_outputs,
        head_dropout=head_dropout,
        remat=remat,
        rngs=rngs,
    )
