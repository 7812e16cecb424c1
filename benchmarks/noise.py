"""What noise costs: `python -m benchmarks noise`; see README.md."""

import dataclasses
import statistics
import time
from collections.abc import Iterator
from typing import Any

import jax
import optax

from benchmarks import measure, programs
from benchmarks.budget import Budget
from benchmarks.measure import Measurement, Run
from benchmarks.models import Problem, build
from benchmarks.record import Common, models_of, say
from tsam_jax import methods, noise


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """A TSAM step with our noise, with noise by `jax.random.normal`, and with free noise."""

    models: tuple[str, ...] = ("mlp", "resnet14")
    samples: int = 3
    batch: int = 64
    repeats: int = 20


def from_jax_random(key: jax.Array, params: Any) -> Any:
    """The sphere, by `jax.random.normal`."""
    z = optax.tree.random_like(key, params, jax.random.normal)
    radius = programs.RMS * optax.tree.size(params) ** 0.5
    return optax.tree.scale(radius / optax.tree.norm(z), z)


def free(key: jax.Array, params: Any) -> Any:
    """A perturbation that costs next to nothing, for the price of the rest of the step."""
    return optax.tree.scale(0.01 * jax.random.uniform(key), params)


LAWS = {
    "by `jax.random.normal`": from_jax_random,
    "`noise.sphere`": noise.sphere(rms=programs.RMS),
    "free": free,
}


def cases_of(
    model: str, problem: Problem, settings: Settings
) -> list[tuple[Measurement, Run | None]]:
    """Returns the plain gradient and a TSAM step for each law, compiled."""
    plain = Measurement({"model": model, "noise": "none: a plain gradient"})
    cases = [(plain, measure.prepare(plain, *programs.plain(problem)))]
    for name, law in LAWS.items():
        estimator = methods.tsam(t=programs.T, rho=programs.RHO, s=settings.samples, noise=law)
        this = Measurement({"model": model, "noise": name}, estimator.cost.gradients)
        cases.append((this, measure.prepare(this, *programs.estimate(problem, estimator))))
    return cases


def measure_all(settings: Settings, budget: Budget) -> Iterator[dict[str, Any]]:
    """Times by the clock, and by the CPU's share, which bears a busy machine better."""
    models = models_of(settings, ("mlp_small",))
    batch = 8 if settings.quick else settings.batch
    rows = []
    for i, model in enumerate(models):
        share = budget.share(1 / (len(models) - i))
        cases = cases_of(model, build(model, batch=batch), settings)
        cpu: dict[str, list[float]] = {this.labels["noise"]: [] for this, _ in cases}
        for finished in range(settings.repeats):
            if finished >= measure.LEAST_ROUNDS and not share.left():
                break
            for this, run in cases:
                before = time.process_time()
                this.seconds.append(measure.timed(run))
                cpu[this.labels["noise"]].append(time.process_time() - before)
        plain, *_ = cpu.values()
        for this, _ in cases:
            row = {**this.as_json(), "cpu_seconds": cpu[this.labels["noise"]]}
            row["ratio_quartiles"] = measure.ratios(
                this.seconds, cases[0][0].seconds, this.gradients
            )
            middle = this.gradients * statistics.median(plain)
            cpu_ratios = [x / middle for x in row["cpu_seconds"]]
            row["cpu_ratio_quartiles"] = measure.quartiles(cpu_ratios) if middle else None
            rows.append(row)
            say(f"  {model}, {this.labels['noise']}: {row['ratio_quartiles'][1]:.2f}")
        yield {"measurements": rows}
