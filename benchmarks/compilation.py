"""What a step costs to compile, against SAM: `python -m benchmarks compile`; see README.md."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

from benchmarks import measure, programs
from benchmarks.budget import Budget
from benchmarks.measure import Measurement
from benchmarks.models import build
from benchmarks.record import Common, models_of, say
from tsam_jax import methods


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
        cases = [("gradient", "-", None), ("sam", "-", methods.sam(rho=programs.RHO))]
        cases += [("tsam", x, programs.tsam(settings.s, x)) for x in settings.strategies]
        times, texts = {}, {}
        for method, strategy, estimator in cases:
            labels = {"model": model, "method": method, "strategy": strategy, "s": settings.s}
            this = Measurement({**labels, "batch": settings.batch})
            if estimator is None:
                lowered = programs.plain(problem).lowered
            else:
                lowered = programs.estimate(problem, estimator).lowered
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
            this.labels["auto"] = this.labels["strategy"] == auto
        yield {"measurements": [over_sam(this, rows) for this in rows]}


def over_sam(this: Measurement, rows: list[Measurement]) -> dict[str, Any]:
    sam = next(
        x for x in rows if x.labels["model"] == this.labels["model"] and x.labels["method"] == "sam"
    )
    row = this.as_json()
    for kind in "compile_seconds", "compile_cpu_seconds":
        ours, theirs = getattr(this, kind), getattr(sam, kind)
        row[f"{kind}_over_sam"] = round(ours / theirs, 3) if ours and theirs else None
    return row
