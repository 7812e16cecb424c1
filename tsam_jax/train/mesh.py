"""The devices of a run: `--mesh data=4,sample=2`."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tsam_jax.train import config
from tsam_jax.train.settings import Setting

AXES = ("data", "sample")


def parse_mesh(text: str) -> dict[str, int]:
    """Reads the sizes of both axes.

    Example:
      >>> parse_mesh("sample=2")
      {'data': 1, 'sample': 2}
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, _, size = (word.strip() for word in part.partition("="))
        config.require(
            name in AXES and name not in sizes and size.isdecimal() and int(size) > 0,
            f"`--mesh` must give a size of at least 1 to the axes {' and '.join(AXES)}, once each,"
            f" for example `--mesh data=4,sample=2`, got {text!r}.",
        )
        sizes[name] = int(size)
    return {name: sizes.get(name, 1) for name in AXES}


class Devices(NamedTuple):
    """The devices of a run, and the placement of its arrays; without a mesh, a single device."""

    mesh: jax.sharding.Mesh | None = None  # axes "data" and "sample"

    @property
    def sample_axis(self) -> str | None:
        """The axis over which a method spreads its samples."""
        return "sample" if self.mesh is not None and self.mesh.shape["sample"] > 1 else None

    @property
    def processes(self) -> int:
        """Number of processes that the mesh spans."""
        return 1 if self.mesh is None else len({d.process_index for d in self.mesh.devices.flat})

    def replicate(self, tree: Any) -> Any:
        """Places a copy of every array on every device."""
        if self.mesh is None:
            return tree
        everywhere = NamedSharding(self.mesh, PartitionSpec())
        if self.processes == 1:
            return jax.device_put(tree, everywhere)

        def place(x: Any) -> Any:
            if not getattr(x, "is_fully_addressable", True):
                return x
            if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data(place(jax.random.key_data(x)))
            return jax.device_put(np.asarray(x), everywhere)

        return jax.tree.map(place, tree)

    def share(self, count: int) -> tuple[np.ndarray, int]:
        """The rows of `count` that this process reads, and how many: then the last one repeats."""
        whole = -(-count // self._rows.mesh.size) * self._rows.mesh.size
        own = self._rows.addressable_devices_indices_map((whole,)).values()
        rows = np.sort(np.concatenate([np.arange(whole)[part] for part in own]))
        return np.minimum(rows, count - 1), int(np.sum(rows < count))

    def join(self, tree: Any) -> Any:
        """Joins the `share` of every process into arrays that are split over the processes."""
        put = jax.make_array_from_process_local_data
        return jax.tree.map(lambda x: put(self._rows, np.asarray(x)), tree)

    @property
    def _rows(self) -> NamedSharding:
        """Each row is on one device."""
        assert self.mesh is not None
        return NamedSharding(self.mesh, PartitionSpec(AXES))

    def pooled(self, count: int, mean: Any, std: Any) -> tuple[tuple[float, ...], ...]:
        """Mean and standard deviation of all processes' values, `count` of them in this one."""
        squares = np.square(std) * (count - 1) + count * np.square(mean)
        own = np.stack([np.full_like(mean, count), count * np.asarray(mean), squares])
        n, total, squares = np.asarray(multihost_utils.process_allgather(own), float).sum(axis=0)
        variance = (squares - np.square(total) / n) / (n - 1)
        return tuple((total / n).tolist()), tuple(np.sqrt(variance).tolist())

    def total(self, value: int) -> int:
        """The sum of all processes' integers, below 2**256, modulo 2**256."""
        own = np.frombuffer(value.to_bytes(32), np.uint8)
        every = np.asarray(multihost_utils.process_allgather(own))
        return sum(int.from_bytes(x.tobytes()) for x in every) % 2**256

    def split(self, tree: Any, *axes: str) -> Any:
        """Splits the leading axes over those of the mesh, in a compiled program."""
        if self.mesh is None:
            return tree
        sharding = NamedSharding(self.mesh, PartitionSpec(*axes))
        return jax.lax.with_sharding_constraint(tree, sharding)

    def spread(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """The program in which samples are spread; its arguments are the same on all devices."""
        if self.sample_axis is None:
            return step
        mesh, same = self.mesh, PartitionSpec()
        return jax.shard_map(step, mesh=mesh, in_specs=same, out_specs=same, axis_names={"sample"})


def join_processes(text: str | None) -> None:
    """Joins the other processes of a run, before anything is computed.

    `--distributed` is "auto" for what a launcher (SLURM, Open MPI, Kubernetes, Cloud TPU) has in
    the environment, or "HOST:PORT,COUNT,INDEX" of the first process, the number of processes and
    the number of this one, from 0; None for a run of one process.
    """
    if text is None or jax.distributed.is_initialized():
        return
    address, *numbers = text.split(",")
    config.require(
        text == "auto" or (len(numbers) == 2 and all(x.isdecimal() for x in numbers)),
        f"`--distributed` must be auto or HOST:PORT,COUNT,INDEX, got {text!r}.",
    )
    with config.refused(f"--distributed {text}", ValueError, RuntimeError):
        if text == "auto":
            jax.distributed.initialize()
        else:
            count, index = map(int, numbers)
            jax.distributed.initialize(address, count, index)


def wait_for_others() -> None:
    """Waits until all processes call this."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("tsam_jax")


def make_devices(text: str | None, setting: Setting, optimizer: config.Optimizer) -> Devices:
    """Makes the mesh of a run, of `--mesh`; by default one device, or all of several processes.

    Raises:
      ConfigError: if there are too few devices, or they do not divide the batch or the samples.
    """
    if text is None and jax.process_count() == 1:
        return Devices()
    there = jax.devices()
    given = f"`--mesh {text}`" if text else f"`--distributed`, with {len(there)} devices in all"
    sizes = parse_mesh(text or f"data={len(there)}")
    needed = math.prod(sizes.values())
    samples, batch = setting.arguments.get("s", 1), optimizer.batch_size
    names = ", ".join(map(str, there[:8])) + (", ..." if len(there) > 8 else "")
    config.require(
        needed <= len(there),
        f"{given} needs {needed} devices; this machine has {len(there)}: {names}."
        " (XLA_FLAGS=--xla_force_host_platform_device_count=8 makes 8 of a CPU.)",
    )
    for axis, number, what in (
        ("data", batch, f"`--batch-size`, {batch}"),
        ("sample", samples, f"the samples of a step, s = {samples} in `{setting.text}`"),
    ):
        config.require(
            number % sizes[axis] == 0,
            f"{given}: the {sizes[axis]} devices of axis {axis} must divide {what}.",
        )
    types = (AxisType.Auto,) * len(AXES)
    shape = tuple(sizes.values())
    return Devices(jax.make_mesh(shape, AXES, axis_types=types, devices=there[:needed]))
