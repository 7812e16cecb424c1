"""Vision transformers: ViT-B/16 and smaller."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from tsam_jax.models import _layers
from tsam_jax.models import _transformer as transformer


class Embeddings(nnx.Module):
    """Class token and patches (through a dense layer), plus position embeddings."""

    def __init__(
        self,
        s: transformer.Settings,
        image_shape: tuple[int, int, int],
        patch: int,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        height, breadth, channels = image_shape
        tokens = 1 + (height // patch) * (breadth // patch)
        normal = nnx.initializers.normal(0.02)
        # A convolution whose stride is its size, as a matrix product, which is as fast.
        self.patches = transformer.dense(patch * patch * channels, s.width, s.dtype, rngs)
        self.class_token = nnx.Param(normal(rngs.params(), (1, 1, s.width), jnp.float32))
        self.positions = nnx.Param(normal(rngs.params(), (1, tokens, s.width), jnp.float32))
        self.dropout = _layers.dropout(s.dropout, rngs)
        self.image_shape, self.patch = image_shape, patch

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps images (batch, height, width, channels) to (batch, 1 + patches, width)."""
        height, breadth, channels = self.image_shape
        _layers.check_images(images, channels, (height, breadth))
        batch, p = images.shape[0], self.patch
        x = images.reshape(batch, height // p, p, breadth // p, p, channels).swapaxes(2, 3)
        x = self.patches(x.reshape(batch, -1, p * p * channels))
        first = self.class_token[...].astype(x.dtype)
        x = jnp.concatenate([jnp.broadcast_to(first, (batch, *first.shape[1:])), x], 1)
        return self.dropout(x + self.positions[...].astype(x.dtype))


class ViT(nnx.Module):
    """Embeddings, layers, LayerNorm, and a head on the class token."""

    def __init__(
        self,
        s: transformer.Settings,
        *,
        image_shape: tuple[int, int, int],
        patch: int,
        depth: int,
        num_outputs: int,
        remat: bool,
        rngs: nnx.Rngs,
    ) -> None:
        self.embeddings = Embeddings(s, image_shape, patch, rngs=rngs)
        self.layers = nnx.List([transformer.PreNormLayer(s, rngs=rngs) for _ in range(depth)])
        self.norm = transformer.layer_norm(s, rngs)
        self.head = transformer.dense(s.width, num_outputs, None, rngs)
        self.remat = remat

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps images (batch, height, width, channels) to logits (batch, num_outputs)."""
        x = self.embeddings(images)
        for layer in self.layers:
            x = _layers.run(layer, x, remat=self.remat)
        return _layers.logits_of(self.head, self.norm(x[:, 0]))


def build(
    num_outputs: int,
    *,
    image_shape: tuple[int, int, int] = (224, 224, 3),
    patch: int = 16,
    width: int = 768,
    depth: int = 12,
    heads: int = 12,
    hidden: int | None = None,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    epsilon: float = 1e-6,
    dtype: Any = None,
    remat: bool = False,
    rngs: nnx.Rngs,
) -> ViT:
    """Make a vision transformer; by default ViT-B/16.

    Args:
      num_outputs: number of logits.
      image_shape: (height, width, channels); all images have this shape.
      patch: side of a patch, a divisor of height and width.
      width: features of a token.
      depth: number of layers.
      heads: attention heads, a divisor of `width`.
      hidden: hidden units of the feed-forward part; None for 4 x `width`.
      dropout: dropout rate after the embeddings and at the end of each branch, in [0, 1).
      attention_dropout: dropout rate of the attention weights, in [0, 1).
      epsilon: constant that LayerNorm adds to the variance.
      dtype: dtype of computation, such as `jnp.bfloat16`; None for that of parameters and images.
        Parameters are float32; LayerNorm's statistics, softmax and logits are at least float32.
      remat: whether the backward pass recomputes the layers instead of storing their activations.
      rngs: keys for the initial weights (normal with standard deviation 0.02, zero biases); its
        stream "dropout" gives the keys of dropout.

    Returns:
      A `ViT`: images (batch, height, width, channels) -> logits (batch, num_outputs).

    Raises:
      ValueError: if `heads` does not divide `width`, `patch` does not divide height and width, or a
        rate is outside [0, 1).

    Cost: ViT-B/16 has 86.6 million parameters; a forward pass takes 17.6 billion multiplications
    per 224 x 224 image.

    Example:
      >>> import jax.numpy as jnp
      >>> images = jnp.zeros((2, 224, 224, 3))
      >>> nnx.eval_shape(lambda: build(10, rngs=nnx.Rngs(0))(images)).shape
      (2, 10)

    Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, as in
    `ViTForImageClassification` of Hugging Face transformers, including its initial weights, which
    differ from those of the paper's code.
    """
    transformer.check_heads(width, heads)
    if patch < 1 or image_shape[0] % patch or image_shape[1] % patch or min(image_shape) < 1:
        msg = (
            f"`patch` must divide height and width of `image_shape`, got patch={patch} and"
            f" image_shape={image_shape!r}."
        )
        raise ValueError(msg)
    hidden = 4 * width if hidden is None else hidden
    return ViT(
        transformer.Settings(width, heads, hidden, dropout, attention_dropout, epsilon, dtype),
        image_shape=image_shape,
        patch=patch,
        depth=depth,
        num_outputs=num_outputs,
        remat=remat,
        rngs=rngs,
    )
