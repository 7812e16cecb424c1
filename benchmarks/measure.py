"""Measuring compiled functions: compile time, memory, and interleaved timings."""

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax


@dataclass
class Measurement:
    """One function, and what was measured of it."""

    model: str
    method: str
    strategy: str
    s: int
    gradients: float
    """Gradient evaluations of a step, by count."""
    outcome: str = "measured"
    """Or why it was not."""
    compile_seconds: float | None = None
    temp_bytes: int | None = None
    """Memory beyond arguments and results, as the compiler plans it."""
    total_bytes: int | None = None
    """That and the arguments and the results."""
    step_seconds: float | None = None
    """The warm-up step; what was expected of it, if it was skipped for that."""
    seconds: list[float] = field(default_factory=list)
    """One entry for each round in which it ran."""


def prepare(this: Measurement, lowered: jax.stages.Lowered, arguments: tuple) -> Callable[[], Any]:
    """Compiles and warms up; returns the function to time. A failure is a result as well."""

    def run() -> Any:
        return compiled(*arguments)

    start = time.perf_counter()
    try:
        compiled = lowered.compile()
        this.compile_seconds = time.perf_counter() - start
        if plan := compiled.memory_analysis():  # not every backend tells
            this.temp_bytes = plan.temp_size_in_bytes
            fixed = plan.argument_size_in_bytes + plan.output_size_in_bytes
            this.total_bytes = this.temp_bytes + fixed - plan.alias_size_in_bytes
        this.step_seconds = timed(run)
    except jax.errors.JaxRuntimeError as error:  # out of memory; unsupported by the backend
        this.outcome = f"failed: {str(error).splitlines()[0]}"
    return run


def timed(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def run_rounds(
    cases: list[tuple[Measurement, Callable[[], Any]]], *, repeats: int, limit: float
) -> None:
    """Times all in turn, `repeats` times, so that drift hits all alike; none beyond its limit."""
    for _ in range(repeats):
        for this, run in cases:
            if sum(this.seconds) + this.step_seconds <= limit:
                this.seconds.append(timed(run))


def ratios(this: Measurement, plain: Measurement) -> list[float]:
    """Returns the quartiles, over rounds, of time over that of as many plain gradients."""
    paired = zip(this.seconds, plain.seconds, strict=False)
    values = [a / (this.gradients * b) for a, b in paired]
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3


def median(this: Measurement) -> float | None:
    return statistics.median(this.seconds) if this.seconds else None


def environment() -> dict[str, Any]:
    """Returns where, with what and from which commit the numbers come."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(
            command, cwd=here, check=True, capture_output=True, text=True
        ).stdout.strip()

    packages = ("tsam_jax", "jax", "jaxlib", "optax", "numpy")
    return {
        "backend": jax.default_backend(),
        "device_kind": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "commit": git("rev-parse", "HEAD"),
        "clean_tree": not git("status", "--porcelain"),
        "load_before": os.getloadavg()[0],
    }
