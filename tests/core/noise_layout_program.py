"""Noise does not depend on where it is drawn; test_noise_normals.py runs this on 8 devices."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tsam_jax import noise


def main() -> None:
    assert jax.device_count() == 8
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=2 * (AxisType.Auto,))
    params = {"w": jnp.zeros((16, 8)), "b": jnp.zeros(24)}
    key = jax.random.key(5)
    law = noise.gaussian(rms=1.0)
    alone = jax.jit(law)(key, params)
    layouts = [
        {"w": PartitionSpec("a", "b"), "b": PartitionSpec("a")},
        {"w": PartitionSpec(None, ("b", "a")), "b": PartitionSpec(("a", "b"))},
        {"w": PartitionSpec("b"), "b": PartitionSpec()},
    ]
    for layout in layouts:
        shardings = {name: NamedSharding(mesh, spec) for name, spec in layout.items()}
        drawn = jax.jit(law, out_shardings=shardings).lower(key, params).compile()
        for collective in "all-gather", "all-reduce", "all-to-all", "collective-permute":
            assert collective not in drawn.as_text(), collective
        for name, eps in drawn(key, params).items():
            assert eps.sharding.is_equivalent_to(shardings[name], eps.ndim)
            np.testing.assert_array_equal(eps, alone[name])
        print(layout)  # noqa: T201 - read by the test


if __name__ == "__main__":
    main()
