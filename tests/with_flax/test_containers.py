"""The container of the parameters does not matter: dicts, and dataclasses with None."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tsam_jax import methods, noise, tsam, value_and_grad


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Layer:
    """A module in the style of equinox: leaves that are no arrays, and a static field."""

    bias: jax.Array
    weight: jax.Array
    activation: Callable | None  # a leaf, which the filter takes out
    count: jax.Array | None  # an integer leaf, which the filter takes out
    name: str = dataclasses.field(metadata={"static": True})

    def __call__(self, x):
        return self.activation(x @ self.weight + self.bias)


WEIGHT = jax.random.normal(jax.random.key(0), (4, 3))
X = jax.random.normal(jax.random.key(1), (5, 4))
MODEL = Layer(jnp.zeros(3), WEIGHT, jnp.tanh, jnp.int32(7), "first")
DICT = {"bias": MODEL.bias, "weight": MODEL.weight}


def loss(bias, weight, x):
    return jnp.mean((jnp.tanh(x @ weight + bias) - 1.0) ** 2)


def is_trained(x):
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.inexact)


def partition(model):
    """As `eqx.partition(model, eqx.is_inexact_array)`."""
    return (
        jax.tree.map(lambda x: x if is_trained(x) else None, model),
        jax.tree.map(lambda x: None if is_trained(x) else x, model),
    )


def combine(params, rest):
    """As `eqx.combine`."""
    choose = lambda a, b: b if a is None else a  # noqa: E731
    return jax.tree.map(choose, params, rest, is_leaf=lambda x: x is None)


def of_dataclass(rest):
    def fun(params, x):
        model = combine(params, rest)
        assert (model.count is rest.count, model.name) == (True, "first")
        return jnp.mean((model(x) - 1.0) ** 2)

    return fun


METHODS = {
    "sam": methods.sam(0.5),
    "vasso": methods.vasso(0.3, 0.4),
    "xsam": methods.xsam(0.3, search_every=1),
    "tsam": methods.tsam(
        5.0,
        0.1,
        2,
        noise=noise.filter_scaled(0.1),
        mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params),
        strategy="streamed",
    ),
}


def trained(fun, params, method):
    """The leaves after two steps, by `value_and_grad`."""

    function = value_and_grad(fun, method)

    @jax.jit
    def step(params, state):
        (_, grads), state = function(params, state, X)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), state

    state = function.init(params)
    for _ in range(2):
        params, state = step(params, state)
    return jax.tree.leaves(params)


@pytest.mark.parametrize("name", METHODS)
def test_the_container_does_not_matter(name):
    method = METHODS[name]
    desired = trained(lambda p, x: loss(**p, x=x), DICT, method)
    params, rest = partition(MODEL)
    assert (params.activation, params.count) == (None, None)
    for x, y in zip(trained(of_dataclass(rest), params, method), desired, strict=True):
        np.testing.assert_array_equal(x, y)
    assert not np.allclose(desired[1], WEIGHT, atol=1e-3)


def test_the_optax_adapter_takes_a_filtered_dataclass():
    params, rest = partition(MODEL)
    optimizer = tsam(optax.adam(0.1), 5.0, 0.1, 2)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        value_fn = lambda p: of_dataclass(rest)(p, X)  # noqa: E731
        updates, state = optimizer.update(None, state, params, value_fn=value_fn)
        return optax.apply_updates(params, updates), state

    before = of_dataclass(rest)(params, X)
    for _ in range(5):
        params, state = step(params, state)
    assert of_dataclass(rest)(params, X) < 0.8 * before
    assert (params.activation, params.count, params.name) == (None, None, "first")
