"""What a step costs: time in plain gradients, memory, SAM against optax's, several devices.

Each function measures one cell, in a process of its own, and yields what it has so far.
"""

import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from benchmarks import measure, models, record
from benchmarks.measure import Measurement
from tsam_jax import estimate_gradient, methods, sharpness_aware, value_and_grad

Told = dict[str, Any]
Found = Iterator[dict[str, Any]]


def step(told: Told) -> Found:
    """Times a plain gradient and the steps of methods in the same rounds."""
    problem, s, end = (
        models.build(told, told.get("dtype", "float32")),
        told["s"],
        time.monotonic() + told["seconds"],
    )
    measured: list[Measurement] = []
    ready: list[tuple[Measurement, measure.Run]] = []
    auto, chosen = models.estimate(problem, "tsam", s)[0].as_text(), None

    def found(outcome: str) -> dict[str, Any]:
        rows = [this.as_json() for this in measured]
        for row in rows:
            plain = rows[0]["seconds"]
            row["over_gradients"] = measure.ratios(row["seconds"], plain, row["gradients"])
        return {"outcome": outcome, "programs": rows, "auto": chosen}

    for method in ("gradient", *told["methods"]):
        gradients = 1 if method == "gradient" else models.make(method, s).cost.gradients
        this = Measurement({"method": method}, gradients)
        measured.append(this)
        if time.monotonic() > end and len(ready) > 1:
            this.outcome = "skipped: the time is spent"
            continue
        program = models.estimate(problem, method, s)
        chosen = method if program[0].as_text() == auto else chosen
        if (run := measure.prepare(this, *program)) is not None:
            ready.append((this, run))
        yield found("unfinished")
    for _ in measure.rounds(ready, end - time.monotonic()):
        yield found("unfinished")
    yield found("measured")


def memory(told: Told) -> Found:
    """Memory of one step: as planned, and the peak of the device's allocator, which a CPU lacks."""
    problem, this = models.build(told, told.get("dtype", "float32")), Measurement({})
    lowered, arguments = models.estimate(problem, told["method"], told["s"])
    jax.block_until_ready(measure.compile_only(this, lowered)(*arguments))
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    parameters = sum(x.nbytes for x in jax.tree.leaves(problem.params))
    planned = {"planned_bytes": this.total_bytes, "temp_bytes": this.temp_bytes}
    yield {"outcome": "measured", "parameter_bytes": parameters, **planned, "peak_bytes": peak}


def steps_of_sam(problem: models.Problem) -> dict[str, tuple[Callable, tuple]]:
    """Returns the training step of each implementation of SAM, and its first arguments."""
    base, sam = optax.sgd(0.01, momentum=0.9), methods.sam(rho=models.RHO)
    ascent = optax.chain(optax.contrib.normalize(), optax.sgd(models.RHO))
    theirs = optax.contrib.sam(base, ascent, opaque_mode=True)

    def step(params: Any, state: Any, inputs: jax.Array, targets: jax.Array) -> tuple:
        def gradient(p: Any, _: int = 0) -> Any:
            return jax.grad(problem.loss)(p, inputs, targets)

        updates, state = theirs.update(gradient(params), state, params, grad_fn=gradient)
        return optax.apply_updates(params, updates), state

    chain = optax.chain(estimate_gradient(sam), base)
    return {
        "sharpness_aware": models.training_step(problem, sharpness_aware(base, sam)),
        "chain of estimate_gradient": models.training_step(problem, chain),
        "optax.contrib.sam": (step, (problem.params, theirs.init(problem.params), *problem[2:])),
    }


def sam(told: Told) -> Found:
    """A training step of SAM with momentum SGD: ours against optax's."""
    problem = models.build(told, told.get("dtype", "float32"))
    steps = steps_of_sam(problem)
    measured = [Measurement({"by": name}, 2) for name in steps]
    programs = [models.donating(*found) for found in steps.values()]
    runs = [measure.prepare(x, *y, donated=2) for x, y in zip(measured, programs, strict=True)]
    ready = list(zip(measured, runs, strict=True))
    for _ in measure.rounds(ready, told["seconds"]):
        pass
    theirs = measured[-1].seconds
    rows = [{**x.as_json(), "over_optax": measure.ratios(x.seconds, theirs)} for x in measured]
    after = [jax.jit(step)(*arguments)[0] for step, arguments in steps.values()]
    apart = max(distance(x, after[-1]) for x in after[:-1])
    apart /= distance(problem.params, after[-1])
    yield {"outcome": "measured", "programs": rows, "largest_difference": apart}


def distance(a: Any, b: Any) -> float:
    parts = jax.tree.map(lambda x, y: jnp.max(jnp.abs(x - y)), a, b)
    return max(float(x) for x in jax.tree.leaves(parts))


COLLECTIVE = re.compile(
    r"^\s*(?:ROOT )?\S+ = (\(.*?\)|\S+) (all-reduce|all-gather|reduce-scatter|all-to-all|"
    r"collective-permute)(?:-start)?\(",
    re.MULTILINE,
)
SHAPE = re.compile(r"\b[a-z]+(\d+)\[([\d,]*)\]")


def collectives(hlo: str) -> dict[str, int]:
    """Returns how many collectives a program has, and the bytes of their results."""
    found = [shapes for shapes, _ in COLLECTIVE.findall(hlo)]
    sizes = SHAPE.findall(" ".join(found))
    elements = [math.prod(int(n) for n in dims.split(",") if n) for _, dims in sizes]
    count = sum(n * int(bits) // 8 for n, (bits, _) in zip(elements, sizes, strict=True))
    return {"collectives": len(found), "collective_bytes": count}


def devices(told: Told) -> Found:
    """Work and communication of a step with its samples, then its batch, over all devices."""
    problem, rows = models.build(told, told.get("dtype", "float32")), []
    for axis in ("sample", "data"):
        mesh = jax.make_mesh((jax.device_count(),), (axis,), axis_types=(AxisType.Auto,))
        options = {"sample_axis": "sample"} if axis == "sample" else {}
        # unrolled: of a loop the compiler counts the body once
        estimator = models.make("tsam-unrolled", told["s"], **options)
        names, over = ("data", P("data")) if axis == "data" else (None, P())
        step = value_and_grad(problem.loss, estimator, axis_name=names)
        sharded = jax.shard_map(step, mesh=mesh, in_specs=(P(), P(), over, over), out_specs=P())
        arguments = (problem.params, step.init(problem.params), *problem[2:])
        this = Measurement({"axis": axis})
        compiled = measure.compile_only(this, jax.jit(sharded).lower(*arguments))
        rows.append({**this.as_json(), **collectives(compiled.as_text())})
    yield {"outcome": "measured", "programs": rows}


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    for answer in globals()[asked["part"]](asked):
        record.answer(answer)
