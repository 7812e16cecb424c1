"""A quadratic loss with gradients by hand, in NumPy, and the loop that optax users write."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

CURVATURE = np.array([1.0, 4.0, 0.5])
BATCH = np.array([[0.5, 0.0, 1.0], [-0.5, 1.0, 1.0], [1.5, 0.5, -2.0], [0.5, 0.5, 4.0]])
START = np.array([1.0, -2.0, 0.5])  # of w, w, b


def parameters(dtype=jnp.float32, point=START):
    return {"w": jnp.asarray(point[:2], dtype)[:, None], "b": jnp.asarray(point[2:], dtype)}


def loss(params, batch):
    """The mean over examples x of sum_k c_k (p_k - x_k)^2 / 2."""
    point = jnp.concatenate([params["w"][:, 0], params["b"]])
    return jnp.mean(jnp.sum(jnp.asarray(CURVATURE, point.dtype) * (point - batch) ** 2, axis=1)) / 2


def flat(tree):
    """The entries of parameters, updates or gradients in the order of `START`."""
    return np.concatenate([tree["w"][:, 0], tree["b"]]).astype(np.float64)


def value(point, batch):
    return np.mean(np.sum(CURVATURE * (point - batch) ** 2, axis=1)) / 2


def gradient(point, batch):
    return CURVATURE * (point - batch.mean(axis=0))


def climbed(point, batch, rho, perturbed=(1, 1, 1)):
    """Where SAM evaluates its gradient."""
    ascent = gradient(point, batch) * perturbed
    return point + rho * ascent / np.linalg.norm(ascent)


def sam_gradient(point, batch, rho):
    return gradient(climbed(point, batch, rho), batch)


def make_step(optimizer, fun=loss):
    @jax.jit
    def step(params, state, batch):
        updates, state = optimizer.update(
            None, state, params, value_fn=lambda p: fun(p, jnp.asarray(batch, jnp.float32))
        )
        return optax.apply_updates(params, updates), state

    return step


def one_update(optimizer, batch=BATCH, fun=loss, *, compiled=True, **extra_args):
    """The first updates, and the state after them; not `compiled` for a base that keeps them."""
    params = parameters()

    def update(params, state):
        value_fn = lambda p: fun(p, jnp.asarray(batch, jnp.float32))  # noqa: E731 - as users do
        return optimizer.update(None, state, params, value_fn=value_fn, **extra_args)

    return (jax.jit(update) if compiled else update)(params, optimizer.init(params))


def assert_same_bits(actual, desired):
    """Plain arrays throughout: the states have no typed keys."""
    assert jax.tree.structure(actual) == jax.tree.structure(desired)
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True)
    for x, y in ((np.asarray(x), np.asarray(y)) for x, y in pairs):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)
