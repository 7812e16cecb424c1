"""What a step of each method costs: `python -m benchmarks methods`; see README.md."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from benchmarks import measure, programs
from benchmarks.budget import Budget
from benchmarks.measure import Measurement, Run
from benchmarks.models import build
from benchmarks.record import Common, say
from tsam_jax import GradientEstimator
from tsam_jax.methods import METHODS

STEPS = 10  # of a timing, each from the last one's state: whole periods of those that have one


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """A step of every method of `tsam_jax.methods.METHODS`, in terms of its gradients."""

    model: str = "mlp"
    batch: int = 64
    methods: tuple[str, ...] = tuple(METHODS)
    repeats: int = 20


def successive(this: Measurement, program: programs.Program) -> Run:
    """Compiles; returns what takes `STEPS` steps and keeps the method's state."""
    compiled = measure.compile_only(this, program.lowered)
    params, state, *batch = program.arguments

    def run() -> Any:
        nonlocal state
        for _ in range(STEPS):
            result, state = compiled(params, state, *batch)
        return result, state

    this.warm_seconds = measure.warm(run)
    return run


def measure_all(settings: Settings, budget: Budget) -> Iterator[dict[str, Any]]:
    model = "mlp_small" if settings.quick else settings.model
    problem = build(model, batch=settings.batch)
    labels = {"model": model, "method": "gradient", "batch": settings.batch}
    plain = Measurement(labels, STEPS)
    once = measure.prepare(plain, *programs.plain(problem))
    plain.warm_seconds *= STEPS
    ready = [(plain, lambda: [once() for _ in range(STEPS)])]
    estimators = {name: programs.make(name) for name in settings.methods}
    for name, estimator in estimators.items():
        this = Measurement({**labels, "method": name}, STEPS * estimator.cost.gradients)
        ready.append((this, successive(this, programs.estimate(problem, estimator))))
    say(f"  {len(ready)} programs are compiled")
    repeats = 3 if settings.quick else settings.repeats
    measure.run_rounds(ready, repeats=repeats, budget=budget.share(1.0))
    yield {"measurements": [described(x, plain, estimators) for x, _ in ready]}


def described(
    this: Measurement, plain: Measurement, estimators: dict[str, GradientEstimator]
) -> dict[str, Any]:
    """The measurement for one step, its ratios, and its count of gradients."""
    row = this.as_json()
    row["gradients"] = this.gradients / STEPS
    row["seconds"] = [x / STEPS for x in this.seconds]
    row["ratio_quartiles"] = measure.ratios(this.seconds, plain.seconds, row["gradients"])
    row["over_plain"] = measure.ratios(this.seconds, plain.seconds)
    if estimator := estimators.get(this.labels["method"]):
        row["values"] = estimator.cost.values
        row["counted_gradients"] = programs.counted_gradients(estimator, STEPS)
    return row
