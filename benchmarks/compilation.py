"""What a step costs to compile, against SAM: `python -m benchmarks compile`; see README.md."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import measure, programs
from benchmarks.budget import Budget
from benchmarks.measure import Measurement
from benchmarks.models import Problem, build
from benchmarks.noise import free
from benchmarks.record import Common, models_of, say
from tsam_jax import methods, noise, value_and_grad


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Compile time of TSAM in terms of SAM's; nothing is run."""

    models: tuple[str, ...] = ("mlp", "transformer", "resnet18_fast_in_loops", "resnet18")
    s: int = 5
    batch: int = 64
    strategies: tuple[str, ...] = ("streamed", "unrolled")


def measure_all(settings: Settings, budget: Budget) -> Iterator[dict[str, Any]]:
    rows = []
    models = models_of(settings, ("mlp_small",))
    for model in models:
        problem = build(model, batch=settings.batch)
        cases = [(name, "-") for name in ("gradient", "sam", "sam in a loop")]
        cases += [("tsam, free noise", "streamed")] if "streamed" in settings.strategies else []
        cases += [("tsam", strategy) for strategy in settings.strategies]
        times, texts = {}, {}
        for method, strategy in cases:
            labels = {"model": model, "method": method, "strategy": strategy, "s": settings.s}
            this = Measurement({**labels, "batch": settings.batch})
            lowered = lowered_of(method, strategy, problem, settings.s)
            if method == "tsam":
                texts[strategy] = lowered.as_text()
            # An unrolled program takes about s times as long as SAM's.
            if strategy == "unrolled" and times["sam"] * settings.s > budget.left():
                this.outcome = "skipped: the time is spent"
            else:
                try:
                    measure.compile_only(this, lowered)
                except jax.errors.JaxRuntimeError as error:
                    this.outcome = f"failed: {str(error).splitlines()[0][:200]}"
            if this.compile_seconds:
                times[method] = this.compile_seconds
            say(f"  {model} {method} {strategy}: {this.compile_seconds or 0:.1f} s")
            rows.append(this)
        auto = programs.resolve_auto(problem, settings.s, texts)
        for this in rows[-len(cases) :]:
            this.labels["auto"] = (this.labels["method"], this.labels["strategy"]) == ("tsam", auto)
        yield {"measurements": [over_sam(this, rows) for this in rows]}


def lowered_of(method: str, strategy: Any, problem: Problem, s: int) -> jax.stages.Lowered:
    """A step, or a part of one that tells what its compile time is made of."""
    if method == "gradient":
        return programs.plain(problem).lowered
    if method == "sam in a loop":
        return sam_in_a_loop(problem, s)
    if method == "sam":
        estimator = methods.sam(rho=programs.RHO)
    else:
        law = free if method == "tsam, free noise" else noise.sphere(rms=programs.RMS)
        estimator = methods.tsam(programs.T, programs.RHO, s, noise=law, strategy=strategy)
    return programs.estimate(problem, estimator).lowered


def sam_in_a_loop(problem: Problem, s: int) -> jax.stages.Lowered:
    """The sum of SAM's gradients at s points: what any loop over samples has in it."""
    estimator = methods.sam(rho=programs.RHO)
    gradient = value_and_grad(problem.loss, estimator)

    @jax.jit
    def run(params: Any, state: Any, *batch: Any) -> Any:
        def body(total: Any, scale: jax.Array) -> tuple[Any, jax.Array]:
            point = jax.tree.map(lambda x: scale * x, params)
            (value, grad), _ = gradient(point, state, *batch)
            return jax.tree.map(jnp.add, total, grad), value

        zeros = jax.tree.map(jnp.zeros_like, params)
        return jax.lax.scan(body, zeros, 1 + jnp.arange(s) / 100)

    return run.lower(problem.params, gradient.init(problem.params), problem.inputs, problem.targets)


def over_sam(this: Measurement, rows: list[Measurement]) -> dict[str, Any]:
    sam = next(
        x for x in rows if x.labels["model"] == this.labels["model"] and x.labels["method"] == "sam"
    )
    row = this.as_json()
    for kind in "compile_seconds", "compile_cpu_seconds":
        ours, theirs = getattr(this, kind), getattr(sam, kind)
        row[f"{kind}_over_sam"] = round(ours / theirs, 3) if ours and theirs else None
    return row
