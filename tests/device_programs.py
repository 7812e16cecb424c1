"""Programs that need several devices run in a process of their own, on virtual CPU devices."""

import os
import subprocess
import sys
from pathlib import Path

import tsam_jax

# A device that waits for the others in a collective ends its process after 20 + 40 s; on a busy
# machine, some of 8 devices on few cores may come later.
PATIENT = "--xla_cpu_collective_call_terminate_timeout_seconds=600"
LIMIT = 1200  # seconds; the slowest program takes 25 on two quiet cores


def environment(devices: int) -> dict[str, str]:
    """That of a program with so many devices, and the `tsam_jax` that is being tested."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(tsam_jax.__file__).parents[1]),
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {PATIENT}"
        f" --xla_force_host_platform_device_count={devices}",
    }


def run(program: Path, *arguments: str, devices: int = 8) -> list[str]:
    """The lines that a program writes; its own errors if it fails."""
    done = subprocess.run(
        [sys.executable, program, *arguments],
        env=environment(devices),
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()
