"""SAM through our adapters against optax.contrib.sam: `python -m benchmarks sam`; see README.md."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks import measure, programs, training
from benchmarks.budget import Budget
from benchmarks.measure import Measurement
from benchmarks.models import Problem, build
from benchmarks.record import Common, models_of, say
from tsam_jax import estimate_gradient, methods, sharpness_aware

OURS = ("sharpness_aware", "chain of estimate_gradient")


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """A training step of SAM with momentum SGD: ours over optax's."""

    models: tuple[str, ...] = ("mlp_small", "mlp", "transformer", "resnet14")
    batch: int = 64
    repeats: int = 30


def steps_of(problem: Problem) -> dict[str, tuple[Callable, tuple]]:
    """Returns the training step of each implementation, and its first (params, state)."""
    base = optax.sgd(0.01, momentum=0.9)
    sam = methods.sam(rho=programs.RHO)
    ours = (sharpness_aware(base, sam), optax.chain(estimate_gradient(sam), base))
    steps = {
        name: programs.training_step(problem, optimizer)
        for name, optimizer in zip(OURS, ours, strict=True)
    }
    ascent = optax.chain(optax.contrib.normalize(), optax.sgd(programs.RHO))
    theirs = optax.contrib.sam(base, ascent, opaque_mode=True)

    def step(params: Any, state: Any, inputs: jax.Array, targets: jax.Array) -> tuple:
        def gradient(p: Any, _: int = 0) -> Any:
            return jax.grad(problem.loss)(p, inputs, targets)

        updates, state = theirs.update(gradient(params), state, params, grad_fn=gradient)
        return optax.apply_updates(params, updates), state

    steps["optax.contrib.sam"] = step, (problem.params, theirs.init(problem.params))
    return steps


def largest_difference(problem: Problem) -> float:
    """Returns the largest difference of the parameters after a step, over the largest change."""
    batch = problem.inputs, problem.targets
    after = [jax.jit(step)(*start, *batch)[0] for step, start in steps_of(problem).values()]

    def distance(a: Any, b: Any) -> float:
        parts = jax.tree.map(lambda x, y: jnp.max(jnp.abs(x - y)), a, b)
        return max(float(x) for x in jax.tree.leaves(parts))

    change = distance(problem.params, after[-1])
    return max(distance(x, after[-1]) for x in after[:-1]) / change


def measure_all(settings: Settings, budget: Budget) -> Iterator[dict[str, Any]]:
    models = models_of(settings, ("mlp_small",))
    rows = []
    for i, model in enumerate(models):
        share = budget.share(1 / (len(models) - i))
        problem = build(model, batch=settings.batch)
        difference = largest_difference(problem)
        cases = []
        for name, (step, start) in steps_of(problem).items():
            this = Measurement({"model": model, "batch": settings.batch, "by": name}, 2)
            run = training.prepare_donated(this, step, start, problem.inputs, problem.targets)
            cases.append((this, run))
        repeats = 3 if settings.quick else settings.repeats
        measure.run_rounds(cases, repeats=repeats, budget=share.share(1.0))
        theirs = cases[-1][0]
        for this, _ in cases:
            ratio = measure.ratios(this.seconds, theirs.seconds)
            rows.append({**this.as_json(), "over_optax": ratio, "largest_difference": difference})
            say(f"  {model} {this.labels['by']}: {ratio[1]:.3f} of optax's time")
        yield {"measurements": rows}
