"""A small nnx model with every kind of state, its loss, and its data."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx


class Net(nnx.Module):
    """Linear, BatchNorm, ReLU, Dropout, Linear: 4 features, 3 classes."""

    def __init__(self, rngs, **dtypes):
        self.hidden = nnx.Linear(4, 8, use_bias=False, rngs=rngs, **dtypes)
        self.norm = nnx.BatchNorm(8, momentum=0.9, use_scale=False, rngs=rngs, **dtypes)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(8, 3, use_bias=False, rngs=rngs, **dtypes)

    def __call__(self, x):
        return self.head(self.dropout(nnx.relu(self.norm(self.hidden(x)))))


def loss_fn(model, batch):
    x, y = batch
    logits = model(x).astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def batch(k=0, size=6):
    x = jax.random.normal(jax.random.key(100 + k), (size, 4))
    return x, jnp.argmax(x[:, :3], axis=1)


def counter(model):
    """How many dropout masks the model has drawn."""
    return int(model.dropout.rngs.count[...])
