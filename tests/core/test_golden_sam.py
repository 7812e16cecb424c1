"""SAM against davda54/sam and optax.contrib.sam: tests/data/golden/README.md."""

import golden_records
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_records import STEPS, relative_error

import tsam_jax
from tsam_jax import methods

NAMES = golden_records.names("davda54_sam", "optax_sam")


def make_sam(meta):
    """`sam` as the peer ran it: `sync_period` counts the ascent steps, of rho each, plus one."""
    steps = meta.get("sync_period", 2) - 1
    return methods.sam(rho=steps * meta["rho"], steps=steps)


def run(record, dtype):
    """Three steps by both adapters; losses (T,), gradients and parameters (T, ...)."""
    meta, sam = record.meta, make_sam(record.meta)
    optimizer = optax.chain(
        tsam_jax.estimate_gradient(sam), optax.sgd(meta["lr"], meta["momentum"])
    )

    def cast(tree):
        return jax.tree.map(lambda x: jnp.asarray(x, dtype if x.dtype.kind == "f" else None), tree)

    params, data = cast((record.init, record.data))
    loss = golden_records.make_loss(meta["problem"], data, jnp.zeros((), dtype))

    @jax.jit
    def step(params, sam_state, state):
        (value, grad), sam_state = tsam_jax.value_and_grad(loss, sam)(params, sam_state)
        updates, state = optimizer.update(params, state, params, value_fn=loss)
        params = optax.apply_updates(params, updates)
        output = {"loss": value, "final_grad": grad, "params": params}
        return params, sam_state, state, output

    states, outputs = (sam.init(params), optimizer.init(params)), []
    for _ in range(STEPS):
        params, *states, output = step(params, *states)
        np.testing.assert_array_equal(states[1][0].value, output["loss"])
        outputs.append(output)
    return jax.tree.map(lambda *x: np.stack(x), *outputs)


def check(name, dtype, tolerance):
    record = golden_records.load(name)
    actual = run(record, dtype)
    assert {x.dtype for x in jax.tree.leaves(actual)} == {np.dtype(dtype)}
    last_loss = record.arrays["eval_loss"][:, -1]
    assert relative_error(actual["loss"], last_loss) < tolerance
    assert relative_error(actual["final_grad"], record.arrays["final_grad"]) < tolerance
    assert relative_error(actual["params"], record.arrays["params"]) < tolerance


def test_all_records_are_covered():
    assert len(NAMES) == 4 + 6


@pytest.mark.parametrize("name", NAMES)
def test_float64(name, x64):
    check(name, jnp.float64, 1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_float32(name):
    check(name, jnp.float32, 1e-5)
