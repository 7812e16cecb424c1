"""Shardings are stable; test_contract_of_samples.py runs this on 8 devices and reads its output."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from contract_table import TABLE, loss, make
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tsam_jax import estimate_gradient, value_and_grad


def explicit(name):
    """Uses shardings in types, as "streamed" carries a gradient through a scan."""
    mesh = jax.make_mesh((8,), ("model",), axis_types=(AxisType.Explicit,))
    estimator = make(name, **({"strategy": "streamed"} if TABLE[name].sampled else {}))
    spec = NamedSharding(mesh, PartitionSpec(None, "model"))
    with jax.set_mesh(mesh):
        params = jax.device_put(jnp.linspace(-1.0, 1.0, 16).reshape(2, 8), spec)

        @jax.jit
        def gradient(params):
            step = value_and_grad(lambda p: jnp.mean((p - 0.3) ** 4), estimator)
            return step(params, step.init(params))[0][1]

        assert gradient(params).sharding.is_equivalent_to(spec, 2), name


def main() -> None:
    assert jax.device_count() == 8
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=2 * (AxisType.Auto,))

    def place(x, *spec):
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))

    start = {"w": jnp.linspace(-1.0, 1.0, 16).reshape(4, 4), "b": jnp.linspace(-0.3, 0.3, 4)}
    x = jax.random.normal(jax.random.key(0), (8, 4))
    for name in TABLE:
        optimizer = optax.chain(estimate_gradient(make(name)), optax.adam(0.1))

        @jax.jit
        def step(params, state, x, optimizer=optimizer):
            updates, state = optimizer.update(None, state, params, value_fn=lambda p: loss(p, x))
            return updates, optax.apply_updates(params, updates), state

        params = {"w": place(start["w"], None, "model"), "b": place(start["b"], "model")}
        state = jax.jit(optimizer.init)(params)
        state = jax.tree.map(
            lambda s, p=params: place(s) if s.ndim == 0 or s.shape == (2,) else s, state
        )
        placed = jax.tree.map(lambda y: y.sharding, params)
        like = {start[leaf].shape: placed[leaf] for leaf in "wb"}
        for _ in range(2):
            updates, params, state = step(params, state, place(x, "data"))
            for leaf in "wb":
                for tree in updates, params, state[1][0].mu:
                    ndim = start[leaf].ndim
                    assert tree[leaf].sharding.is_equivalent_to(placed[leaf], ndim), (name, leaf)
        for field in jax.tree.leaves(state[0]):
            if field.shape in like:  # an average of gradients
                assert field.sharding.is_equivalent_to(like[field.shape], field.ndim)
            else:
                assert field.sharding.is_fully_replicated, name

        alone, alone_state = start, optimizer.init(start)
        for _ in range(2):
            _, alone, alone_state = step(alone, alone_state, x)
        for leaf in "wb":
            np.testing.assert_allclose(params[leaf], alone[leaf], rtol=1e-4, atol=1e-4)
        explicit(name)
        print(name)  # noqa: T201 - read by the test


if __name__ == "__main__":
    main()
