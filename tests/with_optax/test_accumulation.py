"""Gradient accumulation: `microbatched`, `m_sam`, and `optax.MultiSteps` inside and around."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bowl import BATCH, START, assert_same_bits, flat, loss, make_step, parameters, sam_gradient

from tsam_jax import Loss, methods, noise, sharpness_aware, value_and_grad

RHO = 0.3
TO_AND_FRO = noise.antithetic(lambda key, params: jax.tree.map(lambda x: 0.1 + 0 * x, params))
PARTS = BATCH[:2], BATCH[2:]
strategies = pytest.mark.parametrize("strategy", ["vectorized", "unrolled", "streamed"])


def feed(optimizer):
    """How far the parameters are from where they were, after each of the two micro-batches."""
    step, params = make_step(optimizer), parameters()
    state, moved = optimizer.init(params), []
    for part in PARTS:
        params, state = step(params, state, part)
        moved.append(flat(params) - START)
    return moved


def test_multi_steps_around_takes_the_last_micro_batch_alone():
    """It passes on the mean of gradients that nobody reads, and fails where there are none."""
    around = optax.MultiSteps(sharpness_aware(optax.sgd(1.0), methods.sam(RHO)), 2)
    params = parameters()
    state, moved = around.init(params), []
    for part in PARTS:
        updates, state = around.update(params, state, params, value_fn=loss, batch=part)
        params = optax.apply_updates(params, updates)
        moved.append(flat(params) - START)
    first, second = moved
    np.testing.assert_array_equal(first, 0)
    of_parts = [sam_gradient(START, part, RHO) for part in PARTS]
    np.testing.assert_allclose(second, -of_parts[1], rtol=1e-5)
    assert np.abs(np.mean(of_parts, axis=0) - of_parts[1]).max() > 0.5
    assert np.abs(sam_gradient(START, BATCH, RHO) - of_parts[1]).max() > 0.5
    with pytest.raises(ValueError, match=r"pytree structure error|Expected"):
        around.update(None, state, params, value_fn=loss, batch=BATCH)


def test_multi_steps_inside_is_m_sam_over_steps():
    first, second = feed(sharpness_aware(optax.MultiSteps(optax.sgd(1.0), 2), methods.sam(RHO)))
    np.testing.assert_array_equal(first, 0)
    of_parts = [sam_gradient(START, part, RHO) for part in PARTS]
    np.testing.assert_allclose(second, -np.mean(of_parts, axis=0), rtol=1e-5)
    at_once = methods.m_sam(methods.sam(RHO), 2)
    params, step = parameters(), value_and_grad(loss, at_once)
    (_, grad), _ = step(params, step.init(params), jnp.asarray(BATCH))
    np.testing.assert_allclose(second, -flat(grad), rtol=1e-5)


def net(params, batch):
    """Not quadratic, so that the ascents of parts differ from that of the whole."""
    features = jnp.tanh(batch @ params["w"])
    loss = jnp.mean((features @ params["v"] - jnp.sum(batch, axis=1)) ** 2)
    return loss, {"mean": jnp.mean(features), "first": batch[0, 0] > 0}


def net_parameters():
    return {"w": jnp.linspace(-0.6, 0.9, 12).reshape(3, 4), "v": jnp.linspace(-1.0, 1.0, 4)}


def net_batch(step):
    return jax.random.normal(jax.random.key(step), (12, 3))


def sampled(strategy):
    return methods.tsam(3.0, RHO, 2, noise=TO_AND_FRO, strategy=strategy, aux="clean")


INNER = {
    "sam": methods.sam(RHO),
    "vasso": methods.vasso(RHO, 0.4),
    "tsam": sampled("unrolled"),
}


def run(estimator, steps=2):
    step = value_and_grad(net, estimator, has_aux=True)
    params, compiled = net_parameters(), jax.jit(step)
    state, results = step.init(params), []
    for k in range(steps):
        ((value, aux), grad), state = compiled(params, state, net_batch(k))
        results.append((value, aux["mean"], grad))
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grad)
    return results, state


def differences(a, b):
    """The largest one of what is floating point."""
    pairs = zip(*map(jax.tree.leaves, (a, b)), strict=True)
    floating = [(x, y) for x, y in pairs if jnp.issubdtype(x.dtype, jnp.floating)]
    return max((float(jnp.abs(x - y).max()) for x, y in floating), default=0.0)


@functools.cache
def whole(name):
    return run(INNER[name])


@pytest.mark.parametrize("name", INNER)
def test_microbatched_is_the_full_batch(name):
    estimator = methods.microbatched(INNER[name], 4, strategy="streamed")
    assert differences(run(estimator), whole(name)) < 5e-6
    assert estimator.cost == INNER[name].cost


@pytest.mark.parametrize("of_samples", ["vectorized", "streamed"])
def test_microbatched_under_every_strategy_of_the_samples(of_samples):
    estimator = methods.microbatched(sampled(of_samples), 4, strategy="streamed")
    assert differences(run(estimator), whole("tsam")) < 5e-6


def test_the_dual_of_m_sam_and_both_nestings():
    sam = methods.sam(RHO)
    of_six = run(methods.m_sam(sam, 6))
    assert differences(of_six, whole("sam")) > 1e-2
    for nested in (
        methods.m_sam(methods.microbatched(sam, 2), 6),
        methods.microbatched(methods.m_sam(sam, 6), 2),
    ):
        assert differences(run(nested), of_six) < 5e-6


@strategies
def test_one_micro_batch_is_the_inner_estimator_bitwise(strategy):
    sam = methods.sam(RHO)
    assert_same_bits(run(methods.microbatched(sam, 12, strategy=strategy)), whole("sam"))


@strategies
def test_micro_batches_are_in_order_and_what_has_no_mean_is_that_of_the_first(strategy):
    estimator = methods.microbatched(methods.erm(), 2, batch="x", strategy=strategy)
    w, x = jnp.float32(2.0), jnp.arange(6.0)
    fun = lambda w, x: (w * jnp.mean(x), (jnp.max(x), jnp.int32(x[0])))  # noqa: E731
    step = value_and_grad(fun, estimator, has_aux=True)
    ((value, aux), grad), _ = jax.jit(step)(w, step.init(w), x)
    assert (value, grad, *aux) == (5.0, 2.5, 3.0, 0)  # maxima 1, 3 and 5
    assert aux[1].dtype == jnp.int32


@pytest.mark.parametrize(
    ("strategy", "n"), [("vectorized", 512), ("unrolled", 64), ("streamed", 512)]
)
def test_bfloat16_is_summed_in_float32(strategy, n):
    """A mean of 64 in bfloat16, updated one by one, would be 0.9 % off."""
    estimator = methods.microbatched(methods.erm(), 1, batch=1, strategy=strategy)
    w, x = jnp.bfloat16(1.0), jnp.array([1.0] + [2.0**-9] * (n - 1), jnp.bfloat16)
    step = value_and_grad(lambda w, x: jnp.sum(w * x), estimator)
    (value, grad), _ = jax.jit(step)(w, step.init(w), x)
    assert (value.dtype, grad.dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_allclose(n * float(value), 1 + (n - 1) / 512, rtol=1e-6)
    np.testing.assert_allclose(n * float(grad), 1 + (n - 1) / 512, rtol=2**-8)


def test_the_memory_is_that_of_one_micro_batch():
    wide = {"w": jnp.zeros((3, 2000)), "v": jnp.zeros(2000)}
    batch = jnp.zeros((512, 3))

    def temporary(estimator):
        step = value_and_grad(lambda p, batch: net(p, batch)[0], estimator)
        compiled = jax.jit(step).lower(wide, step.init(wide), batch).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    sam = methods.sam(RHO)
    whole, parts = temporary(sam), temporary(methods.microbatched(sam, 8, strategy="streamed"))
    assert whole > 512 * 2000 * 4  # the activations
    assert parts < whole / 20


def test_what_cannot_be_split_is_a_clear_error():
    estimator, w = methods.microbatched(methods.sam(RHO), 4), jnp.ones(2)
    step = {"step": jnp.int32(0), "key": jax.random.key(0)}
    message = r"`batch='batch'` \(of `m_sam` and `microbatched`.*the parameters only.*value_fn=loss"
    with pytest.raises(TypeError, match=message):
        estimator.estimate(Loss(jnp.sum), w, (), **step)
    loss = Loss(lambda w, batch: jnp.sum(w), (jnp.ones(6),))
    with pytest.raises(ValueError, match=r"`microbatched\(m=...\)` must divide the size of.*6.*4"):
        estimator.estimate(loss, w, (), **step)
    with pytest.raises(ValueError, match=r"`microbatched\(m=...\)` must be a positive integer"):
        methods.microbatched(methods.sam(RHO), 0)
    with pytest.raises(ValueError, match=r"`microbatched\(strategy=...\)` must be one of 'auto'"):
        methods.microbatched(methods.sam(RHO), 2, strategy="scan")


def test_a_micro_batch_of_m_sam_inside_is_evaluated_in_parts():
    """Else it would need more memory than m examples do."""
    sizes = []

    def recorded(params, batch):
        sizes.append(len(batch))
        return net(params, batch)[0]

    estimator = methods.microbatched(methods.m_sam(methods.sam(RHO), 6), 2)
    step, params = value_and_grad(recorded, estimator), net_parameters()
    jax.eval_shape(step, params, step.init(params), net_batch(0))
    assert set(sizes) == {2}
