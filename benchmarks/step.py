"""What a step costs, in plain gradients: `python -m benchmarks step`; see README.md."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax

from benchmarks import machine, measure, programs
from benchmarks.budget import Budget
from benchmarks.measure import Measurement
from benchmarks.models import Problem, build, size
from benchmarks.programs import STRATEGIES, Program
from benchmarks.record import Common, say
from tsam_jax import methods

ON_CPU = ("mlp", "transformer", "resnet14", "resnet14_fast_in_loops", "resnet18")
ON_CPU += ("resnet18_fast_in_loops",)
ZOO = ("zoo:resnet18", "zoo:wrn16-8", "zoo:vit-b16", "zoo:distilbert")
ELSEWHERE = ("mlp", "transformer", "resnet18", *ZOO)

# On a CPU these take minutes a step: gradients of JAX's convolutions in a loop, or of a vmap over
# kernels. `resnet14` and the part `convolution` show by how much they are slower.
HOPELESS_ON_CPU = {
    "resnet14": {"streamed"},
    "resnet18": {"streamed", "vectorized"},
    "resnet18_fast_in_loops": {"vectorized"},
}

# Of the time; 2 for others.
SHARES = {"mlp": 1, "resnet14": 1, "resnet18": 4, "resnet18_fast_in_loops": 6}


MOST = 4  # A program that takes more than this part of a cell's time is timed once, if at all.


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """What a step costs, for each model, batch, dtype, number of samples and strategy."""

    models: tuple[str, ...] = ()
    """By default those that fit the backend."""
    samples: tuple[int, ...] = ()
    """Numbers of samples, the most important one first; by default 3, 16, 1; not on CPUs: 3, 5."""
    batches: tuple[int, ...] = ()
    """By default 64, and on GPUs 512."""
    dtypes: tuple[str, ...] = ()
    """By default float32, and on GPUs bfloat16."""
    strategies: tuple[str, ...] = STRATEGIES
    repeats: int = 20
    """Rounds at most."""
    peak_tflops: float | None = None
    """The device's peak, for its utilisation; known for some GPUs."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One model at one batch and dtype: its cases are timed in the same rounds."""

    model: str
    batch: int
    dtype: str


def cells_of(settings: Settings) -> list[Cell]:
    cpu = jax.default_backend() == "cpu"
    if settings.quick:
        models, batches, dtypes = ("mlp_small", "resnet14"), (8,), ("float32",)
    elif cpu:
        models, batches, dtypes = ON_CPU, (64,), ("float32",)
    else:
        models, batches, dtypes = ELSEWHERE, (64, 512), ("float32", "bfloat16")
    return [
        Cell(model, batch, dtype)
        for dtype in settings.dtypes or dtypes
        for batch in settings.batches or batches
        for model in settings.models or models
    ]


def samples_of(settings: Settings) -> tuple[int, ...]:
    by_default = (3, 16, 1) if jax.default_backend() == "cpu" else (3, 5)
    samples = settings.samples or by_default
    return samples[:1] if settings.quick else samples


def cases_of(
    cell: Cell, settings: Settings, problem: Problem
) -> list[tuple[Measurement, Callable[[], Program]]]:
    """Returns what is measured in a cell, the most important first: the plain gradient, then..."""

    def labels(method: str, strategy: str = "-", s: int = 1) -> dict[str, Any]:
        return {**dataclasses.asdict(cell), "method": method, "strategy": strategy, "s": s}

    sam = methods.sam(rho=programs.RHO)
    cases = [(Measurement(labels("gradient")), lambda: programs.plain(problem))]
    samples = samples_of(settings)
    for s in samples:
        for strategy in settings.strategies:
            estimator = programs.tsam(s, strategy)
            this = Measurement(labels("tsam", strategy, s), estimator.cost.gradients)
            cases.append((this, lambda e=estimator: programs.estimate(problem, e)))
        if s == samples[0]:
            this = Measurement(labels("sam"), sam.cost.gradients)
            cases.append((this, lambda: programs.estimate(problem, sam)))
    return cases


def reason_to_skip(
    this: Measurement, done: list[Measurement], budget: Budget, *, cpu: bool
) -> str | None:
    """Returns why not to try it: its price, in proportion to the same strategy at another s."""
    strategy = this.labels["strategy"]
    if cpu and strategy in HOPELESS_ON_CPU.get(this.labels["model"], ()):
        return "takes minutes a step on a CPU"
    last = next((x for x in reversed(done) if x.labels["strategy"] == strategy), None)
    last = last or next((x for x in reversed(done) if x.labels["method"] == "tsam"), None)
    last = last or (done[0] if done else None)
    if last is None or last.warm_seconds is None:
        return None
    step = last.warm_seconds * this.gradients / last.gradients
    if step > budget.seconds / MOST:
        return f"{step:.2g} s a step"
    growth = this.gradients / last.gradients if strategy == "unrolled" else 1.0
    compilation = last.compile_seconds * max(growth, 1.0)
    rounds = measure.LEAST_ROUNDS * (step + sum(x.warm_seconds or 0.0 for x in done))
    if compilation + step + rounds > budget.left():
        return f"no time for {compilation:.0f} s of compilation and {step:.2g} s a step"
    return None


def measure_cell(cell: Cell, settings: Settings, budget: Budget) -> dict[str, Any]:
    """Returns the cell's measurements, the plain gradient first, and what "auto" is for each s."""
    problem = build(cell.model, batch=cell.batch, dtype=cell.dtype)
    cpu = jax.default_backend() == "cpu"
    flops, done, ready = None, [], []
    texts: dict[int, dict[str, str]] = {s: {} for s in samples_of(settings)}
    for this, make in cases_of(cell, settings, problem):
        if reason := reason_to_skip(this, done, budget, cpu=cpu):
            this.outcome = f"skipped: {reason}"
            done.append(this)
            continue
        program = make()
        if this.labels["method"] == "gradient":
            flops = (program.lowered.cost_analysis() or {}).get("flops")
        if this.labels["method"] == "tsam":
            texts[this.labels["s"]][this.labels["strategy"]] = program.lowered.as_text()
        run = measure.prepare(this, *program)
        say(f"  {this.labels['method']} {this.labels['strategy']} s={this.labels['s']}:"
            f" {this.outcome}, {this.compile_seconds or 0:.1f} s to compile,"
            f" {this.warm_seconds or 0:.3f} s a step")  # fmt: skip
        done.append(this)
        if run is not None and this.warm_seconds > budget.seconds / MOST:
            this.seconds = [this.warm_seconds]
        elif run is not None:
            ready.append((this, run))
    repeats = 3 if settings.quick else settings.repeats
    measure.run_rounds(ready, repeats=repeats, budget=budget.share(1.0))
    auto = [
        {**dataclasses.asdict(cell), "s": s, "auto": programs.resolve_auto(problem, s, found)}
        for s, found in texts.items()
        if found
    ]
    peak = machine.peak_flops(cell.dtype, settings.peak_tflops)
    return {
        "parameters": size(problem.params),
        "flops_of_a_gradient": flops,
        "measurements": [described(x, done[0], flops, peak) for x in done],
        "auto": [with_best(row, done) for row in auto],
    }


def described(
    this: Measurement, plain: Measurement, flops: float | None, peak: float | None
) -> dict[str, Any]:
    """The measurement, with its ratio to plain gradients and its use of the device.

    `utilisation` is the flops of the gradients that the method is worth, over what the device could
    have done in that time: work that is done twice does not count.
    """
    row = this.as_json()
    row["ratio_quartiles"] = measure.ratios(this.seconds, plain.seconds, this.gradients)
    middle = measure.median(this)
    known = middle and flops
    row["tflops"] = round(this.gradients * flops / middle / 1e12, 5) if known else None
    row["utilisation"] = round(1e12 * row["tflops"] / peak, 4) if known and peak else None
    if plain.total_bytes and this.total_bytes:
        row["memory_ratio"] = round(this.total_bytes / plain.total_bytes, 3)
    return row


def with_best(row: dict[str, Any], done: list[Measurement]) -> dict[str, Any]:
    """Adds the fastest strategy, and by how much slower "auto" is than it."""
    seconds = {
        x.labels["strategy"]: x.seconds
        for x in done
        if x.labels["method"] == "tsam" and x.labels["s"] == row["s"] and x.seconds
    }
    medians = {name: measure.quartiles(x)[1] for name, x in seconds.items()}
    best = min(medians, key=medians.get, default=None)
    slower = None
    if row["auto"] in seconds and best:
        slower = measure.ratios(seconds[row["auto"]], seconds[best])[1]
    return {**row, "best": best, "compared": sorted(seconds), "auto_over_best": slower}


def measure_all(settings: Settings, budget: Budget) -> Iterator[dict[str, Any]]:
    cells, results = cells_of(settings), []
    weights = [SHARES.get(cell.model, 2) for cell in cells]
    counts = {s: programs.counted_gradients(programs.tsam(s)) for s in samples_of(settings)}
    for i, cell in enumerate(cells):
        say(f"{cell.model}, batch {cell.batch}, {cell.dtype}")
        try:
            share = budget.share(weights[i] / sum(weights[i:]))
            results.append({**dataclasses.asdict(cell), **measure_cell(cell, settings, share)})
        except Exception as error:
            say(f"  failed: {error!r}")
            results.append({**dataclasses.asdict(cell), "failed": repr(error)[:300]})
        yield {"cells": results, "counted_gradients": counts}
