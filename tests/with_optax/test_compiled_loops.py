"""Whole training loops: scanned, vmapped over runs, compiled ahead of time, and resumed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from bowl import BATCH, assert_same_bits, flat, loss, make_step, parameters

from tsam_jax import methods, noise, sharpness_aware

STEPS = 4
BATCHES = jnp.asarray(np.stack([BATCH * (1 + 0.2 * k) for k in range(STEPS)]), jnp.float32)
LAW = noise.gaussian(rms=0.3)


def make_optimizer(t=2.0, rho=0.3, key=0):
    estimator = methods.tsam(t, rho, 2, noise=LAW, strategy="unrolled")
    return sharpness_aware(optax.adamw(0.1), estimator, key=key)


OPTIMIZER = make_optimizer()
STEP = make_step(OPTIMIZER)


def train(optimizer, params):
    def step(carry, batch):
        params, state = carry
        updates, state = optimizer.update(None, state, params, value_fn=loss, batch=batch)
        return (optax.apply_updates(params, updates), state), state[0].last.value

    (params, state), values = jax.lax.scan(step, (params, optimizer.init(params)), BATCHES)
    return params, state, values


def test_a_scan_is_the_loop():
    params = parameters()
    scanned, scanned_state, values = jax.jit(lambda p: train(OPTIMIZER, p))(params)
    state, by_hand = OPTIMIZER.init(params), []
    for batch in BATCHES:
        params, state = STEP(params, state, batch)
        by_hand.append(float(state[0].last.value))
    np.testing.assert_allclose(values, by_hand, rtol=1e-5)
    np.testing.assert_allclose(flat(scanned), flat(params), rtol=1e-5)
    assert scanned_state[0].step == STEPS
    assert len(set(by_hand)) == STEPS


def test_many_runs_in_one_compilation_are_the_runs_one_by_one():
    compiled = []

    def run(t, rho, seed):
        compiled.append(1)
        params, _, values = train(make_optimizer(t, rho, jax.random.key(seed)), parameters())
        return params, values

    tilts = jnp.array([0.0, 2.0, 20.0, jnp.inf])
    lengths, seeds = jnp.array([0.1, 0.3, 0.3, 0.3]), jnp.array([0, 1, 1, 1])
    together, values = jax.jit(jax.vmap(run))(tilts, lengths, seeds)
    assert len(compiled) == 1
    one = jax.jit(run)
    for k in range(4):
        params, alone = one(tilts[k], lengths[k], seeds[k])
        np.testing.assert_allclose(values[k], alone, rtol=1e-5)
        mine = {name: leaf[k] for name, leaf in together.items()}
        np.testing.assert_allclose(flat(mine), flat(params), rtol=1e-4, atol=1e-6)
    assert len(compiled) == 2
    assert np.abs(np.diff(values[1:], axis=0)).max(axis=1).min() > 1e-3  # tilts matter


def test_compiled_ahead_of_time_with_donated_buffers():
    def step(params, state, batch):
        updates, state = OPTIMIZER.update(None, state, params, value_fn=loss, batch=batch)
        return optax.apply_updates(params, updates), state

    shapes = jax.eval_shape(lambda: (parameters(), OPTIMIZER.init(parameters()), BATCHES[0]))
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*shapes).compile()
    params = start = parameters()
    state = OPTIMIZER.init(params)
    desired, desired_state = parameters(), OPTIMIZER.init(params)
    for batch in BATCHES[:2]:
        params, state = compiled(params, state, batch)
        desired, desired_state = STEP(desired, desired_state, batch)
    assert start["w"].is_deleted()
    np.testing.assert_allclose(flat(params), flat(desired), rtol=1e-6)
    assert_same_bits(state[0].key, desired_state[0].key)


def test_a_checkpoint_goes_on_bit_for_bit(tmp_path):
    """Through orbax and back, the key included, into the shapes of a fresh optimizer."""
    params, state = parameters(), OPTIMIZER.init(parameters())
    for batch in BATCHES[:2]:
        params, state = STEP(params, state, batch)
    saved = {"params": params, "state": state}
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(2, args=ocp.args.StandardSave(saved))
        manager.wait_until_finished()
        like = jax.eval_shape(lambda: {"params": params, "state": OPTIMIZER.init(params)})
        restored = manager.restore(2, args=ocp.args.StandardRestore(like))
    assert_same_bits(restored, saved)

    def go_on(params, state):
        for batch in BATCHES[2:]:
            params, state = STEP(params, state, batch)
        return params, state

    end = go_on(**saved)
    assert_same_bits(go_on(**restored), end)
    fresh, _ = go_on(params, OPTIMIZER.init(params))
    assert np.abs(flat(fresh) - flat(end[0])).max() > 1e-3
