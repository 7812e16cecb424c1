"""Before, after and around an estimator in optax's combinators, by numbers made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bowl import (
    BATCH,
    START,
    climbed,
    flat,
    gradient,
    loss,
    make_step,
    one_update,
    parameters,
    sam_gradient,
    value,
)

from tsam_jax import Loss, estimate_gradient, methods, noise, sharpness_aware, tsam

RHO = 0.3
SAM = methods.sam(RHO)
FIRST = sam_gradient(START, BATCH, RHO)  # its norm is 11
ONLY_W = {"w": True, "b": False}
LABELS = {"w": "weights", "b": "biases"}


def close(tree, desired):
    np.testing.assert_allclose(flat(tree), desired, rtol=2e-5)


def test_what_stands_before_the_estimator_is_discarded():
    """Whatever it gets: None, or the gradients of a loop that computes them for nothing."""
    optimizer, params = (
        optax.chain(optax.clip_by_global_norm(1.0), estimate_gradient(SAM)),
        parameters(),
    )
    for incoming in (None, params):
        updates, _ = optimizer.update(
            incoming, optimizer.init(params), params, value_fn=loss, batch=BATCH
        )
        close(updates, FIRST)
        assert optax.tree.norm(updates) > 10


def test_clipping_after_the_estimator_clips_the_descent():
    updates, _ = one_update(sharpness_aware(optax.clip_by_global_norm(1.0), SAM))
    close(updates, FIRST / np.linalg.norm(FIRST))


def test_weight_decay_belongs_to_the_base_and_takes_no_part_in_the_ascent():
    base = optax.chain(optax.add_decayed_weights(0.2), optax.sgd(0.1))
    close(one_update(sharpness_aware(base, SAM))[0], -0.1 * (FIRST + 0.2 * START))


def test_named_chain():
    optimizer = optax.named_chain(
        ("sharpness", estimate_gradient(SAM)), ("descent", optax.sgd(0.1, momentum=0.9))
    )
    updates, state = one_update(optimizer)
    close(updates, -0.1 * FIRST)
    desired = value(climbed(START, BATCH, RHO), BATCH)
    np.testing.assert_allclose(state["sharpness"].last.value, desired, rtol=1e-6)
    close(state["descent"][0].trace, FIRST)


def test_masked_in_the_base():
    decay = optax.masked(optax.add_decayed_weights(0.2), ONLY_W)
    updates, _ = one_update(sharpness_aware(optax.chain(decay, optax.sgd(0.1)), SAM))
    close(updates, -0.1 * (FIRST + 0.2 * START * [1, 1, 0]))


@pytest.mark.parametrize("partition", [optax.partition, optax.multi_transform])
def test_partition_as_the_base(partition):
    base = partition({"weights": optax.sgd(0.1), "biases": optax.sgd(1.0)}, LABELS)
    close(one_update(sharpness_aware(base, SAM))[0], -FIRST * [0.1, 0.1, 1.0])


def test_frozen_leaves_are_set_to_zero_by_the_base_and_masked_in_the_method():
    base = optax.partition({"weights": optax.sgd(0.1), "biases": optax.set_to_zero()}, LABELS)
    updates, _ = one_update(sharpness_aware(base, methods.sam(RHO, mask=ONLY_W)))
    desired = gradient(climbed(START, BATCH, RHO, perturbed=(1, 1, 0)), BATCH)
    close(updates, -0.1 * desired * [1, 1, 0])


@pytest.mark.parametrize(
    "optimizer", [sharpness_aware(optax.sgd(0.1), SAM), estimate_gradient(SAM)]
)
def test_an_estimator_that_is_shown_a_part_of_the_parameters_is_an_error(optimizer):
    """The loss would meet a hole, or, if it sums over leaves, silently leave some out."""
    around = {
        "masked": optax.masked(optimizer, ONLY_W),
        "partition": optax.partition({"weights": optimizer, "biases": optax.sgd(1.0)}, LABELS),
    }
    for wrapped in around.values():
        with pytest.raises(ValueError, match=r"`params` must be all parameters.*Put these into"):
            wrapped.init(parameters())
    everywhere = optax.partition({"all": optimizer}, "all")
    close(one_update(everywhere)[0], flat(one_update(optimizer)[0]))


def test_apply_if_finite_in_the_base_skips_the_step():
    base = optax.apply_if_finite(optax.sgd(0.1, momentum=0.9), max_consecutive_errors=5)
    optimizer = sharpness_aware(base, SAM)
    step, params = make_step(optimizer), parameters()
    state = optimizer.init(params)
    for batch in (BATCH, np.nan * BATCH, BATCH):
        params, state = step(params, state, batch)
    x, velocity = START, 0.0
    for _ in range(2):
        velocity = 0.9 * velocity + sam_gradient(x, BATCH, RHO)
        x = x - 0.1 * velocity
    close(params, x)
    assert (state[1].total_notfinite, state[0].step) == (1, 3)


def test_apply_if_finite_around_sees_only_the_gradient_that_is_discarded():
    around = optax.apply_if_finite(sharpness_aware(optax.sgd(0.1), SAM), max_consecutive_errors=5)
    params = parameters()
    state = around.init(params)
    arguments = {"value_fn": loss, "batch": jnp.asarray(np.nan * BATCH, jnp.float32)}
    updates, after = around.update(params, state, params, **arguments)
    assert np.all(np.isnan(flat(updates)))
    assert after.total_notfinite == 0
    with pytest.raises(TypeError, match="same pytree structure"):  # zeros like None
        around.update(None, state, params, **arguments)


def test_lookahead_in_the_base():
    """Its parameters are a pair, of which the loss, and so the ascent, sees `fast`."""
    take_fast = optax.stateless(lambda updates, params: updates.fast)
    base = optax.chain(take_fast, optax.lookahead(optax.sgd(0.1), 2, slow_step_size=0.5))
    optimizer = sharpness_aware(base, SAM)
    params = optax.LookaheadParams.init_synced(parameters())
    step = make_step(optimizer, lambda params, batch: loss(params.fast, batch))
    state = optimizer.init(params)
    for _ in range(3):
        params, state = step(params, state, BATCH)
    slow = fast = START
    for k in range(3):
        fast = fast - 0.1 * sam_gradient(fast, BATCH, RHO)
        if k == 1:
            slow = fast = slow + 0.5 * (fast - slow)
    close(params.fast, fast)
    close(params.slow, slow)


def test_lookahead_around_is_an_error_since_it_takes_no_value_fn():
    optimizer = optax.lookahead(sharpness_aware(optax.sgd(0.1), SAM), 2, slow_step_size=0.5)
    params = optax.LookaheadParams.init_synced(parameters())
    state = optimizer.init(params)
    with pytest.raises(TypeError, match="value_fn"):
        optimizer.update(None, state, params, value_fn=lambda p: loss(p, BATCH))


def test_one_call_is_one_step_and_no_step_is_undone():
    """optax.contrib.sam(sync_period=1) went .8, .84, .632 on x^2: google-deepmind/optax#1788."""
    optimizer = sharpness_aware(optax.adam(0.1), SAM)  # a count of its own
    x, state = jnp.float32(1.0), optimizer.init(jnp.float32(1.0))
    plain = sharpness_aware(optax.sgd(0.1), methods.sam(0.01))
    y, plain_state, points = x, plain.init(x), []
    for _ in range(3):
        _, state = optimizer.update(None, state, x, value_fn=jnp.square)
        updates, plain_state = plain.update(None, plain_state, y, value_fn=jnp.square)
        y = optax.apply_updates(y, updates)
        points.append(float(y))
    # 0.8 x - 0.002 each
    np.testing.assert_allclose(points, [0.798, 0.6364, 0.50712], rtol=1e-5)
    assert (state[0].step, state[1][0].count) == (3, 3)


def test_a_zero_gradient_is_a_zero_update():
    """It was NaN in optax.contrib.sam: google-deepmind/optax#1743."""
    optimizer = tsam(optax.sgd(0.1), 1.0, RHO, 2, noise=noise.none)
    updates, _ = one_update(optimizer, fun=lambda params, batch: 0.0 * loss(params, batch))
    close(updates, np.zeros(3))


@pytest.mark.filterwarnings("ignore::tsam_jax.HalfPrecisionWarning")
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float32])
def test_the_scale_of_the_loss_does_not_change_the_ascent(dtype):
    """Loss scaling: the squares of these gradients are beyond the range of float16."""
    scale, params = 256.0, parameters(dtype)
    assert np.max(scale * np.abs(FIRST)) ** 2 > np.finfo(np.float16).max
    optimizer = sharpness_aware(optax.scale(1 / scale), SAM)

    @jax.jit
    def updates(params, factor):
        value_fn = lambda p: factor.astype(dtype) * loss(p, jnp.asarray(BATCH, dtype))  # noqa: E731
        return optimizer.update(None, optimizer.init(params), params, value_fn=value_fn)[0]

    scaled, plain = updates(params, jnp.float32(scale)), updates(params, jnp.float32(1.0))
    assert scaled["w"].dtype == dtype
    np.testing.assert_allclose(flat(scaled), FIRST, rtol=5e-3)
    if dtype == jnp.float32:  # powers of two round alike
        np.testing.assert_array_equal(flat(scaled), flat(plain) * scale)


def test_tree_map_params_finds_the_moments():
    """As users do who shard, cast or reset what is shaped like the parameters."""
    optimizer = sharpness_aware(optax.adam(0.1), methods.tsam(1.0, RHO, 2))
    state = optimizer.init(parameters())
    counted = []
    after = optax.tree_map_params(optimizer, lambda x: counted.append(1) or x + 1, state)
    assert len(counted) == 4  # two moments of two leaves
    close(after[1][0].mu, np.ones(3))
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_clipping_of_every_probe():
    """The recipe of the guide: a loss whose gradients are clipped, between method and loss."""
    clip = optax.clip_by_global_norm(5.0)

    class Clipped(Loss):
        def __call__(self, params):
            evaluation = super().__call__(params)
            grad, _ = clip.update(evaluation.grad, clip.init(params))
            return evaluation._replace(grad=grad)

    def clipped(estimator):
        def estimate(loss, params, memory, *, step, key):
            loss = Clipped(loss.fun, loss.args, loss.kwargs)
            return estimator.estimate(loss, params, memory, step=step, key=key)

        return estimator._replace(estimate=estimate)

    sampled = methods.tilted_sampling(0.0, 2, noise=noise.gaussian(rms=1.0))
    params = parameters()
    keys = jax.random.split(jax.random.fold_in(jax.random.key(1), 0), 2)
    law, grads = noise.gaussian(rms=1.0), []
    for key in keys:
        grad = gradient(START + flat(law(key, params)), BATCH)
        grads.append(grad * min(1.0, 5.0 / np.linalg.norm(grad)))
    updates, _ = one_update(estimate_gradient(clipped(sampled), key=1))
    close(updates, np.mean(grads, axis=0))
    updates, _ = one_update(estimate_gradient(clipped(SAM)))
    close(updates, FIRST * 5.0 / np.linalg.norm(FIRST))
