"""The networks that are measured, those of `tsam_jax.models` and a plain MLP; and their steps."""

import inspect
import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from tsam_jax import GradientEstimator, methods, noise, value_and_grad
from tsam_jax.models import MODELS, Entry, bert, resnet, vit, wide_resnet

CLASSES = 10
TOKENS = 64  # of a text
RMS = 0.006  # of the noise: radius 20 over 11 million parameters, as in the paper
T, RHO = 20.0, 0.05

# Arguments of methods, by name.
REQUIRED = {"t": T, "rho": RHO, "s": 3, "alpha": 0.5, "gamma": 0.6, "rhos": (0.02, 0.05, 0.1)}
REQUIRED |= {"radius": 1.0, "beta": 0.1}

SMALL: dict[str, Any] = {"width": 8, "depth": 1, "heads": 2}
OURS = {
    "resnet14": Entry(partial(resnet.build, blocks=(2, 2, 2), width=16), "image", ""),
    "wrn10-2": Entry(partial(wide_resnet.build, depth=10, widening=2), "image", ""),
    "bert-6x384": Entry(partial(bert.build, width=384, depth=6, heads=12), "text", ""),
    "small-resnet": Entry(partial(resnet.build, blocks=(1, 1), width=4), "image", ""),
    "small-wrn": Entry(partial(wide_resnet.build, depth=10, widening=1), "image", ""),
    "small-vit": Entry(partial(vit.build, patch=4, **SMALL), "image", ""),
    "small-bert": Entry(partial(bert.build, vocabulary=1000, **SMALL), "text", ""),
}
ZOO = {**MODELS, **OURS}
PLAIN = {"plain-mlp": (784, 1024, 1024, 256, CLASSES), "small-mlp": (784, 24, CLASSES)}


class Problem(NamedTuple):
    """A loss(params, inputs, targets), parameters to start from, and a batch."""

    loss: Callable[..., jax.Array]
    params: Any
    inputs: jax.Array
    targets: jax.Array


def build(told: dict[str, Any]) -> Problem:
    """Returns a model and a batch: float32 parameters, computing in the dtype, without dropout."""
    name, batch, dtype = told["model"], told["batch"], told.get("dtype", "float32")
    if name not in ZOO and name not in PLAIN:
        msg = f"`--models` must be of {', '.join([*PLAIN, *ZOO])}, got {name!r}."
        raise ValueError(msg)
    apply, params, inputs = (_plain if name in PLAIN else _zoo)(name, batch, dtype)

    def loss(params: Any, inputs: jax.Array, targets: jax.Array) -> jax.Array:
        logits = apply(params, inputs).astype(jnp.float32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    return Problem(loss, params, inputs, jnp.arange(batch) % CLASSES)


def _plain(name: str, batch: int, dtype: str) -> tuple[Callable, Any, jax.Array]:
    """Dense layers in plain JAX."""
    keys = jax.random.split(jax.random.key(0), len(PLAIN[name]))
    sizes = zip(keys[1:], itertools.pairwise(PLAIN[name]), strict=True)
    params = {
        f"layers.{i}": {"kernel": jax.random.normal(key, (n, m)) / n**0.5, "bias": jnp.zeros(m)}
        for i, (key, (n, m)) in enumerate(sizes)
    }

    def apply(params: Any, x: jax.Array) -> jax.Array:
        x, params = jax.tree.map(lambda x: x.astype(dtype), (x, params))
        for i, layer in enumerate(params.values()):
            x = (x if i == 0 else jax.nn.relu(x)) @ layer["kernel"] + layer["bias"]
        return x

    return apply, params, jax.random.normal(keys[0], (batch, PLAIN[name][0]))


def _zoo(name: str, batch: int, dtype: str) -> tuple[Callable, Any, jax.Array]:
    """A model in training mode on noise; BatchNorm's running statistics are left alone."""
    entry, key = ZOO[name], jax.random.key(1)
    options: dict[str, Any] = {"dtype": jnp.dtype(dtype)} if dtype != "float32" else {}
    if entry.kind == "image":
        large = name in {"vit-b16", "vit-s16", "vit-tiny"} or name.endswith("imagenet")
        side = 8 if name.startswith("small") else 224 if large else 32
        options["image_shape"] = (side, side, 3)
        inputs = jax.random.normal(key, (batch, side, side, 3))
    else:
        options["attention_dropout"] = 0.0
        inputs = jax.random.randint(key, (batch, TOKENS), 0, 1000)
    model = entry.build(CLASSES, dropout=0.0, rngs=nnx.Rngs(0), **options)
    model.train()
    definition, *state = nnx.split(model, nnx.Param, ...)
    params, rest = map(nnx.to_pure_dict, state)

    def started(x: jax.Array) -> jax.Array:  # a head of zeros has no gradients below it
        zero = x.ndim > 1 and not x.any()
        return jax.random.normal(key, x.shape) / math.sqrt(x.shape[0]) if zero else x

    def apply(params: Any, inputs: jax.Array) -> jax.Array:
        return nnx.merge(definition, params, rest)(inputs)

    return apply, jax.tree.map(started, params), inputs


def named(tree: Any) -> dict[str, Any]:
    """Returns the leaves by their names, such as "stages.0.1.conv1.kernel"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in leaves}


Program = tuple[jax.stages.Lowered, tuple]  # a jitted function, lowered, and its arguments


def estimate(problem: Problem, method: str, s: int) -> Program:
    """The loss and gradient of a method by its name; of "gradient" plain ones."""
    if method == "gradient":
        return jax.jit(jax.value_and_grad(problem.loss)).lower(*problem[1:]), problem[1:]
    step = value_and_grad(problem.loss, make(method, s))
    arguments = (problem.params, step.init(problem.params), *problem[2:])
    return jax.jit(step).lower(*arguments), arguments


def training_step(problem: Problem, optimizer: Any) -> tuple[Callable[..., Any], tuple]:
    """Returns (params, state, inputs, targets) -> (params, state), and its first arguments."""

    def step(params: Any, state: Any, inputs: jax.Array, targets: jax.Array) -> tuple:
        loss = partial(problem.loss, inputs=inputs, targets=targets)
        updates, state = optimizer.update(None, state, params, value_fn=loss)
        return optax.apply_updates(params, updates), state

    optimizer = optax.with_extra_args_support(optimizer)
    return step, (problem.params, optimizer.init(problem.params), *problem[2:])


def donating(step: Callable[..., Any], arguments: tuple) -> Program:
    """The step with params and state in buffers of its own, which are donated."""
    copies = jax.tree.map(jnp.copy, arguments[:2])
    lowered = jax.jit(step, donate_argnums=(0, 1)).lower(*arguments)
    return lowered, (*copies, *arguments[2:])


def make(method: str, s: int = 3, **options: Any) -> GradientEstimator:
    """Returns a method of `tsam_jax.methods`, at ordinary values of its required arguments.

    "tsam-KIND" is TSAM with a strategy, or with noise of jax.random.
    """

    def by_jax(key: jax.Array, params: Any) -> Any:
        z = optax.tree.random_like(key, params, jax.random.normal)
        return optax.tree.scale(RMS * optax.tree.size(params) ** 0.5 / optax.tree.norm(z), z)

    name, _, kind = method.partition("-")
    parameters = inspect.signature(methods.METHODS[name]).parameters
    options |= {k: v for k, v in REQUIRED.items() if k in parameters}
    if name == "tsam":
        options |= {"s": s, "noise": by_jax if kind == "jax.random" else noise.sphere(rms=RMS)}
        options["strategy"] = kind if kind and kind != "jax.random" else "auto"
    return methods.METHODS[name](**options)
