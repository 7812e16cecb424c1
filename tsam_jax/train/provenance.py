"""What a run must record of itself: versions, machine, resolved configuration."""

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
from pathlib import Path
from typing import Any

import jax

_PACKAGES = ("tsam_jax", "jax", "jaxlib", "optax", "flax", "numpy", "scikit-learn", "matfree")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that shape the numbers, and the device."""
    found = {package: importlib.metadata.version(package) for package in _PACKAGES}
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        **found,
        "device": f"{jax.device_count()} x {device.platform} ({device.device_kind})",
        "cpu cores": str(os.cpu_count()),
    }


def as_dict(config: Any) -> dict[str, Any]:
    """A configuration dataclass as JSON values; where the run is kept is no part of it."""
    return {
        field.name: as_dict(value)
        if dataclasses.is_dataclass(value := getattr(config, field.name))
        else value
        for field in dataclasses.fields(config)
        if field.name not in {"out", "resume"}
    }


def write_json(path: Path, data: Any) -> None:
    """Writes JSON as `write_whole` does."""
    write_whole(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that it is either the old one or the new one, never half of it."""
    draft = path.with_suffix(".tmp")
    draft.write_text(text)
    draft.replace(path)


def json_number(x: Any) -> float | None:
    """A number as JSON has it: null for what is not finite."""
    return float(x) if math.isfinite(x) else None
