"""What is measured: a function of each part's name, which yields what it has so far."""

import importlib.util
import itertools
import json
import math
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from benchmarks import models, record
from tsam_jax import noise, sharpness_aware, value_and_grad

Told, Run = dict[str, Any], Callable[[], Any]
Found = Iterator[dict[str, Any]]

LEAST_ROUNDS, MOST_ROUNDS = 3, 15
LEAST_SECONDS = 0.05  # of one timing: a faster function is called several times for each


@dataclass
class Measurement:
    """One function, by its labels, and what was measured of it."""

    labels: dict[str, Any]
    gradients: float = 1.0  # evaluations in a call, by count
    outcome: str = "measured"  # or why it was not
    compile_seconds: float | None = None  # without tracing
    total_bytes: int | None = None  # as the compiler plans the memory
    flops: float | None = None  # as the compiler counts them: of a loop the body once
    warm_seconds: float | None = None  # of the first calls, before the rounds
    seconds: list[float] = field(default_factory=list)  # of a call, one entry for each round

    def as_json(self) -> dict[str, Any]:
        found = {**self.labels, **{k: v for k, v in vars(self).items() if k != "labels"}}
        return {**found, "median": statistics.median(self.seconds) if self.seconds else None}


def compile_only(this: Measurement, lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    clock = time.perf_counter()
    compiled = lowered.compile()
    this.compile_seconds = time.perf_counter() - clock
    if plan := compiled.memory_analysis():  # not every backend tells
        fixed = plan.argument_size_in_bytes + plan.output_size_in_bytes
        this.total_bytes = plan.temp_size_in_bytes + fixed - plan.alias_size_in_bytes
    this.flops = (compiled.cost_analysis() or {}).get("flops")
    return compiled


def prepare(
    this: Measurement, lowered: jax.stages.Lowered, arguments: tuple, donated: int = 0
) -> Run | None:
    """Compiles, warms up, returns the function to time; results replace the donated arguments."""

    def run() -> Any:
        nonlocal arguments
        result = compiled(*arguments)
        if jax.default_backend() == "cpu":  # where programs would run side by side
            jax.block_until_ready(result)
        if donated:
            arguments = (*result[:donated], *arguments[donated:])
        return result

    try:
        compiled = compile_only(this, lowered)
        first = timed(run)
        this.warm_seconds = min(first, timed(run)) if first < 1.0 else first
    except jax.errors.JaxRuntimeError as error:  # out of memory; unsupported by the backend
        this.outcome = f"failed: {str(error).splitlines()[0][:200]}"
        return None
    return run


def timed(run: Run, calls: int = 1) -> float:
    return record.timed(run, jax.block_until_ready, calls)


def calls_for_one_timing(warm_seconds: float) -> int:
    return min(max(math.ceil(LEAST_SECONDS / warm_seconds), 1), 100)


def rounds(seconds: float) -> Iterator[int]:
    """Counts rounds: three, and more while the seconds allow another."""
    start = time.monotonic()
    for done in range(MOST_ROUNDS):
        if done >= LEAST_ROUNDS and (time.monotonic() - start) * (done + 1) / done > seconds:
            return
        yield done


def take_turns(ready: Sequence[tuple[Measurement, Run]]) -> None:
    """Times all, once in each round, so that drift hits all alike."""
    for this, run in ready:
        this.seconds.append(timed(run, calls_for_one_timing(this.warm_seconds)))


def ratios(seconds: Sequence[float], reference: Sequence[float], times: float = 1.0) -> Any:
    """Returns the quartiles, over rounds, of time over `times` the reference's in that round."""
    values = [a / (times * b) for a, b in zip(seconds, reference, strict=False)]
    many = len(values) > 1
    return statistics.quantiles(values, n=4, method="inclusive") if many else values * 3 or None


def step(told: Told) -> Found:
    """Times a plain gradient and the steps of methods in the same rounds."""
    problem, s, end = models.build(told), told["s"], time.monotonic() + told["seconds"]
    measured: list[Measurement] = []
    ready: list[tuple[Measurement, Run]] = []
    auto, chosen = models.estimate(problem, "tsam", s)[0].as_text(), None

    def found(outcome: str) -> dict[str, Any]:
        rows = [this.as_json() for this in measured]
        for row in rows:
            plain = rows[0]["seconds"]
            row["over_gradients"] = ratios(row["seconds"], plain, row["gradients"])
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
        if (run := prepare(this, *program)) is not None:
            ready.append((this, run))
        yield found("unfinished")
    for _ in rounds(end - time.monotonic()):
        take_turns(ready)
        yield found("unfinished")
    yield found("measured")


def memory(told: Told) -> Found:
    """Memory of one step: as planned, and the peak of the device's allocator, which a CPU lacks."""
    problem, this = models.build(told), Measurement({})
    lowered, arguments = models.estimate(problem, told["method"], told["s"])
    jax.block_until_ready(compile_only(this, lowered)(*arguments))
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    found = {"planned_bytes": this.total_bytes, "peak_bytes": peak}
    parameters = sum(x.nbytes for x in jax.tree.leaves(problem.params))
    yield {"outcome": "measured", "parameter_bytes": parameters, **found}


def sam(told: Told) -> Found:
    """A training step of SAM with momentum SGD: ours against optax's."""
    problem, base = models.build(told), optax.sgd(0.01, momentum=0.9)
    ascent = optax.chain(optax.contrib.normalize(), optax.sgd(models.RHO))
    theirs = optax.contrib.sam(base, ascent, opaque_mode=True)

    def step(params: Any, state: Any, inputs: jax.Array, targets: jax.Array) -> tuple:
        def gradient(p: Any, _: int = 0) -> Any:
            return jax.grad(problem.loss)(p, inputs, targets)

        updates, state = theirs.update(gradient(params), state, params, grad_fn=gradient)
        return optax.apply_updates(params, updates), state

    ours = models.training_step(problem, sharpness_aware(base, models.make("sam")))
    optaxs = step, (problem.params, theirs.init(problem.params), *problem[2:])
    steps = {"tsam_jax": ours, "optax.contrib.sam": optaxs}
    ready = []
    for name, found in steps.items():
        this = Measurement({"by": name}, 2)
        ready.append((this, prepare(this, *models.donating(*found), donated=2)))
    for _ in rounds(told["seconds"]):
        take_turns(ready)
    seconds = ready[1][0].seconds
    rows = [{**x.as_json(), "over_optax": ratios(x.seconds, seconds)} for x, _ in ready]
    after, wanted = (jax.jit(step)(*arguments)[0] for step, arguments in steps.values())
    apart, change = (optax.tree.norm(optax.tree.sub(x, wanted)) for x in (after, problem.params))
    yield {"outcome": "measured", "programs": rows, "difference": float(apart / change)}


COLLECTIVE = re.compile(
    r" (?:all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)


def devices(told: Told) -> Found:
    """Work and communication of a step with its samples, then its batch, over all devices."""
    problem, rows = models.build(told), []
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
        compiled = compile_only(this, jax.jit(sharded).lower(*arguments))
        rows.append({**this.as_json(), "collectives": len(COLLECTIVE.findall(compiled.as_text()))})
    yield {"outcome": "measured", "programs": rows}


STEP = {"t": models.T, "rho": models.RHO, "lr": 0.01}
# Relative differences up to this are float32's: a gradient of ResNet-18 differs from that in
# float64 by 1.5e-2, and a step takes two. A step that is another one differs by about 1.
SAME = 4e-2


def torch(told: Told) -> dict[str, Any]:
    """Leads both sides; does not start JAX here: a GPU must be free for the workers."""
    if importlib.util.find_spec("torch") is None:
        return {"outcome": "failed: PyTorch is not installed"}
    env = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # both are on the GPU
    with tempfile.TemporaryDirectory() as folder:
        told = {**told, **STEP, "threads": len(os.sched_getaffinity(0))}
        told["exchange"] = str(Path(folder) / "exchange.npz")
        try:
            with record.Worker("steps", told | {"part": "ours"}, **env) as ours:
                us = ours.hear(told["timeout"])
                with record.Worker("torch_side", told | us, **env) as theirs:
                    them = theirs.hear(told["timeout"])
                    times = conversation({"ours": ours, "torch": theirs}, us["seconds"], told)
        except RuntimeError as error:
            return {"outcome": str(error)}
    worst = max(them["update_difference"], them["gradient_difference"])
    same = worst <= SAME or told["dtype"] != "float32"
    gradients, steps = (
        [times[f"{x} of {y}"] for y in ("ours", "torch")] for x in ("gradient", "step")
    )
    return {
        "outcome": "measured" if same else "failed: two different steps",
        **{key: them[key] for key in ("layout", "gradient_difference", "update_difference")},
        **{key: us[key] for key in ("parameters", "compile_seconds")},
        "threads": told["threads"],
        "seconds": times,
        "medians": {key: statistics.median(x) for key, x in times.items()},
        "gradient_over_torch": ratios(*gradients),
        "step_over_torch": ratios(*steps),
        "step_over_gradients": ratios(steps[0], gradients[0], 2 * told["s"]),
        "torch_step_over_gradients": ratios(steps[1], gradients[1], 2 * told["s"]),
    }


def conversation(sides: dict[str, record.Worker], expected: float, told: Told) -> Told:
    """Returns the seconds of each side's gradient and step, one entry a round."""
    kinds = {"gradient": expected / (2 * told["s"]), "step": expected}
    times: dict[str, list[float]] = {f"{what} of {side}": [] for what in kinds for side in sides}
    for _ in rounds(told["seconds"]):
        for what, side in itertools.product(kinds, sides):
            asked = {"what": what, "calls": calls_for_one_timing(kinds[what])}
            times[f"{what} of {side}"].append(sides[side].ask(asked, told["timeout"])["seconds"])
    return times


def write_exchange(told: Told, optimizer: Any) -> dict[str, Any]:
    """Writes parameters, batch, gradient, the first step's noise, and what that step makes."""
    problem = models.build({**told, "dtype": "float32"})
    step, arguments = models.training_step(problem, optimizer)
    params, state = arguments[:2]
    key = jax.random.fold_in(jax.random.wrap_key_data(state[0].key), 0)
    law, keys = noise.sphere(rms=models.RMS), jax.random.split(key, told["s"])
    trees = {"param": params, "after": jax.jit(step)(*arguments)[0]}
    trees["grad"] = jax.jit(jax.grad(problem.loss))(*problem[1:])
    trees |= {f"noise{j}": law(keys[j], params) for j in range(told["s"])}
    arrays = {"inputs": problem.inputs, "targets": problem.targets}
    for kind, tree in trees.items():
        arrays |= {f"{kind}:{name}": leaf for name, leaf in models.named(tree).items()}
    np.savez(told["exchange"], **{name: np.asarray(x) for name, x in arrays.items()})
    size = optax.tree.size(params)
    names = list(models.named(params))
    return {"names": names, "parameters": size, "radius": models.RMS * size**0.5}


def ours(told: Told) -> Found:
    """Our side: says what torch_side.py must know, and answers with times."""
    optimizer = sharpness_aware(optax.sgd(told["lr"]), models.make("tsam", told["s"]))
    found, problem, this = write_exchange(told, optimizer), models.build(told), Measurement({})
    step = models.donating(*models.training_step(problem, optimizer))
    runs = {"step": prepare(this, *step, donated=2)}
    runs["gradient"] = prepare(Measurement({}), *models.estimate(problem, "gradient", 1))
    yield {**found, "seconds": this.warm_seconds, "compile_seconds": this.compile_seconds}
    for asked in map(json.loads, sys.stdin):
        yield {"seconds": timed(runs[asked["what"]], asked["calls"])}


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    for answer in globals()[asked["part"]](asked):
        record.answer(answer)
