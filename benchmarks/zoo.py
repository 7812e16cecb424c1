"""The models of `tsam_jax.models` as problems: flax modules, made pure functions."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.models import Problem, cross_entropy
from tsam_jax.models import MODELS

LENGTH = 128  # tokens of a text
CLASSES = 10
IMAGES = {"vit-b16": (224, 224, 3), "vit-s16": (224, 224, 3), "vit-tiny": (224, 224, 3)}


def from_zoo(name: str, *, batch: int, dtype: str) -> Problem:
    """Returns the model in training mode on noise: float32 parameters, computing in `dtype`.

    BatchNorm normalises by the batch's statistics; its running statistics are left alone.
    """
    if name not in MODELS:
        msg = f"`model` must be zoo:NAME with NAME one of {', '.join(MODELS)}, got {name!r}."
        raise ValueError(msg)
    entry = MODELS[name]
    options: dict[str, Any] = {"dtype": jnp.dtype(dtype)} if dtype != "float32" else {}
    key = jax.random.key(1)
    if entry.kind == "image":
        shape = IMAGES.get(name, (224, 224, 3) if name.endswith("imagenet") else (32, 32, 3))
        options["image_shape"] = shape
        inputs = jax.random.normal(key, (batch, *shape))
    else:
        inputs = jax.random.randint(key, (batch, LENGTH), 0, 1000)
    model = entry.build(CLASSES, rngs=nnx.Rngs(0), **options)
    model.train()
    definition, params, rest = nnx.split(model, nnx.Param, ...)

    def apply(params: Any, inputs: jax.Array) -> jax.Array:
        merged = nnx.merge(definition, params, rest, copy=True)
        if entry.kind == "image":
            return merged(inputs)
        return merged(inputs, jnp.ones_like(inputs))

    return Problem(cross_entropy(apply), params, inputs, jnp.arange(batch) % CLASSES)
