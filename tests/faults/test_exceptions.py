"""An exception in the loss leaves parameters and state as they were, ready for the next step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_table import batch, loss, make, parameters

from tsam_jax import estimate_gradient


class Broken(Exception):
    """What the loss of these tests raises."""


def copy(tree):
    return jax.tree.map(jnp.copy, tree)


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def started(name, fun):
    """A step of a method, and where it starts."""
    optimizer = optax.chain(estimate_gradient(make(name)), optax.sgd(0.01, momentum=0.9))

    def step(params, state, x):
        updates, state = optimizer.update(None, state, params, value_fn=lambda p: fun(p, x))
        return optax.apply_updates(params, updates), state

    params = parameters()
    return step, params, optimizer.init(params)


@pytest.mark.parametrize("name", ["sam", "tsam", "vasso"])
def test_an_exception_in_an_evaluation(name):
    calls, fails_at = [], None

    def fun(p, x):
        calls.append(1)
        if len(calls) == fails_at:
            raise Broken
        return loss(p, x)

    step, params, state = started(name, fun)
    desired = step(params, state, batch())
    before = copy((params, state))
    for fails_at in 1, len(calls):  # noqa: B007 - `fun` reads it
        calls.clear()
        with pytest.raises(Broken):
            step(params, state, batch())
    fails_at = None
    assert_same((params, state), before)
    assert_same(step(params, state, batch()), desired)


@pytest.mark.parametrize("name", ["tsam", "looksam"])
def test_an_exception_while_tracing(name):
    calls, fails = [], True

    def fun(p, x):
        calls.append(1)
        if fails and len(calls) == 2:
            raise Broken
        return loss(p, x)

    step, params, state = started(name, fun)
    run, before = jax.jit(step), copy((params, state))
    with jax.checking_leaks(), pytest.raises(Broken):
        run(params, state, batch())
    assert_same((params, state), before)
    fails = False
    after = run(params, state, batch())
    assert_same(after, jax.jit(started(name, loss)[0])(params, state, batch()))


@pytest.mark.parametrize("name", ["sam", "vasso"])
@pytest.mark.parametrize("donate", [(), (0, 1)])
def test_an_exception_in_a_host_callback_while_running(name, donate):
    fails = []

    def host(x):
        if fails:
            raise Broken
        return x

    def fun(p, x):
        return loss(p, jax.pure_callback(host, jax.ShapeDtypeStruct(x.shape, x.dtype), x))

    step, params, state = started(name, fun)
    run = jax.jit(step, donate_argnums=donate)
    kept = copy((params, state))
    desired = jax.block_until_ready(run(*copy(kept), batch()))
    fails.append(1)
    with pytest.raises((jax.errors.JaxRuntimeError, ValueError), match="Broken"):  # where it runs
        jax.block_until_ready(run(params, state, batch()))
    fails.clear()
    if donate:  # what was donated is gone, whatever becomes of the step: keep a copy
        assert params["w"].is_deleted()
        params, state = kept
    assert_same((params, state), kept)
    assert_same(run(params, state, batch()), desired)
