"""JAX's convolution and tsam_jax's in loops: `python -m benchmarks convolution`; see README.md."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax

from benchmarks import measure
from benchmarks.budget import Budget
from benchmarks.measure import Measurement
from benchmarks.models import build
from benchmarks.record import Common, say
from tsam_jax.analysis import hvp

CONVOLUTIONS = {"jax": "resnet14", "tsam_jax": "resnet14_fast_in_loops"}


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Gradients and Hessian products of a ResNet-14, in loops and out of them."""

    batch: int = 16
    members: int = 3
    """Gradients, or Hessian products, of a program."""
    repeats: int = 5


def programs_of(loss: Callable, params: Any, members: int) -> dict[str, Callable]:
    """Functions of `members` scales, each of which gives other parameters."""

    def gradient(scale: jax.Array) -> Any:
        return jax.grad(loss)(jax.tree.map(lambda x: x * scale, params))

    def product(scale: jax.Array) -> Any:
        return hvp(loss, jax.tree.map(lambda x: x * scale, params), params)

    return {
        "gradient, unrolled": lambda scales: [gradient(scales[i]) for i in range(members)],
        "gradient, `lax.map`": lambda scales: jax.lax.map(gradient, scales),
        "gradient, `vmap`": jax.vmap(gradient),
        "Hessian product, unrolled": lambda scales: [product(scales[i]) for i in range(members)],
        "Hessian product, `lax.map`": lambda scales: jax.lax.map(product, scales),
    }


def measure_all(settings: Settings, budget: Budget) -> Iterator[dict[str, Any]]:
    batch = 2 if settings.quick else settings.batch
    scales = 1 + jax.numpy.arange(settings.members) / 8
    cases = []
    for convolution, model in CONVOLUTIONS.items():
        problem = build(model, batch=batch)

        def loss(p: Any, problem: Any = problem) -> jax.Array:
            return problem.loss(p, problem.inputs, problem.targets)

        for name, function in programs_of(loss, problem.params, settings.members).items():
            if settings.quick and "Hessian" in name:
                continue
            this = Measurement({"convolution": convolution, "program": name}, settings.members)
            run = measure.prepare(this, jax.jit(function).lower(scales), (scales,))
            say(f"  {convolution}, {name}: {this.outcome}, {this.warm_seconds or 0:.2f} s")
            if run is not None:
                cases.append((this, run))
    measure.run_rounds(cases, repeats=settings.repeats, budget=budget.share(1.0))
    of = {(this.labels["convolution"], this.labels["program"]): this for this, _ in cases}
    ratios = {
        program: measure.ratios(of["jax", program].seconds, of["tsam_jax", program].seconds)
        for convolution, program in of
        if convolution == "tsam_jax" and ("jax", program) in of
    }
    measurements = [this.as_json() for this, _ in cases]
    yield {"measurements": measurements, "jax_over_tsam_jax": ratios}
