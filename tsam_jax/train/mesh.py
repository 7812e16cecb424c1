"""The devices of a run: `--mesh data=4,sample=2`."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tsam_jax.train.config import ConfigError, Optimizer
from tsam_jax.train.settings import Setting

AXES = ("data", "sample")
_EXAMPLE = "for example `--mesh data=4,sample=2`"


def parse_mesh(text: str) -> dict[str, int]:
    """Reads the sizes of the axes.

    Args:
      text: `axis=size`, separated by commas; the axes are `AXES`.

    Returns:
      Axis -> number of devices, for both axes.

    Raises:
      ConfigError: if the text is not of this form.

    Example:
      >>> parse_mesh("sample=2")
      {'data': 1, 'sample': 2}
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, _, size = (word.strip() for word in part.partition("="))
        if name not in AXES or name in sizes or not size.isdecimal() or int(size) < 1:
            msg = (
                f"`--mesh` must give a size of at least 1 to the axes {' and '.join(AXES)}, once"
                f" each, {_EXAMPLE}, got {text!r}."
            )
            raise ConfigError(msg)
        sizes[name] = int(size)
    return {name: sizes.get(name, 1) for name in AXES}


class Devices(NamedTuple):
    """The devices of a run, and what is placed where.

    Attributes:
      mesh: axes "data" and "sample"; None for a single device.
    """

    mesh: jax.sharding.Mesh | None = None

    @property
    def sample_axis(self) -> str | None:
        """The axis over which a method has to spread its samples."""
        return "sample" if self.mesh is not None and self.mesh.shape["sample"] > 1 else None

    def replicate(self, tree: Any) -> Any:
        """Places a copy of every array on every device."""
        if self.mesh is None:
            return tree
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))

    def split(self, batch: Any) -> Any:
        """Splits the leading axis over "data", in a compiled program."""
        if self.mesh is None:
            return batch
        rows = NamedSharding(self.mesh, PartitionSpec("data"))
        return jax.lax.with_sharding_constraint(batch, rows)

    def spread(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """The program in which samples are spread; its arguments are the same on all devices."""
        if self.sample_axis is None:
            return step
        return jax.shard_map(
            step,
            mesh=self.mesh,
            in_specs=PartitionSpec(),
            out_specs=PartitionSpec(),
            axis_names={"sample"},
        )


def make_devices(text: str | None, setting: Setting, optimizer: Optimizer) -> Devices:
    """Makes the mesh of a run.

    Args:
      text: `--mesh`; None for a single device.
      setting: the method, whose samples go over "sample".
      optimizer: the base optimizer, whose batch goes over "data".

    Returns:
      The `Devices`.

    Raises:
      ConfigError: if there are too few devices, or they do not divide the batch or the samples.
    """
    if text is None:
        return Devices()
    sizes, there = parse_mesh(text), jax.devices()
    needed = math.prod(sizes.values())
    if needed > len(there):
        msg = (
            f"`--mesh {text}` needs {needed} devices; this machine has {len(there)}:"
            f" {_names(there)}."
            " (XLA_FLAGS=--xla_force_host_platform_device_count=8 makes 8 of a CPU.)"
        )
        raise ConfigError(msg)
    batch_size = optimizer.for_setting(setting).batch_size
    if batch_size % sizes["data"]:
        msg = (
            f"`--mesh {text}`: the {sizes['data']} devices of axis data must divide `--batch-size`,"
            f" {batch_size}."
        )
        raise ConfigError(msg)
    samples = setting.arguments.get("s", 1)
    if samples % sizes["sample"]:
        msg = (
            f"`--mesh {text}`: the {sizes['sample']} devices of axis sample must divide the samples"
            f" of a step, s = {samples} in `{setting.text}`."
        )
        raise ConfigError(msg)
    mesh = jax.make_mesh(
        tuple(sizes.values()),
        AXES,
        axis_types=(AxisType.Auto,) * len(AXES),
        devices=there[:needed],
    )
    return Devices(mesh)


def _names(devices: list[Any]) -> str:
    shown = ", ".join(str(device) for device in devices[:8])
    return shown + (", ..." if len(devices) > 8 else "")
