"""Each device is a micro-batch; test_m_sam.py runs this on 8 devices and reads what it prints."""

import jax
import jax.numpy as jnp
import numpy as np
from contract_table import GAUSSIAN, loss, parameters
from jax.sharding import AxisType, PartitionSpec

from tsam_jax import methods, value_and_grad

REPLICATED, SPLIT = PartitionSpec(), PartitionSpec("data")


def tsam(strategy):
    return methods.tsam(2.0, 0.3, 2, noise=GAUSSIAN, strategy=strategy)


# name -> estimator on a device, and examples in its micro-batch
CASES = {
    "sam": (methods.sam(0.3), 2),
    "tsam": (tsam("unrolled"), 2),
    "vasso": (methods.vasso(0.3, 0.4), 2),
    "fsam": (methods.fsam(0.3, 0.5, 0.6), 2),
    "streamed": (tsam("streamed"), 2),
    "nested": (methods.sam(0.3), 1),
}


def main() -> None:
    assert jax.device_count() == 8
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    batches = jax.random.normal(jax.random.key(0), (3, 16, 4))
    params = parameters()
    for name, (inner, m) in CASES.items():
        on_device = inner if m == 2 else methods.m_sam(inner, m, batch="x", strategy="unrolled")
        per_device = methods.per_device(on_device, "data")
        of_device = value_and_grad(loss, per_device)
        step = jax.jit(
            jax.shard_map(
                of_device,
                mesh=mesh,
                in_specs=(REPLICATED, REPLICATED, SPLIT),
                out_specs=REPLICATED,
            )
        )
        emulation = jax.jit(value_and_grad(loss, methods.m_sam(inner, m, batch="x")))
        whole = jax.jit(value_and_grad(loss, inner))
        state = emulated = of_device.init(params)
        for x in batches:
            (_, full), _ = whole(params, emulated, x)
            (value, grad), state = step(params, state, x)
            desired, emulated = emulation(params, emulated, x)
            assert jax.tree.structure(state) == jax.tree.structure(emulated)
            for a, b in zip(
                jax.tree.leaves((value, grad, state)),
                jax.tree.leaves((*desired, emulated)),
                strict=True,
            ):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=name)
            assert jnp.abs(grad["w"] - full["w"]).max() > 1e-3, name  # devices ascend alone
        print(name)  # noqa: T201 - read by the test


if __name__ == "__main__":
    main()
