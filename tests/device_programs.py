"""Programs that need several devices run in a process of their own, on virtual CPU devices."""

import os
import subprocess
import sys
from pathlib import Path


def run(program: Path, *arguments: str, devices: int = 8) -> list[str]:
    """The lines that a program writes; its own errors if it fails."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    flags += " --xla_backend_optimization_level=0"  # programs run once: compile fast
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, program, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()
