"""What a step costs: `python benchmarks/step.py [--models ...] [--samples ...]`; see README.md."""

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import tyro
from measure import Measurement, environment, median, prepare, ratios, run_rounds
from models import MODELS, Problem, build
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tsam_jax import GradientEstimator, methods, noise, value_and_grad

STRATEGIES = ("vectorized", "unrolled", "streamed")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to measure, and how often."""

    models: tuple[str, ...] = tuple(MODELS)
    samples: tuple[int, ...] = (1, 3, 5, 16)
    batch: int = 64
    dtype: Literal["float32", "bfloat16"] = "float32"
    repeats: int = 10
    limit: float = 40.0
    """Seconds of timing for each function; skipped if one step is expected to take longer."""
    compile_limit: float = 120.0
    """Skipped if compilation is expected to take longer, in seconds."""
    output: Path | None = None
    """The JSON file; by default benchmarks/results/step-BACKEND.json."""


Lowered = tuple[jax.stages.Lowered, tuple]


def lower_plain(problem: Problem) -> Lowered:
    arguments = (problem.params, problem.inputs, problem.targets)
    return jax.jit(jax.value_and_grad(problem.loss)).lower(*arguments), arguments


def lower(problem: Problem, estimator: GradientEstimator) -> Lowered:
    arguments = (problem.params, estimator.init(problem.params), problem.inputs, problem.targets)
    return jax.jit(value_and_grad(problem.loss, estimator)).lower(*arguments), arguments


def lower_tsam(problem: Problem, s: int, strategy: Any) -> Lowered:
    law = noise.sphere(rms=0.006)
    return lower(problem, methods.tsam(t=20.0, rho=0.05, s=s, noise=law, strategy=strategy))


def resolve_auto(problem: Problem, s: int) -> str:
    """Returns the strategy whose program is that of "auto"."""
    program, *others = (
        lower_tsam(problem, s, strategy)[0].as_text() for strategy in ("auto", *STRATEGIES)
    )
    return STRATEGIES[others.index(program)]


def reason_to_skip(done: list[Measurement], this: Measurement, settings: Settings) -> str | None:
    """Returns why not to try it, in proportion to the same strategy at the last smaller s."""
    for last in reversed(done):
        if last.strategy == this.strategy and last.compile_seconds is not None:
            step = last.step_seconds * this.s / last.s
            if step > settings.limit:
                return f"{step:.0f} s a step"
            compilation = last.compile_seconds * this.s / last.s
            if compilation > settings.compile_limit and this.strategy == "unrolled":
                return f"{compilation:.0f} s to compile"
            break
    return None


def measure_model(
    name: str, settings: Settings, say: Callable[[str], None]
) -> tuple[list[Measurement], dict[int, str]]:
    """Returns the measurements, the plain gradient first, and what "auto" is for each s."""
    problem = build(name, batch=settings.batch, dtype=settings.dtype)
    samples = sorted(settings.samples)
    sam = methods.sam(rho=0.05)
    todo = [
        (Measurement(name, "gradient", "-", 1, 1), lambda: lower_plain(problem)),
        (Measurement(name, "sam", "-", 1, sam.cost.gradients), lambda: lower(problem, sam)),
    ]
    for s in samples:
        for x in STRATEGIES:
            case = Measurement(name, "tsam", x, s, 2 * s)
            todo.append((case, lambda s=s, x=x: lower_tsam(problem, s, x)))

    done: list[Measurement] = []
    cases = []
    for this, make in todo:
        say(f"{name}: {this.method} {this.strategy} s={this.s}")
        if reason := reason_to_skip(done, this, settings):
            this.outcome = f"skipped: {reason}"
        else:
            run = prepare(this, *make())
            if this.outcome == "measured" and this.step_seconds > settings.limit:
                this.outcome = f"stopped: {this.step_seconds:.0f} s a step"
            if this.outcome == "measured":
                cases.append((this, run))
        done.append(this)
    say(f"{name}: {settings.repeats} rounds of {len(cases)}")
    run_rounds(cases, repeats=settings.repeats, limit=settings.limit)
    return done, {s: resolve_auto(problem, s) for s in samples}


def table_of(measurements: list[Measurement]) -> Table:
    table = Table(
        title="Times and memory in terms of plain gradients; 1 in `ratio` is no overhead",
        box=SIMPLE_HEAD,
    )
    table.add_column("step", no_wrap=True)
    for column in ("ms", "ratio", "quartiles", "compile s", "temp MB", "memory"):
        table.add_column(column, justify="right", no_wrap=True)
    for this in measurements:
        plain = next(x for x in measurements if x.model == this.model)
        row = [f"{this.model} {this.method}"]
        if this.method == "tsam":
            row = [f"{this.model} s={this.s} {this.strategy}"]
        if this.seconds:
            low, middle, high = ratios(this, plain)
            row += [f"{1e3 * median(this):.1f}", f"{middle:.2f}", f"{low:.2f} - {high:.2f}"]
            row.append(f"{this.compile_seconds:.1f}")
        else:
            row += ["", "", this.outcome]
        if this.seconds and this.temp_bytes is not None:
            memory = this.total_bytes / plain.total_bytes
            row += [f"{this.temp_bytes / 1e6:.1f}", f"{memory:.1f}"]
        table.add_row(*row, end_section=this.strategy in {"-", "streamed"})
    return table


def recommend(measurements: list[Measurement], auto: dict[str, dict[int, str]]) -> list[dict]:
    """Returns, for each model and s, the fastest strategy, and "auto" in terms of it."""
    rows = []
    for model, choices in auto.items():
        for s, choice in choices.items():
            times = {
                x.strategy: median(x)
                for x in measurements
                if (x.model, x.method, x.s) == (model, "tsam", s) and x.seconds
            }
            best = min(times, key=times.get, default=None)
            slower = times[choice] / times[best] if choice in times else None
            row = {"model": model, "s": s, "best": best, "auto": choice, "auto_over_best": slower}
            rows.append(row)
    return rows


def table_of_recommendation(rows: list[dict]) -> Table:
    table = Table(title=f'Fastest on {jax.default_backend()}, and "auto"', box=SIMPLE_HEAD)
    for column in ("model", "s", "fastest", "auto", "auto / fastest"):
        table.add_column(column)
    for row in rows:
        slower = row["auto_over_best"]
        shown = "not measured" if slower is None else f"{slower:.2f}"
        table.add_row(row["model"], str(row["s"]), row["best"] or "none", row["auto"], shown)
    return table


def as_json(this: Measurement, plain: Measurement) -> dict[str, Any]:
    quartiles = ratios(this, plain) if this.seconds else None
    return {**dataclasses.asdict(this), "ratio_quartiles": quartiles}


def main(settings: Settings) -> None:
    """Measures, prints the tables, and writes the numbers as JSON."""
    console = Console(width=None if sys.stdout.isatty() else 110)
    where = environment()
    measurements: list[Measurement] = []
    auto = {}
    for name in settings.models:
        done, auto[name] = measure_model(name, settings, console.print)
        measurements += done
    recommendation = recommend(measurements, auto)
    console.print(table_of(measurements))
    console.print(table_of_recommendation(recommendation))

    results = Path(__file__).parent / "results"
    output = settings.output or results / f"step-{where['backend']}.json"
    plain = {x.model: x for x in measurements if x.method == "gradient"}
    record = {
        "environment": {**where, "load_after": os.getloadavg()[0]},
        "settings": {**dataclasses.asdict(settings), "output": output.name},
        "measurements": [as_json(x, plain[x.model]) for x in measurements],
        "recommendation": recommendation,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(record, indent=1) + "\n")
    console.print(f"Written to {output}")


if __name__ == "__main__":
    main(tyro.cli(Settings))
