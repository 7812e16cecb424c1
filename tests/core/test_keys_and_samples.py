"""Samples depend on key and step, but not on their order."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_problem import (
    assert_bitwise,
    assert_close,
    evaluate,
    loss,
    one_perturbation,
    parameters,
    run,
)

from tsam_jax import (
    estimate_gradient,
    methods,
    noise,
    sharpness_aware,
    tilting,
    tsam,
    value_and_grad,
)

STRATEGIES = ("unrolled", "vectorized", "streamed")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gradient_of_the_tilted_loss_over_all_samples(strategy):
    """Lemma 3.2: for fixed perturbations the estimate is the gradient of the tilted loss."""
    law = noise.gaussian(rms=0.3)
    estimator = methods.tilted_sampling(2.0, 4, noise=law, strategy=strategy)

    def tilted(params):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), 0), 4)
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

        return evaluate(methods.tsam(3.0, 0.1, 4, noise=law, strategy=strategy))

    value, grad, state = estimate(table)
    permuted_value, permuted_grad, permuted = estimate(table[order])
    for name in "losses", "weights":
        desired = state.last.metrics[name][order]
        np.testing.assert_allclose(permuted.last.metrics[name], desired, rtol=1e-5)
    assert_close((permuted_value, permuted_grad), (value, grad))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_same_key_same_bits(strategy):
    def run(key):
        return evaluate(methods.tsam(3.0, 0.1, 3, strategy=strategy), key=key)

    value, grad, state = run(3)
    assert_bitwise(run(jax.random.key(3)), (value, grad, state))
    assert jnp.all(run(4)[2].last.metrics["losses"] != state.last.metrics["losses"])


def states(key, params=None):
    """Initial state in every adapter."""
    params, sam = parameters() if params is None else params, methods.sam(0.1)
    return (
        value_and_grad(loss, sam, key=key).init(params),
        estimate_gradient(sam, key=key).init(params),
        sharpness_aware(optax.sgd(0.1), sam, key=key).init(params)[0],
        tsam(optax.sgd(0.1), 3.0, 0.1, 3, key=key).init(params)[0],
    )


@pytest.mark.parametrize("key", [3, np.int64(3), jnp.int32(3), jax.random.PRNGKey(3)])
def test_any_kind_of_key(key):
    for state in states(key):
        assert_bitwise(state.key, jax.random.key_data(jax.random.key(3)))


@pytest.mark.parametrize("seed", [2**32 - 1, -(2**31), np.int64(7)])
def test_the_ends_of_the_range_of_seeds(seed):
    for state in states(seed):
        assert_bitwise(state.key, jax.random.key_data(jax.random.key(seed)))


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_keys_of_any_generator_draw_as_it_does(impl):
    law, key = noise.gaussian(rms=0.3), jax.random.key(3, impl=impl)
    estimator = methods.tilted_sampling(2.0, 1, noise=law)
    shifted = jax.tree.map(jnp.add, parameters(), one_perturbation(law, parameters(), key=key))
    _, grad, state = evaluate(estimator, key=key)
    assert_bitwise(state.key, jax.random.key_data(key))
    assert_close(grad, jax.grad(loss)(shifted))
    _, grad, _ = evaluate(estimator, state=state, key=key)
    later = jax.tree.map(jnp.add, parameters(), one_perturbation(law, parameters(), 1, key))
    assert_close(grad, jax.grad(loss)(later))


def test_steps_and_samples_draw_different_noise():
    step = value_and_grad(loss, methods.tsam(3.0, 0.0, 3, noise=noise.gaussian(rms=0.3)))
    state, step, losses = step.init(parameters()), jax.jit(step), []
    for _ in range(2):
        _, state = step(parameters(), state)
        losses.append(state.last.metrics["losses"])
    assert jnp.unique(jnp.concatenate(losses)).size == 6


def test_steps_draw_different_noise_and_keys_do_too():
    fixed = lambda p: loss(parameters()) + 0.0 * loss(p) + p["w"][0, 0]  # noqa: E731
    values = {}
    for key in 0, 1:
        outputs, _ = run(methods.rsam(0.0, gamma=0.1), 2, fixed, key=key)
        values |= {(key, k): float(o[0] - o[2]["w"][0, 0]) for k, o in enumerate(outputs)}
    assert len(set(values.values())) == 4


def test_the_users_key_survives_donation():
    key = jax.random.key(3)
    step = value_and_grad(loss, methods.rsam(0.3, gamma=0.1), key=key)
    jax.jit(step, donate_argnums=1)(parameters(), step.init(parameters()))
    assert not key.is_deleted()
