"""What noise costs: `python benchmarks/noise.py [--models ...] [--samples 3]`; see README.md."""

import dataclasses
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import optax
import tyro
from measure import environment
from models import Problem, build

from tsam_jax import methods, noise, value_and_grad


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to measure, and how often."""

    models: tuple[str, ...] = ("mlp", "resnet")
    samples: int = 3
    batch: int = 64
    repeats: int = 30
    output: Path | None = None
    """The JSON file; by default benchmarks/results/noise-BACKEND.json."""


def from_jax_random(key: jax.Array, params: Any) -> Any:
    """The sphere, by `jax.random.normal`."""
    z = optax.tree.random_like(key, params, jax.random.normal)
    return optax.tree.scale(0.006 * optax.tree.size(params) ** 0.5 / optax.tree.norm(z), z)


def free(key: jax.Array, params: Any) -> Any:
    """A perturbation that costs next to nothing, for the price of the rest of the step."""
    return optax.tree.scale(0.01 * jax.random.uniform(key), params)


LAWS = {
    "sphere": noise.sphere(rms=0.006),
    "sphere by jax.random.normal": from_jax_random,
    "free": free,
}


@dataclasses.dataclass
class Case:
    """A compiled step, and what was measured of it: of times, one entry for each round."""

    run: Callable[[], Any]
    compile_cpu_seconds: float
    seconds: list[float] = dataclasses.field(default_factory=list)
    cpu_seconds: list[float] = dataclasses.field(default_factory=list)


def compiled(function: Callable[..., Any], *arguments: Any) -> Case:
    lowered = jax.jit(function).lower(*arguments)
    start = time.process_time()
    program = lowered.compile()
    case = Case(lambda: jax.block_until_ready(program(*arguments)), time.process_time() - start)
    case.run()
    return case


def cases_of(problem: Problem, settings: Settings) -> dict[str, Case]:
    """Returns the plain gradient and a TSAM step for each law, compiled."""
    batch = problem.inputs, problem.targets
    cases = {"gradient": compiled(jax.value_and_grad(problem.loss), problem.params, *batch)}
    for name, law in LAWS.items():
        estimator = methods.tsam(t=20.0, rho=0.05, s=settings.samples, noise=law)
        step = value_and_grad(problem.loss, estimator)
        state = estimator.init(problem.params)
        cases[name] = compiled(step, problem.params, state, *batch)
    return cases


def run_rounds(cases: dict[str, Case], repeats: int) -> None:
    """Times all in turn, so that drift hits all alike, by the clock and by the CPU's share."""
    for _ in range(repeats):
        for case in cases.values():
            clock, cpu = time.perf_counter(), time.process_time()
            case.run()
            case.seconds.append(time.perf_counter() - clock)
            case.cpu_seconds.append(time.process_time() - cpu)


def row_of(case: Case, plain: Case, gradients: int) -> dict[str, Any]:
    """Returns times, and the quartiles over rounds of that over as many plain gradients."""
    row: dict[str, Any] = {"compile_cpu_seconds": case.compile_cpu_seconds}
    for kind in "seconds", "cpu_seconds":
        own, of_plain = getattr(case, kind), statistics.median(getattr(plain, kind))
        ratios = [x / (gradients * of_plain) for x in own]
        row[kind] = own
        row["ratio_quartiles" if kind == "seconds" else "cpu_ratio_quartiles"] = (
            statistics.quantiles(ratios, n=4, method="inclusive")
        )
    return row


def main(settings: Settings) -> None:
    """Measures, prints, and writes the numbers as JSON."""
    where = environment()
    results = {}
    for model in settings.models:
        cases = cases_of(build(model, batch=settings.batch, dtype="float32"), settings)
        run_rounds(cases, settings.repeats)
        results[model] = {
            name: row_of(case, cases["gradient"], 1 if name == "gradient" else 2 * settings.samples)
            for name, case in cases.items()
        }
        for name, row in results[model].items():
            clock, cpu = row["ratio_quartiles"][1], row["cpu_ratio_quartiles"][1]
            compilation = row["compile_cpu_seconds"]
            print(f"{model:8} {name:28} {clock:.2f}, CPU {cpu:.2f}; to compile {compilation:.1f} s")
    results_folder = Path(__file__).parent / "results"
    output = settings.output or results_folder / f"noise-{where['backend']}.json"
    record = {
        "environment": {**where, "load_after": os.getloadavg()[0]},
        "settings": {**dataclasses.asdict(settings), "output": output.name},
        "models": results,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Settings))
