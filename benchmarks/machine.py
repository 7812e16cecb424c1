"""Where, with what and from which commit numbers come; and what the device could do at best."""

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("tsam_jax", "jax", "jaxlib", "optax", "flax", "numpy", "torch")

# Dense peaks of the tensor cores, FLOP/s, from NVIDIA's data sheets, which print them with
# sparsity, so twice as high. float32 is TF32, which is what JAX multiplies float32 with there.
PEAKS = {
    "H200": {"bfloat16": 989e12, "float32": 494.5e12},
    "H100 80GB HBM3": {"bfloat16": 989e12, "float32": 494.5e12},
    "A100": {"bfloat16": 312e12, "float32": 156e12},
}


def peak_flops(dtype: str, override_tflops: float | None = None) -> float | None:
    """Returns the device's peak in FLOP/s, None if it is not known."""
    if override_tflops is not None:
        return 1e12 * override_tflops
    kind = jax.devices()[0].device_kind
    return next((peak[dtype] for name, peak in PEAKS.items() if name in kind), None)


def allocator_peak() -> int | None:
    """Returns the most bytes that the device's allocator had in use; None on a CPU."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


class Usage:
    """What other processes, and other guests of the host, take of the CPUs from now on."""

    def __init__(self) -> None:
        self._start = self._now()

    def elsewhere(self) -> float | None:
        """Returns the part of all CPUs that they took, from 0 to 1; None where it is not known."""
        if self._start is None:
            return None
        total, busy, ours = (b - a for a, b in zip(self._start, self._now(), strict=True))
        return round(max(busy - ours, 0.0) / total, 3) if total else 0.0

    @staticmethod
    def _now() -> tuple[float, float, float] | None:
        """The CPUs' seconds since the start: all, not idle, and ours with the workers' before."""
        try:
            line = Path("/proc/stat").read_text().splitlines()[0]
        except OSError:
            return None
        user, nice, system, idle, waiting, *rest = (
            int(x) / os.sysconf("SC_CLK_TCK") for x in line.split()[1:9]
        )
        busy = user + nice + system + sum(rest)
        return busy + idle + waiting, busy, sum(os.times()[:4])


def environment() -> dict[str, Any]:
    """Returns versions, device, commit, and whether the tree is clean."""
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "backend": jax.default_backend(),
        "device_kind": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "commit": _git("rev-parse", "HEAD"),
        "clean_tree": _clean(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # an optional one; tsam_jax itself in a plain checkout
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    models = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def _git(*arguments: str) -> str | None:
    """Returns what git says; None outside of a repository."""
    here = Path(__file__).parent
    done = subprocess.run(
        ["git", *arguments], cwd=here, check=False, capture_output=True, text=True
    )
    return done.stdout.strip() if done.returncode == 0 else None


def _clean() -> bool | None:
    """Whether what is measured is what is committed: results do not count."""
    changes = _git("status", "--porcelain", "--", ".", "../tsam_jax", ":!results", ":!README.md")
    return None if changes is None else not changes
