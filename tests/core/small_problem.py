"""A small loss with two leaves, and helpers to run methods on it and compare them."""

import jax
import jax.numpy as jnp
import numpy as np

from tsam_jax import Loss, value_and_grad

X = np.array([[0.3, -1.1], [0.7, 0.2]])  # in NumPy, so that it is float64 if JAX uses float64
PARAMS = {"w": X, "b": np.array([0.1, -0.2])}


def loss(p, x=X):
    return jnp.sum(jnp.tanh(x @ p["w"] + p["b"]) ** 2) + 0.1 * jnp.sum(p["w"] ** 4)


def parameters():
    return jax.tree.map(jnp.asarray, PARAMS)


def evaluate(estimator, params=PARAMS, fun=loss, state=None, key=0):
    """Runs one step; returns value, gradient and new state."""
    params = jax.tree.map(jnp.asarray, params)
    step = value_and_grad(fun, estimator, key=key)
    state = step.init(params) if state is None else state
    (value, grad), state = jax.jit(step)(params, state)
    return value, grad, state


def run(estimator, steps=3, fun=loss, params=PARAMS, xs=None, key=0):
    """Runs gradient descent; returns losses, gradients, parameters and the last state."""
    params = jax.tree.map(jnp.asarray, params)
    step = value_and_grad(fun, estimator, key=key)
    state, step, outputs = step.init(params), jax.jit(step), []
    for k in range(steps):
        (value, grad), state = step(params, state, *([] if xs is None else [xs[k]]))
        outputs.append((value, grad, params))
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grad)
    return outputs, state


class Listening(Loss):
    """Wraps a loss so that it logs its calls to a list: ("gradient" or "value", the point)."""

    def __init__(self, loss, calls):
        self.loss, self.calls = loss, calls

    def __call__(self, params):
        self.calls.append(("gradient", params))
        return self.loss(params)

    def value(self, params):
        self.calls.append(("value", params))
        return self.loss.value(params)

    def on(self, *part):
        return Listening(self.loss.on(*part), self.calls)

    def examples(self, *batch):
        return self.loss.examples(*batch)


def listen(estimator, loss, params, steps=1, key=0):
    """Estimates without `jit` at one point; returns the last evaluation and all calls."""
    (memory, _), calls = estimator.init(params), []
    for k in range(steps):
        step_key = jax.random.fold_in(jax.random.key(key), k)
        evaluation, memory = estimator.estimate(
            Listening(loss, calls), params, memory, step=jnp.int32(k), key=step_key
        )
    return evaluation, calls


def points_of(estimator, params=PARAMS, fun=loss, steps=1):
    """Points at which gradients are evaluated."""
    _, calls = listen(estimator, Loss(fun), jax.tree.map(jnp.asarray, params), steps)
    return [point for kind, point in calls if kind == "gradient"]


def one_perturbation(law, params, step=0, key=0):
    """Perturbation of a step with one sample; `key` is a seed or a key."""
    typed = jax.random.key(key) if isinstance(key, int) else key
    return law(jax.random.split(jax.random.fold_in(typed, step), 1)[0], params)


def assert_close(a, b, rtol=1e-5, atol=1e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def key_data(x):
    """Returns the bits of a key; other arrays are unchanged."""
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def assert_bitwise(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(key_data(x), key_data(y))


def assert_differ(a, b):
    gaps = jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), a, b)
    assert max(jax.tree.leaves(gaps)) > 1e-3


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
