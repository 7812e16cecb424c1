"""Reading of the reference models; tests/data/models/README.md describes them."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

FOLDER = Path(__file__).parents[1] / "data" / "models"


@functools.cache
def record(name):
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as stored:
        return dict(stored)


@functools.cache
def spec(name):
    return json.loads((FOLDER / f"spec_{name}.json").read_text())


def relative_error(actual, desired):
    """Largest difference relative to the largest entry."""
    actual, desired = np.asarray(actual), np.asarray(desired)
    assert actual.shape == desired.shape
    return np.abs(actual - desired).max() / np.abs(desired).max()


def split(model, dtype=None):
    """Graph, parameters and other state of a model, with floats cast to a dtype if given."""
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def cast(x):
        return x.astype(dtype) if dtype and jnp.issubdtype(x.dtype, jnp.floating) else x

    return graph, jax.tree.map(cast, nnx.as_pure(params)), jax.tree.map(cast, nnx.as_pure(rest))


def flat(tree):
    """Arrays by path, such as "layers/0/norm/scale"."""
    leaves, _ = jax.tree.flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
