"""Many steps in one program against one each: `python -m benchmarks dispatch`; see README.md."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks import measure, programs, training
from benchmarks.budget import Budget
from benchmarks.measure import Measurement
from benchmarks.models import build
from benchmarks.record import Common, models_of, say
from tsam_jax import methods, sharpness_aware


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """k training steps in one `lax.scan`, over k dispatches of one; data are on the device."""

    models: tuple[str, ...] = ("mlp_small", "mlp", "transformer", "resnet14_fast_in_loops")
    batch: int = 64
    steps: int = 8
    repeats: int = 10


def measure_all(settings: Settings, budget: Budget) -> Iterator[dict[str, Any]]:
    models = models_of(settings, ("mlp_small",))
    estimators = {"sgd": methods.erm(), "tsam": programs.tsam(3)}
    rows = []
    for i, model in enumerate(models):
        share = budget.share(1 / (len(models) - i))
        problem = build(model, batch=settings.batch)
        cases = []
        for method, estimator in estimators.items():
            optimizer = sharpness_aware(optax.sgd(0.01), estimator)
            step, start = programs.training_step(problem, optimizer)
            labels = {"model": model, "batch": settings.batch, "method": method}
            batch = problem.inputs, problem.targets
            batches = jax.tree.map(lambda x: jnp.stack([x] * settings.steps), batch)

            def scanned(params: Any, state: Any, batches: Any, step: Any = step) -> tuple:
                return jax.lax.scan(lambda c, b: (step(*c, *b), None), (params, state), batches)[0]

            single = Measurement({**labels, "form": "dispatched"})
            many = Measurement({**labels, "form": "scanned"})
            one = training.prepare_donated(single, step, start, *batch)
            all_ = training.prepare_donated(many, scanned, start, batches)

            def k_times(one: Any = one) -> Any:
                for _ in range(settings.steps - 1):
                    one()
                return one()

            single.warm_seconds *= settings.steps
            cases += [(single, k_times), (many, all_)]
        repeats = 3 if settings.quick else settings.repeats
        measure.run_rounds(cases, repeats=repeats, budget=share.share(1.0))
        for (single, _), (many, _) in zip(cases[::2], cases[1::2], strict=True):
            ratio = measure.ratios(many.seconds, single.seconds)
            row = {**single.labels, "steps": settings.steps, "scanned_over_dispatched": ratio}
            for this in single, many:
                row[f"{this.labels['form']}_ms_a_step"] = (
                    1e3 * measure.median(this) / settings.steps
                )
                row[f"{this.labels['form']}_compile_seconds"] = this.compile_seconds
            row.pop("form")
            rows.append(row)
            say(f"  {model} {row['method']}: {ratio[1]:.2f}")
        yield {"measurements": rows}
