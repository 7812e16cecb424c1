"""One of several processes that train together: `process_program.py PORT COUNT INDEX OUT`.

The batch is split over the processes and, within one, over its devices; the samples go over the
other axis. With COUNT 1 the same program trains on its own.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tsam_jax import noise, tsam

P = PartitionSpec
STEPS, ROWS = 3, 16
PATIENCE = 600  # seconds, with two processes on a busy machine; 100 for a heartbeat by default


def loss(params, batch):
    inputs, targets = batch
    return jnp.mean((jnp.tanh(inputs @ params["w"]) @ params["v"] - targets) ** 2)


def main(port: str, count: int, index: int, out: str) -> None:
    if count > 1:
        jax.distributed.initialize(
            f"localhost:{port}",
            count,
            index,
            initialization_timeout=PATIENCE,
            heartbeat_timeout_seconds=PATIENCE,
            shutdown_timeout_seconds=PATIENCE,
        )
    assert jax.process_count() == count
    assert jax.device_count() == 4
    mesh = jax.make_mesh((2, 2), ("data", "sample"), axis_types=2 * (AxisType.Auto,))
    law = noise.sphere(rms=0.1)
    optimizer = tsam(optax.adam(0.05), t=5.0, rho=0.1, s=4, noise=law, sample_axis="sample", key=3)

    def step(params, state, batch):
        updates, state = optimizer.update(None, state, params, value_fn=loss, batch=batch)
        return optax.apply_updates(params, updates), state

    spread = jax.shard_map(step, mesh=mesh, in_specs=P(), out_specs=P(), axis_names={"sample"})
    spread = jax.jit(spread, donate_argnums=(0, 1))
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(4, 8)), "v": rng.normal(size=(8, 2))}
    params = jax.tree.map(lambda x: np.asarray(x, np.float32), params)
    replicated, rows = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    params = jax.device_put(params, replicated)
    state = jax.jit(optimizer.init, out_shardings=replicated)(params)
    for _ in range(STEPS):
        whole = rng.normal(size=(ROWS, 4)), rng.normal(size=(ROWS, 2))
        batch = [  # each process hands over the rows of its own devices
            jax.make_array_from_callback(x.shape, rows, np.asarray(x, np.float32).__getitem__)
            for x in whole
        ]
        params, state = spread(params, state, tuple(batch))
    np.savez(out, **jax.device_get(params), losses=np.asarray(state[0].last.metrics["losses"]))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
