"""The contract of sampled methods, beyond test_contract.py, and their documented limits."""

import functools
from pathlib import Path

import device_programs
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_problem
from contract_table import TABLE, batch, loss, make, parameters
from test_contract import (
    difference,
    every_method,
    flat,
    listen,
    make_optimizer,
    one_step,
    sampled,
    sampled_by_strategy,
)

from tsam_jax import Loss, estimate_gradient, methods, noise, value_and_grad


def fun(p, x=None):
    """The loss with an auxiliary output, an array and an integer, that identifies the point."""
    return loss(p, batch()), {"mean": p["w"] * 2, "count": jnp.sum(p["w"] > 0)}


def jitted(estimator, fun):
    """Runs a step under `jit`; returns value, aux and metrics."""
    step = value_and_grad(fun, estimator, has_aux=True)
    ((value, aux), _), state = jax.jit(step)(parameters(), step.init(parameters()))
    return value, aux, state.last.metrics


@functools.cache
def means(name, s):
    """What each policy makes of the auxiliary output "mean"."""
    _, calls = listen(make(name, s=s, strategy="unrolled"), fun, has_aux=True)
    points = [point for kind, point in calls if kind == "gradient"]
    shared, evaluations = len(points) % s, len(points) // s
    noise_points = points[shared::evaluations]  # a sample evaluates its noise point first
    return {
        "first": fun(noise_points[0])[1]["mean"],
        "mean": sum(fun(point)[1]["mean"] for point in noise_points) / s,
        "clean": fun(parameters())[1]["mean"],
    }


@sampled_by_strategy
@pytest.mark.parametrize("policy", ["first", "mean", "clean"])
def test_aux_policies(name, policy, strategy):
    s = 3
    desired = means(name, s)[policy]
    _, aux, _ = jitted(make(name, aux=policy, s=s, strategy=strategy), fun)
    np.testing.assert_allclose(aux["mean"], desired, rtol=1e-6, atol=1e-6)
    assert aux["count"].dtype == jnp.int32


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("strategy", ["vectorized", "unrolled", "streamed"])
def test_the_mean_of_float64_aux_has_all_its_digits(strategy, dtype, x64):
    """Even if parameters and loss are float32."""

    def fun(x):
        return jnp.sum(x**2), jnp.exp(jnp.sum(x.astype(jnp.float64)))

    def eighths(key, x):  # so that the points are exact
        return jax.random.randint(key, x.shape, -3, 4).astype(x.dtype) / 8

    x, make = jnp.ones(4, dtype), functools.partial(methods.tsam, 7.0, 0.0, 3, noise=eighths)
    step = value_and_grad(fun, make(aux="mean", strategy=strategy), has_aux=True)
    ((_, found), _), _ = jax.jit(step)(x, step.init(x))
    of_fun = Loss(fun, has_aux=True)
    _, calls = small_problem.listen(make(strategy="unrolled"), of_fun, x)
    desired = np.mean([float(fun(point)[1]) for _, point in calls])
    np.testing.assert_allclose(found, desired, rtol=2e-15)


@sampled
@pytest.mark.parametrize("policy", ["first", "mean"])
def test_aux_of_a_sample_that_is_not_finite_is_not_used(name, policy):
    def broken(p):
        present = p["b"][0] < parameters()["b"][0]
        value, aux = fun(p)
        return jnp.where(present, value, jnp.nan), jnp.where(present, aux["mean"], jnp.nan)

    _, aux, metrics = jitted(make(name, aux=policy, s=6), broken)
    assert 0 < np.isfinite(metrics["losses"]).sum() < 6
    assert np.all(np.isfinite(aux))


@sampled
@pytest.mark.parametrize("policy", ["first", "mean"])
def test_aux_of_the_first_sample_is_not_used_if_it_is_not_finite(name, policy):
    _, calls = listen(make(name, s=3, strategy="unrolled"), fun, has_aux=True)
    points = [point for kind, point in calls if kind == "gradient"]
    start = points[len(points) % 3]["b"][0]

    def broken(p):
        present = jnp.abs(p["b"][0] - start) > 1e-6
        value, aux = fun(p)
        return jnp.where(present, value, jnp.nan), jnp.where(present, aux["mean"], jnp.nan)

    _, aux, metrics = jitted(make(name, aux=policy, s=3), broken)
    np.testing.assert_array_equal(np.isfinite(metrics["losses"]), [False, True, True])
    assert np.all(np.isfinite(aux))


@sampled
@pytest.mark.parametrize("strategy", ["vectorized", "streamed"])
def test_strategies_agree(name, strategy):
    results = [one_step(name, strategy=x) for x in (strategy, "auto")]
    (params, state), (desired, desired_state) = results
    np.testing.assert_allclose(flat(params), flat(desired), rtol=2e-6)
    last, desired_last = (x[0].last for x in (state, desired_state))
    np.testing.assert_allclose(last.metrics["losses"], desired_last.metrics["losses"], rtol=2e-6)
    np.testing.assert_allclose(flat(last), flat(desired_last), rtol=1e-5)


@sampled
def test_vmap_over_tilts_and_keys(name):
    def estimate(t, key):
        estimator = make(name, t=t, **({"delta": 0.0} if "delta" in TABLE[name].numbers else {}))
        step = value_and_grad(lambda p: loss(p, batch()), estimator, key=key)
        return step(parameters(), step.init(parameters()))[0]

    tilts, keys = jnp.array([0.0, 3.0, jnp.inf]), jax.random.split(jax.random.key(1), 3)
    mapped = jax.jit(jax.vmap(estimate))(tilts, keys)
    single = jax.jit(estimate)
    one_by_one = [single(t, key) for t, key in zip(tilts, keys, strict=True)]
    desired = jax.tree.map(lambda *x: jnp.stack(x), *one_by_one)
    np.testing.assert_allclose(flat(mapped), flat(desired), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_updates_and_state_keep_their_sharding():
    program = Path(__file__).parent / "sharding_program.py"
    assert device_programs.run(program) == list(methods.METHODS)


@every_method
def test_what_comes_before_the_estimator_is_discarded(name):
    """Documented: clipping and similar transformations come after it."""
    plain = estimate_gradient(make(name))
    params = parameters()

    def gradient(optimizer):
        return optimizer.update(
            params, optimizer.init(params), params, value_fn=lambda p: loss(p, batch())
        )[0]

    before = gradient(optax.chain(optax.clip_by_global_norm(1e-3), plain))
    np.testing.assert_array_equal(flat(before), flat(gradient(plain)))
    behind = gradient(optax.chain(plain, optax.clip_by_global_norm(1e-3)))
    np.testing.assert_allclose(np.linalg.norm(flat(behind)), 1e-3, rtol=1e-5)


@every_method
def test_multi_steps_sees_only_the_last_micro_batch(name):
    """Documented: accumulate inside `value_fn` instead."""
    optimizer = optax.MultiSteps(make_optimizer(make(name), optax.sgd(1.0)), 2)
    params = parameters()
    state = optimizer.init(params)

    @jax.jit
    def update(state, x):
        return optimizer.update(params, state, params, value_fn=lambda p: loss(p, x))

    for k in range(2):
        updates, state = update(state, batch(k))
    last, _ = listen(make(name), lambda p, x: loss(p, batch(1)))
    assert difference(updates, jax.tree.map(jnp.negative, last.grad)) < 1e-5
    inside, _ = listen(make(name), lambda p, x: (loss(p, batch(0)) + loss(p, batch(1))) / 2)
    assert difference(inside.grad, last.grad) > 1e-2


@every_method
def test_value_and_grad_has_the_signature_of_jax(name):
    def with_more(p, x, *, scale, offset=0.0):
        return scale * loss(p, x) + offset, jnp.float32(7)

    estimator, params = make(name), parameters()
    both = value_and_grad(with_more, estimator, has_aux=True)
    plain = value_and_grad(loss, estimator)
    state = both.init(params)
    ((value, aux), grads), after = both(params, state, batch(), scale=1.0, offset=2.0)
    (plain_value, plain_grads), _ = plain(params, state, batch())
    np.testing.assert_allclose(value, plain_value + 2.0, rtol=1e-6)
    np.testing.assert_allclose(flat(grads), flat(plain_grads), rtol=1e-4, atol=1e-5)
    assert aux == 7
    assert jax.tree.structure(after) == jax.tree.structure(state)


@every_method
def test_flat_and_nested_parameters(name):
    for params in (
        2.0,
        np.ones(3),
        jnp.ones(3),
        (jnp.ones(2), [jnp.ones(()), {"x": jnp.ones((1, 1))}], None),
    ):
        square = lambda p: sum(jnp.sum(x**2) for x in jax.tree.leaves(p))  # noqa: E731
        step = value_and_grad(square, make(name))
        (value, grad), _ = step(params, step.init(params))
        assert jax.tree.structure(grad) == jax.tree.structure(params)
        assert jnp.isfinite(value)


def test_the_user_law_is_called_once_a_sample_in_order():
    calls = []

    def law(key, params):
        calls.append(key)
        return jax.tree.map(jnp.zeros_like, params)

    listen(methods.tsam(1.0, 0.1, 4, noise=law, strategy="unrolled"), key=9)
    desired = jax.random.split(jax.random.fold_in(jax.random.key(9), 0), 4)
    np.testing.assert_array_equal(
        jax.random.key_data(jnp.stack(calls)), jax.random.key_data(desired)
    )


def test_frozen_noise_law_is_seen_only_by_the_masked_leaves():
    seen = []

    def law(key, params):
        seen.append(params)
        return noise.none(key, params)

    listen(methods.tsam(1.0, 0.1, 1, noise=law, mask={"w": True, "b": False}))
    assert seen[0]["b"] is None
    assert seen[0]["w"] is not None


def test_every_sampled_method_is_marked():
    for name, row in TABLE.items():
        _, metrics = make(name).init(parameters())
        assert row.sampled == ("weights" in metrics)
