"""What the samples of a step depend on, keys and steps, and on what they do not: their order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_problem import assert_bitwise, assert_close, evaluate, loss, parameters, run

from tsam_jax import methods, noise, tilting, value_and_grad

STRATEGIES = ("unrolled", "vectorized", "streamed")

pytestmark = pytest.mark.usefixtures("fast_compile")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gradient_of_the_tilted_loss_over_all_samples(strategy):
    """Lemma 3.2: for fixed perturbations the estimate is the gradient of the tilted loss."""
    law = noise.gaussian(rms=0.3)
    estimator = methods.tilted_sampling(2.0, 4, noise=law, strategy=strategy)
    state = estimator.init(parameters())

    def tilted(params):
        keys = jax.random.split(jax.random.fold_in(state.key, 0), 4)
        points = [jax.tree.map(jnp.add, params, law(key, params)) for key in keys]
        return tilting.tilted_loss(jnp.stack([loss(p) for p in points]), 2.0)

    value, grad, _ = evaluate(estimator)
    np.testing.assert_allclose(value, tilted(parameters()), rtol=1e-6)
    assert_close(grad, jax.grad(tilted)(parameters()))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_order_of_the_samples_does_not_matter(strategy):
    table = jax.random.normal(jax.random.key(2), (4, 2, 2))
    order = jnp.array([2, 0, 3, 1])

    def estimate(table):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), 0), 4)

        def law(key, params):
            match = jnp.all(jax.random.key_data(keys) == jax.random.key_data(key), axis=1)
            return {"w": table[jnp.argmax(match)], "b": jnp.zeros(2)}

        return evaluate(methods.tsam(3.0, 0.1, 4, noise=law, strategy=strategy, key=0))

    value, grad, state = estimate(table)
    permuted_value, permuted_grad, permuted = estimate(table[order])
    np.testing.assert_allclose(permuted.weights, state.weights[order], rtol=1e-5)
    assert_close((permuted_value, permuted_grad), (value, grad))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_same_key_same_bits(strategy):
    def run(key):
        return evaluate(methods.tsam(3.0, 0.1, 3, key=key, strategy=strategy))

    value, grad, state = run(3)
    assert_bitwise(run(jax.random.key(3))[:2], (value, grad))
    assert jnp.all(run(4)[2].losses != state.losses)


@pytest.mark.parametrize("key", [3, np.int64(3), jnp.int32(3), jax.random.PRNGKey(3)])
def test_any_kind_of_key(key):
    state = methods.tsam(3.0, 0.1, 3, key=key).init(parameters())
    assert state.key == jax.random.key(3)


def test_seeds_beyond_32_bits():
    assert methods.tsam(3.0, 0.1, 3, key=2**40).init(parameters()).key == jax.random.key(2**40)


def test_steps_and_samples_draw_different_noise():
    estimator = methods.tsam(3.0, 0.0, 3, noise=noise.gaussian(rms=0.3))
    step, state, losses = jax.jit(value_and_grad(loss, estimator)), estimator.init(parameters()), []
    for _ in range(2):
        _, state = step(parameters(), state)
        losses.append(state.losses)
    assert jnp.unique(jnp.concatenate(losses)).size == 6


def test_steps_draw_different_noise_and_keys_do_too():
    fixed = lambda p: loss(parameters()) + 0.0 * loss(p) + p["w"][0, 0]  # noqa: E731
    values = {}
    for key in 0, 1:
        outputs, _ = run(methods.rsam(0.0, gamma=0.1, key=key), 2, fixed)
        values |= {(key, k): float(o[0] - o[2]["w"][0, 0]) for k, o in enumerate(outputs)}
    assert len(set(values.values())) == 4


def test_the_users_key_survives_donation():
    key = jax.random.key(3)
    estimator = methods.rsam(0.3, gamma=0.1, key=key)
    step = jax.jit(value_and_grad(loss, estimator), donate_argnums=1)
    step(parameters(), estimator.init(parameters()))
    assert not key.is_deleted()
