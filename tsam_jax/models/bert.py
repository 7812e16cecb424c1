"""BERT: encoder, pooler, and a head for classification or regression."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from tsam_jax.models import _layers
from tsam_jax.models import _transformer as transformer


class Embeddings(nnx.Module):
    """Sum of the embeddings of token, position and token type, then LayerNorm."""

    def __init__(
        self,
        s: transformer.Settings,
        vocabulary: int,
        max_length: int,
        num_types: int,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.words, self.positions, self.types = (
            transformer.embedding(n, s.width, s.dtype, rngs)
            for n in (vocabulary, max_length, num_types)
        )
        self.norm = transformer.layer_norm(s, rngs)
        self.dropout = _layers.dropout(s.dropout, rngs)
        self.max_length = max_length

    def __call__(
        self,
        token_ids: jax.Array,
        attention_mask: jax.Array | None,
        token_type_ids: jax.Array | None,
    ) -> jax.Array:
        """Maps tokens (batch, length) to (batch, length, width)."""
        transformer.check_tokens(token_ids, attention_mask, token_type_ids, self.max_length)
        types = jnp.zeros_like(token_ids) if token_type_ids is None else token_type_ids
        positions = self.positions(jnp.arange(token_ids.shape[1]))
        return self.dropout(self.norm(self.words(token_ids) + self.types(types) + positions))


class Bert(nnx.Module):
    """Embeddings, layers, a pooler on the first token, and a head."""

    def __init__(
        self,
        s: transformer.Settings,
        *,
        vocabulary: int,
        max_length: int,
        num_types: int,
        depth: int,
        num_outputs: int,
        head_dropout: float,
        remat: bool,
        rngs: nnx.Rngs,
    ) -> None:
        self.embeddings = Embeddings(s, vocabulary, max_length, num_types, rngs=rngs)
        self.layers = nnx.List([
            transformer.PostNormLayer(s, output_dropout=s.dropout, rngs=rngs) for _ in range(depth)
        ])
        self.pooler = transformer.dense(s.width, s.width, s.dtype, rngs)
        self.dropout = _layers.dropout(head_dropout, rngs)
        self.head = transformer.dense(s.width, num_outputs, None, rngs)
        self.remat = remat

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
          token_type_ids: integers (batch, length), 1 in the second sentence; None for all 0.

        Returns:
          Logits, or predictions of a model trained for regression.
        """
        mask = None if attention_mask is None else attention_mask != 0
        x = self.embeddings(token_ids, attention_mask, token_type_ids)
        for layer in self.layers:
            x = _layers.run(layer, x, mask, remat=self.remat)
        pooled = jnp.tanh(self.pooler(x[:, 0]))
        return _layers.logits_of(self.head, self.dropout(pooled))


def build(
    num_outputs: int,
    *,
    vocabulary: int = 30522,
    max_length: int = 512,
    num_types: int = 2,
    width: int = 768,
    depth: int = 12,
    heads: int = 12,
    hidden: int | None = None,
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
    head_dropout: float | None = None,
    epsilon: float = 1e-12,
    dtype: Any = None,
    remat: bool = False,
    rngs: nnx.Rngs,
) -> Bert:
    """Make BERT with a randomly initialised head; by default BERT-base.

    Args:
      num_outputs: number of logits; 1 for regression.
      vocabulary: number of tokens.
      max_length: largest number of tokens in an input.
      num_types: number of token types.
      width: features of a token.
      depth: number of layers.
      heads: attention heads, a divisor of `width`.
      hidden: hidden units of the feed-forward part; None for 4 x `width`.
      dropout: dropout rate after the embeddings and at the end of each branch, in [0, 1).
      attention_dropout: dropout rate of the attention weights, in [0, 1).
      head_dropout: dropout rate before the head, in [0, 1); None for `dropout`.
      epsilon: constant that LayerNorm adds to the variance.
      dtype: dtype of computation, such as `jnp.bfloat16`; None for that of the parameters.
        Parameters are float32; LayerNorm's statistics, softmax and outputs are at least float32.
      remat: whether the backward pass recomputes the layers instead of storing their activations.
      rngs: keys for the initial weights (normal with standard deviation 0.02, zero biases); its
        stream "dropout" gives the keys of dropout.

    Returns:
      A `Bert`: (token_ids, attention_mask=None, token_type_ids=None), each (batch, length), ->
      outputs (batch, num_outputs).

    Raises:
      ValueError: if `heads` does not divide `width`, or a rate is outside [0, 1).

    Cost: BERT-base has 109.5 million parameters; a forward pass takes about 85 million
    multiplications per token.

    Example:
      >>> import jax.numpy as jnp
      >>> tokens, mask = jnp.array([[1, 2, 0]]), jnp.array([[1, 1, 0]])
      >>> nnx.eval_shape(lambda: build(2, rngs=nnx.Rngs(0))(tokens, mask)).shape
      (1, 2)

    Source: Devlin et al., "BERT", NAACL 2019, as in `BertForSequenceClassification` of Hugging Face
    transformers. Deviation: the embedding of the padding token is initialised like the others, not
    to zero. With an attention mask this has no effect.
    """
    transformer.check_heads(width, heads)
    hidden = 4 * width if hidden is None else hidden
    return Bert(
        transformer.Settings(width, heads, hidden, dropout, attention_dropout, epsilon, dtype),
        vocabulary=vocabulary,
        max_length=max_length,
        num_types=num_types,
        depth=depth,
        num_outputs=num_outputs,
        head_dropout=dropout if head_dropout is None else head_dropout,
        remat=remat,
        rngs=rngs,
    )
