"""The devices of a run: `--mesh data=4,sample=2`."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tsam_jax.train import config
from tsam_jax.train.settings import Setting

AXES = ("data", "sample")


def parse_mesh(text: str) -> dict[str, int]:
    """Reads the sizes of both axes: "sample=2" is {"data": 1, "sample": 2}."""
    found = [re.fullmatch(r"\s*(data|sample)\s*=\s*(\d+)\s*", part) for part in text.split(",")]
    sizes = {axis[1]: int(axis[2]) for axis in found if axis}
    right = len(sizes) == len(found) and min(sizes.values()) > 0
    rule = f"give a size of at least 1 to the axes {' and '.join(AXES)}, once each"
    why = f"`--mesh` must {rule}, for example `--mesh data=4,sample=2`, got {text!r}."
    config.require(right, why)
    return dict.fromkeys(AXES, 1) | sizes


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
        """Places a copy of every array on every device, but for those of several processes."""
        if self.mesh is None:
            return tree
        everywhere = NamedSharding(self.mesh, P())
        where = jax.tree.map(lambda x: everywhere if x.is_fully_addressable else x.sharding, tree)
        return jax.jit(lambda tree: tree, out_shardings=where)(tree)

    def share(self, count: int) -> tuple[np.ndarray, int]:
        """The rows of `count` that this process reads, and how many: then the last one repeats."""
        if self.mesh is None or self.processes == 1:
            return np.arange(count), count
        own = [device.process_index == jax.process_index() for device in self.mesh.devices.flat]
        each = -(-count // len(own))
        rows = np.arange(each * len(own)).reshape(-1, each)[own].ravel()
        return np.minimum(rows, count - 1), int(np.sum(rows < count))

    def join(self, tree: Any) -> Any:
        """Joins the `share` of every process into arrays whose rows are split over all devices."""
        if self.mesh is None or self.processes == 1:
            return tree
        rows = NamedSharding(self.mesh, P(AXES))
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(rows, x), tree)

    def pooled(self, count: int, mean: Any, std: Any) -> tuple[tuple[float, ...], ...]:
        """Channel statistics of all processes' images, from those of `count` pixels in this one."""
        n, means, stds = gather(np.array([np.full_like(mean, count), mean, std])).swapaxes(0, 1)
        mean = np.average(means, axis=0, weights=n)
        # A standard deviation of 1 is that of a constant channel.
        squares = n * (means - mean) ** 2 + np.maximum(n - 1, 0) * np.where(stds == 1, 0, stds**2)
        std = np.sqrt(squares.sum(axis=0) / (n.sum(axis=0) - 1))
        return tuple(mean.tolist()), tuple(np.where(std < 1e-12, 1, std).tolist())

    def split(self, tree: Any, *axes: str) -> Any:
        """Splits the leading axes over those of the mesh, in a compiled program."""
        if self.mesh is None:
            return tree
        return jax.lax.with_sharding_constraint(tree, NamedSharding(self.mesh, P(*axes)))

    def spread(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """The program in which samples are spread; its arguments are the same on all devices."""
        if self.sample_axis is None:
            return step
        mesh, same = self.mesh, P()
        return jax.shard_map(step, mesh=mesh, in_specs=same, out_specs=same, axis_names={"sample"})


def join_processes(text: str | None) -> None:
    """Joins the other processes of a run, before anything is computed.

    `--distributed` is "auto" for what a launcher (SLURM, Open MPI, Kubernetes, Cloud TPU) has in
    the environment, or "HOST:PORT,COUNT,INDEX" of the first process, the number of processes and
    the number of this one, from 0; None for a run of one process.
    """
    if text is None or jax.distributed.is_initialized():
        return
    given: Any = re.fullmatch(r"auto|([^,]*),(\d+),(\d+)", text)
    config.require(given, f"`--distributed` must be auto or HOST:PORT,COUNT,INDEX, got {text!r}.")
    address, count, index = given.groups()
    with config.refused(f"--distributed {text}", ValueError, RuntimeError):
        jax.distributed.initialize(address, count and int(count), index and int(index))


def gather(x: np.ndarray) -> np.ndarray:
    """The arrays of all processes, alike in shape and dtype, along a new axis; bit for bit."""
    every = multihost_utils.process_allgather(x.view(np.uint8))  # rounds numbers of 64 bits
    return np.asarray(every).view(x.dtype)


def wait_for_others() -> None:
    """Waits until all processes call this."""
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
    needed = sizes["data"] * sizes["sample"]
    have = f"{len(there)}: {config.shown(', '.join(map(str, there)))}"
    remedy = "(XLA_FLAGS=--xla_force_host_platform_device_count=8 makes 8 of a CPU.)"
    why = f"{given} needs {needed} devices; this machine has {have}. {remedy}"
    config.require(needed <= len(there), why)
    samples, batch = setting.arguments.get("s", 1), optimizer.batch_size
    for axis, number, what in (
        ("data", batch, f"`--batch-size`, {batch}"),
        ("sample", samples, f"the samples of a step, s = {samples} in `{setting.text}`"),
    ):
        unfit = f"{given}: the {sizes[axis]} devices of axis {axis} must divide {what}."
        config.require(number % sizes[axis] == 0, unfit)
    shape, types = tuple(sizes.values()), (AxisType.Auto,) * len(AXES)
    return Devices(jax.make_mesh(shape, AXES, types, devices=there[:needed]))
