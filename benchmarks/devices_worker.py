"""Measures a step over this process's devices; see devices.py."""

import math
import re
from typing import Any

import jax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from benchmarks import measure, programs, workers
from benchmarks.machine import environment
from benchmarks.measure import Measurement
from benchmarks.models import Problem, build
from tsam_jax import methods, noise, value_and_grad

COLLECTIVE = re.compile(
    r"^\s*(?:ROOT )?\S+ = (\(.*?\)|\S+) (all-reduce|all-gather|reduce-scatter|all-to-all|"
    r"collective-permute)(?:-start)?\(",
    re.MULTILINE,
)
SHAPE = re.compile(r"\b([a-z]+)(\d+)\[([\d,]*)\]")


def collectives(hlo: str) -> dict[str, int]:
    """Returns how many collectives a program has, and the bytes of their results."""
    found = COLLECTIVE.findall(hlo)
    return {"collectives": len(found), "collective_bytes": sum(bytes_of(x) for x, _ in found)}


def bytes_of(shapes: str) -> int:
    return sum(
        math.prod(int(n) for n in dims.split(",") if n) * int(bits) // 8
        for _, bits, dims in SHAPE.findall(shapes)
    )


def step_over(axis: str, problem: Problem, s: int) -> tuple[Any, tuple]:
    """Returns the jitted step with its samples, or its batch, over the axis, and its arguments."""
    mesh = jax.make_mesh((jax.device_count(),), (axis,), axis_types=(AxisType.Auto,))
    estimator = methods.tsam(
        t=programs.T,
        rho=programs.RHO,
        s=s,
        noise=noise.sphere(rms=programs.RMS),
        strategy="unrolled",  # what is in a loop is counted once
        sample_axis="sample" if axis == "sample" else None,
    )
    over = P("data") if axis == "data" else P()

    axis_name = "data" if axis == "data" else None
    step = value_and_grad(problem.loss, estimator, axis_name=axis_name)
    sharded = jax.shard_map(step, mesh=mesh, in_specs=(P(), P(), over, over), out_specs=P())
    arguments = (problem.params, step.init(problem.params), problem.inputs, problem.targets)
    return jax.jit(sharded), arguments


def main(told: dict[str, Any]) -> None:
    problem = build(told["model"], batch=told["batch"])
    rows = []
    for axis in ("sample", "data"):
        this = Measurement({**told, "axis": axis}, 2 * told["s"])
        step, arguments = step_over(axis, problem, told["s"])
        compiled = measure.compile_only(this, step.lower(*arguments))
        run = lambda compiled=compiled, arguments=arguments: compiled(*arguments)  # noqa: E731
        measure.timed(run)
        this.seconds = [measure.timed(run) for _ in range(3)]
        rows.append({**this.as_json(), **collectives(compiled.as_text())})
    workers.answer({"environment": environment(), "rows": rows})


if __name__ == "__main__":
    main(workers.told())
