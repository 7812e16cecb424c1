"""Measures the memory of one step, in a process of its own; see memory.py."""

from pathlib import Path
from typing import Any

import jax

from benchmarks import measure, programs, workers
from benchmarks.machine import allocator_peak, environment
from benchmarks.measure import Measurement
from benchmarks.models import build
from tsam_jax import methods


def status_bytes(field: str) -> int | None:
    """Returns VmRSS, the memory of this process, or VmHWM, its peak; None where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(x.split()[1]) for x in lines if x.startswith(field)), None)


def process_peak(run: measure.Run) -> int | None:
    """Returns by how much the process grew while it ran, at most; arguments are not counted."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    except OSError:
        return None
    before = status_bytes("VmRSS")
    jax.block_until_ready(run())
    after = status_bytes("VmHWM")
    return None if before is None or after is None else after - before


def main(told: dict[str, Any]) -> None:
    problem = build(told["model"], batch=told["batch"], dtype=told["dtype"])
    if told["method"] == "gradient":
        program = programs.plain(problem)
    elif told["method"] == "sam":
        program = programs.estimate(problem, methods.sam(rho=programs.RHO))
    else:
        program = programs.estimate(problem, programs.tsam(told["s"], told["strategy"]))
    this = Measurement({})
    compiled = measure.compile_only(this, program.lowered)
    run = lambda: compiled(*program.arguments)  # noqa: E731
    grown = process_peak(run)
    workers.answer({
        "environment": environment(),
        "parameter_bytes": sum(x.nbytes for x in jax.tree.leaves(problem.params)),
        "planned_bytes": this.total_bytes,
        "temp_bytes": this.temp_bytes,
        "peak_bytes": allocator_peak(),
        "process_growth_bytes": grown,
    })


if __name__ == "__main__":
    main(workers.told())
