"""F-SAM and XSAM against their authors' code, R-SAM in part: tests/data/golden/README.md."""

import golden_records
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_records import STEPS, relative_error

import tsam_jax
from tsam_jax import methods

FSAM = golden_records.names("fsam")
PO_FSAM = golden_records.names("po_fsam")


def cast(tree, dtype):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype if x.dtype.kind == "f" else None), tree)


def make_loss(record, dtype=jnp.float64):
    data = record.data | ({"c": np.float64(record.meta["c"])} if "c" in record.meta else {})
    return golden_records.make_loss(record.meta["problem"], cast(data, dtype), jnp.zeros((), dtype))


def run(record, estimator, dtype):
    """Three steps by both adapters: losses, gradients, parameters and states, (T, ...)."""
    meta, loss = record.meta, make_loss(record, dtype)
    optimizer = optax.chain(
        tsam_jax.estimate_gradient(estimator), optax.sgd(meta["lr"], meta["momentum"])
    )

    @jax.jit
    def step(params, inner, state):
        (value, grad), inner = tsam_jax.value_and_grad(loss, estimator)(params, inner)
        updates, state = optimizer.update(params, state, params, value_fn=loss)
        params = optax.apply_updates(params, updates)
        output = {"loss": value, "final_grad": grad, "params": params, "state": inner}
        return params, inner, state, output

    params, outputs = cast(record.init, dtype), []
    states = (estimator.init(params), optimizer.init(params))
    for _ in range(STEPS):
        params, *states, output = step(params, *states)
        np.testing.assert_array_equal(states[1][0].value, output["loss"])
        outputs.append(output)
    actual = jax.tree.map(lambda *x: np.stack(x), *outputs)
    assert {x.dtype for x in jax.tree.leaves(actual)} == {np.dtype(dtype), np.dtype(np.int32)}
    return actual


def check(actual, record, tolerance, upto=STEPS):
    arrays = record.arrays
    desired = {name: arrays[name] for name in ("final_grad", "params")}
    desired["loss"] = arrays["eval_loss"][:, -1]
    for name, array in desired.items():
        a, d = jax.tree.map(lambda x: x[:upto], (actual[name], array))
        assert relative_error(a, d) < tolerance, name


def make_fsam(meta):
    return methods.fsam(meta["rho"], meta["sigma"], meta["lmbda"])


def test_all_records_are_covered():
    assert (len(FSAM), len(PO_FSAM)) == (2, 2)


@pytest.mark.parametrize("name", FSAM)
def test_fsam_float64(name, x64):
    record = golden_records.load(name)
    actual = run(record, make_fsam(record.meta), jnp.float64)
    check(actual, record, 1e-10)
    assert relative_error(actual["state"].average, record.arrays["fsam_momentum"]) < 1e-10


@pytest.mark.parametrize("name", FSAM)
def test_fsam_float32(name):
    record = golden_records.load(name)
    check(run(record, make_fsam(record.meta), jnp.float32), record, 1e-5)


def follow_fsam(record, fed_to_the_average):
    """F-SAM line by line: gradients (T, ...), averages (T, ...)."""
    meta, gradient = record.meta, jax.jit(jax.grad(make_loss(record)))
    params, average, velocity, outputs = record.init, None, None, []
    for _ in range(STEPS):
        g = gradient(params)
        if average is None:
            d = average = g
        else:
            d = jax.tree.map(lambda g, m: g - meta["sigma"] * m, g, average)
            average = jax.tree.map(
                lambda m, x: meta["lmbda"] * m + (1 - meta["lmbda"]) * x,
                average,
                {"g": g, "d": d}[fed_to_the_average],
            )
        length = np.sqrt(sum(np.sum(np.square(x)) for x in d.values()))
        final = gradient({k: params[k] + meta["rho"] * d[k] / length for k in d})
        outputs.append({"final_grad": final, "average": average})
        if velocity is None:
            velocity = final
        else:
            velocity = jax.tree.map(lambda v, f: meta["momentum"] * v + f, velocity, final)
        params = jax.tree.map(lambda p, v: p - meta["lr"] * v, params, velocity)
    return jax.tree.map(lambda *x: np.stack(x), *outputs)


@pytest.mark.parametrize("name", PO_FSAM)
def test_fsam_of_pytorch_optimizer_feeds_its_average_with_another_gradient(name, x64):
    record = golden_records.load(name)
    theirs = follow_fsam(record, "d")
    assert relative_error(theirs["final_grad"], record.arrays["final_grad"]) < 1e-10
    assert relative_error(theirs["average"], record.arrays["fsam_momentum"]) < 1e-10

    actual, desired = run(record, make_fsam(record.meta), jnp.float64), follow_fsam(record, "g")
    assert relative_error(actual["final_grad"], desired["final_grad"]) < 1e-10
    assert relative_error(actual["state"].average, desired["average"]) < 1e-10
    check(actual, record, 1e-10, upto=2)
    last, peers_last = jax.tree.map(
        lambda x: x[2], (actual["final_grad"], record.arrays["final_grad"])
    )
    assert relative_error(last, peers_last) > 1e-3
