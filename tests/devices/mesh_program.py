"""Run on 8 devices by test_mesh.py: writes the cases in which a mesh gives one device's numbers."""

import functools
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import tsam_jax
from tsam_jax import estimate_gradient, methods, noise, tilting, value_and_grad

P = PartitionSpec
NOISE = noise.gaussian(rms=0.1)
# over which axes the batch and a matrix of parameters are placed
LAYOUTS = ((), ()), (("data",), ()), ((), (None, "data")), (("data",), (None, "data"))


@functools.cache
def data_and_sample():
    return jax.make_mesh((4, 2), ("data", "sample"), axis_types=2 * (AxisType.Auto,))


def over_samples(step, mesh=None):
    """The step on each device of the axis of the samples; other axes are left to `jit`."""
    whole = {
        "mesh": mesh or data_and_sample(),
        "in_specs": P(),
        "out_specs": P(),
        "axis_names": {"sample"},
    }
    return jax.jit(jax.shard_map(step, **whole))


GRADIENT = 64 + 8  # numbers in it

# name -> a method whose samples can be spread, by its other arguments
SPREAD = {
    "tsam": lambda **kw: methods.tsam(2.0, 0.2, 4, noise=NOISE, **kw),
    "mean": lambda **kw: methods.tsam(2.0, 0.2, 4, noise=NOISE, aux="mean", **kw),
    "worst": lambda **kw: methods.tsam(np.inf, 0.2, 4, noise=NOISE, **kw),
    "sampling": lambda **kw: methods.tilted_sampling(2.0, 4, noise=NOISE, **kw),
    "pairs": lambda **kw: methods.tsam(2.0, 0.2, 4, noise=noise.antithetic(NOISE), **kw),
    "split": lambda **kw: methods.tsam(2.0, 0.2, 4, noise=NOISE, split_batch="x", **kw),
    "still": lambda **kw: methods.tsam(2.0, 0.2, 4, noise=noise.none, split_batch="x", **kw),
    "chosen": lambda **kw: methods.tsam(tilting.AutoTilt(0.5), 0.2, 4, noise=NOISE, **kw),
    "hmc": lambda **kw: methods.tsam_hmc(2.0, 4, radius=0.5, beta=0.05, **kw),
    "masked": lambda **kw: methods.tsam(
        2.0, 0.2, 4, noise=NOISE, mask={"w": True, "b": False}, **kw
    ),
}


def loss(params, x):
    hidden = jnp.tanh(x @ params["w"] + params["b"])
    aux = {"mean": jnp.mean(hidden), "rows": jnp.int32(x.shape[0]), "key": jax.random.key(3)}
    return jnp.mean(jnp.sum((hidden - 0.3) ** 2, axis=-1)), aux


def plain_loss(params, x):
    return loss(params, x)[0]


def parameters():
    return {"w": jnp.linspace(-1.0, 1.0, 64).reshape(8, 8), "b": jnp.linspace(-0.3, 0.3, 8)}


def batch():
    return jax.random.normal(jax.random.key(7), (16, 8))


def place(mesh, x, *spec):
    return jax.device_put(x, NamedSharding(mesh, P(*spec)))


def assert_close(actual, desired, name):
    assert jax.tree.structure(actual) == jax.tree.structure(desired), name
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):  # in an aux
            assert jnp.all(a == b), name
        else:
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6, err_msg=name)


def samples_under_jit() -> None:
    """The samples over one axis, the batch over the other, and parameters sharded or not."""
    params, x = parameters(), batch()
    for name in ("tsam", "chosen", "hmc", "masked"):
        make = SPREAD[name]
        alone = value_and_grad(loss, make(), has_aux=True)
        desired = jax.jit(alone)(params, alone.init(params), x)
        for strategy in ("unrolled", "streamed") if name == "tsam" else ("auto",):
            estimator = make(sample_axis="sample", strategy=strategy)
            spread = value_and_grad(loss, estimator, has_aux=True)
            step = over_samples(spread)
            for batch_over, w_over in LAYOUTS[0 if strategy == "unrolled" else -1 :]:
                placed = {
                    "w": place(data_and_sample(), params["w"], *w_over),
                    "b": place(data_and_sample(), params["b"]),
                }
                actual = step(placed, spread.init(placed), place(data_and_sample(), x, *batch_over))
                assert_close(actual, desired, f"{name} {strategy} {batch_over} {w_over}")
        print("jit", name)  # noqa: T201 - read by the test


def samples_in_shard_map() -> None:
    """Both axes by hand: loss and gradient averaged over one, samples spread over the other."""
    params, x = parameters(), batch()
    for name in ("tsam", "mean", "worst", "sampling", "pairs", "split", "still", "chosen"):
        make = SPREAD[name]
        whole, rows = x, 4
        if name in {"split", "still"}:
            # each device cuts its own share: rows 0, 4, 8 and 12 come first
            whole, rows = x.reshape(4, 4, 8).swapaxes(0, 1).reshape(16, 8), 1
        alone = value_and_grad(loss, make(), has_aux=True)
        ((value, aux), grad), state = jax.jit(alone)(params, alone.init(params), whole)
        desired = ((value, aux | {"rows": jnp.int32(rows)}), grad), state  # integers have no mean
        estimator = make(sample_axis="sample")
        spread = value_and_grad(loss, estimator, has_aux=True, axis_name="data")
        step = jax.shard_map(
            spread,
            mesh=data_and_sample(),
            in_specs=(P(), P(), P("data")),
            out_specs=P(),
        )
        assert_close(jax.jit(step)(params, spread.init(params), x), desired, name)
        print("shard_map", name)  # noqa: T201 - read by the test


def batch_in_shard_map() -> None:
    """`axis_name`, for methods that do something else with gradients each."""
    params, x = parameters(), batch()
    cases = {
        "sam": methods.sam(0.3),
        "gsam": methods.gsam(0.3, 0.4),
        "esam2": methods.esam2((0.1, 0.3)),
        "vasso": methods.vasso(0.3),
        "xsam": methods.xsam(rho=0.3, rho_max=0.5),
        "m_sam": methods.m_sam(methods.sam(0.3), 4, batch="x"),
    }
    for name, estimator in cases.items():
        optimizer = optax.chain(estimate_gradient(estimator, axis_name="data"), optax.sgd(0.1))

        def step(params, state, x, optimizer=optimizer):
            updates, state = optimizer.update(None, state, params, value_fn=plain_loss, x=x)
            return optax.apply_updates(params, updates), state

        whole = optax.chain(estimate_gradient(estimator), optax.sgd(0.1))
        if name == "m_sam":  # each device cuts its own share: rows 0, 1, 4, 5, ... come first
            on_device = methods.m_sam(methods.sam(0.3), 1, batch="x")
            optimizer = optax.chain(estimate_gradient(on_device, axis_name="data"), optax.sgd(0.1))
            rows = x.reshape(4, 4, 8).swapaxes(0, 1).reshape(16, 8)
        else:
            rows = x
        sharded = jax.shard_map(
            lambda p, s, x, step=step, optimizer=optimizer: step(p, s, x, optimizer),
            mesh=data_and_sample(),
            in_specs=(P(), P(), P("data")),
            out_specs=P(),
        )
        actual, desired = (params, optimizer.init(params)), (params, whole.init(params))
        for _ in range(2):
            actual = jax.jit(sharded)(*actual, x)
            desired = jax.jit(lambda p, s, whole=whole, rows=rows: step(p, s, rows, whole))(
                *desired
            )
        assert_close(actual, desired, name)
        print("axis_name", name)  # noqa: T201 - read by the test


def parameters_stay_sharded() -> None:
    """As in FSDP: parameters, updates and moments keep their shardings, and memory its bound."""
    params, x = parameters(), batch()
    options = {"noise": NOISE, "strategy": "streamed"}
    optimizer = tsam_jax.tsam(optax.adam(0.1), 2.0, 0.2, 4, sample_axis="sample", **options)

    def step(params, state, x):
        updates, state = optimizer.update(None, state, params, value_fn=plain_loss, x=x)
        return optax.apply_updates(params, updates), updates, state

    alone = tsam_jax.tsam(optax.adam(0.1), 2.0, 0.2, 4, **options)
    for over in ("data",), (None, "data"):
        shardings = {
            "w": NamedSharding(data_and_sample(), P(*over)),
            "b": NamedSharding(data_and_sample(), P("data")),
        }
        placed = jax.tree.map(jax.device_put, params, shardings)
        state = jax.jit(optimizer.init)(placed)
        for _ in range(2):
            placed, updates, state = over_samples(step)(
                placed, state, place(data_and_sample(), x, "data")
            )
            for tree in placed, updates, state[1][0].mu, state[1][0].nu:
                for leaf, sharding in shardings.items():
                    found = tree[leaf].sharding
                    assert found.is_equivalent_to(sharding, tree[leaf].ndim), (over, leaf, found)
        desired, alone_state = params, alone.init(params)
        for _ in range(2):
            updates, alone_state = alone.update(
                None, alone_state, desired, value_fn=plain_loss, x=x
            )
            desired = optax.apply_updates(desired, updates)
        assert_close(placed, desired, str(over))
    print("fsdp")  # noqa: T201 - read by the test


def exchanged(step, *args) -> int:
    """Numbers that a compiled step exchanges between devices."""
    program = jax.jit(step).lower(*args).compile().as_text()
    collectives = re.findall(r" = (.+?) (?:all-reduce|all-gather|all-to-all)\(", program)
    shapes = [dims for shape in collectives for dims in re.findall(r"\w\d+\[([\d,]*)\]", shape)]
    return sum(int(np.prod([int(d) for d in dims.split(",") if d])) for dims in shapes)


def one_reduction() -> None:
    """Over the axis of the samples: one sum of gradients, and the losses; nothing in the loop."""
    params, x = parameters(), batch()
    mesh = jax.make_mesh((8,), ("sample",), axis_types=(AxisType.Auto,))
    estimator = methods.tsam(2.0, 0.2, 16, noise=NOISE, strategy="streamed", sample_axis="sample")
    step = value_and_grad(plain_loss, estimator)
    args = place(mesh, params), place(mesh, step.init(params)), place(mesh, x)
    assert GRADIENT <= exchanged(over_samples(step, mesh), *args) <= GRADIENT + 16 + 4
    print("reduction")  # noqa: T201 - read by the test


def every_gradient_is_exchanged() -> None:
    """Over the axis of the batch: what the guide's table says, and a few numbers for losses."""
    params, x = parameters(), batch()
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    two = methods.tsam(2.0, 0.2, 2, noise=NOISE, strategy="unrolled")
    for estimator, gradients in (methods.sam(0.2), 2), (two, 4):
        step = value_and_grad(plain_loss, estimator)
        args = place(mesh, params), place(mesh, step.init(params)), place(mesh, x, "data")
        numbers = exchanged(step, *args)
        assert gradients * GRADIENT <= numbers <= gradients * GRADIENT + 8
    print("gradients")  # noqa: T201 - read by the test


def refusals() -> None:
    params, x = parameters(), batch()
    step = value_and_grad(plain_loss, SPREAD["tsam"](sample_axis="sample"))

    def message(wrap):
        try:
            wrap(step)(params, step.init(params), x)
        except ValueError as error:
            return str(error)
        return "accepted"

    said = message(jax.jit)
    assert "`sample_axis='sample'` must be an axis of a `jax.shard_map` around the step" in said
    assert "has none: call `jax.shard_map(step, mesh=mesh, in_specs=P(), out_specs=P()," in said
    data = {"mesh": data_and_sample(), "in_specs": P(), "out_specs": P(), "axis_names": {"data"}}
    assert "which has ['data']" in message(lambda step: jax.shard_map(step, **data))
    eight = jax.make_mesh((8,), ("sample",), axis_types=(AxisType.Auto,))
    said = message(lambda step: over_samples(step, eight))
    assert "`sample_axis='sample'` must have a size that divides" in said, said
    assert "s = 4" in said
    print("refusals")  # noqa: T201 - read by the test


if __name__ == "__main__":
    assert jax.device_count() == 8
    globals()[sys.argv[1]]()
