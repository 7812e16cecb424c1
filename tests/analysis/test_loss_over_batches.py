"""The loss of a whole data set: value, derivatives, and memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsam_jax.analysis import hvp, mean_over_batches, mean_over_sequence

X = np.asarray(jax.random.normal(jax.random.key(0), (12, 3)))
Y = np.asarray(jax.random.normal(jax.random.key(1), (12,)))
W = jnp.array([0.3, -1.0, 0.5])


def loss_fn(w, batch):
    x, y = batch
    return jnp.mean((jnp.tanh(x @ w) - y) ** 2)


def in_batches_of(size):
    return [(X[i : i + size], Y[i : i + size]) for i in range(0, len(X), size)]


def stacked(size):
    return X.reshape(-1, size, 3), Y.reshape(-1, size)


LOSSES = {
    "stacked": lambda: mean_over_batches(loss_fn, stacked(4)),
    "sequence": lambda: mean_over_sequence(loss_fn, in_batches_of(4)),
    "a smaller last batch": lambda: mean_over_sequence(loss_fn, in_batches_of(5)),
    "a single batch": lambda: mean_over_sequence(loss_fn, in_batches_of(12)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_value_gradient_and_hessian_are_those_of_all_data(name):
    whole, parts = lambda w: loss_fn(w, (X, Y)), LOSSES[name]()
    np.testing.assert_allclose(jax.jit(parts)(W), whole(W), rtol=1e-5)
    np.testing.assert_allclose(jax.jit(jax.grad(parts))(W), jax.grad(whole)(W), rtol=1e-4)
    v = jnp.array([1.0, 2.0, -1.0])
    expected = hvp(whole, W, v)
    np.testing.assert_allclose(jax.jit(lambda w: hvp(parts, w, v))(W), expected, rtol=1e-4)


def test_over_points_a_sequence_is_vmapped_one_by_one():
    parts = mean_over_sequence(loss_fn, in_batches_of(4))
    points = jnp.stack([W, 2 * W])
    expected = [loss_fn(w, (X, Y)) for w in points]
    np.testing.assert_allclose(jax.jit(jax.vmap(parts))(points), expected, rtol=1e-5)


@pytest.mark.parametrize("what", ["gradient", "product"])
def test_memory_does_not_grow_with_the_batches(what):
    def wide(w, x):
        return jnp.mean(jnp.tanh(jnp.tanh(x[:, None] * w) ** 2) ** 2)

    def temporary(count):
        def run(w, batches):
            loss = mean_over_batches(wide, batches)
            return jax.grad(loss)(w) if what == "gradient" else hvp(loss, w, w)

        arguments = jnp.ones(64), jnp.ones((count, 32))
        return jax.jit(run).lower(*arguments).compile().memory_analysis().temp_size_in_bytes

    few, many = temporary(2), temporary(200)
    activations_of_a_batch = 64 * 32 * 4
    # each batch may leave behind what has the size of the parameters, in products
    assert many - few < 200 * activations_of_a_batch / 8


def test_half_precision_losses_are_summed_in_float32():
    loss = mean_over_batches(lambda w, x: (w * x[0]).astype(jnp.bfloat16), jnp.ones((1000, 1)))
    assert loss(jnp.float32(1.0)) == 1.0


@pytest.mark.parametrize("batches", [(np.ones((2, 3)), np.ones((3, 3))), np.ones(()), []])
def test_batches_without_one_leading_axis_are_an_error(batches):
    with pytest.raises(ValueError, match=r"`mean_over_batches\(batches\)` must have one leading"):
        mean_over_batches(loss_fn, batches)


def test_no_batch_is_an_error():
    with pytest.raises(ValueError, match=r"`mean_over_sequence\(batches\)`.*got none"):
        mean_over_sequence(loss_fn, [])
