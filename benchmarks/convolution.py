"""JAX's convolution and tsam_jax's in loops: `python benchmarks/convolution.py`; see README.md."""

import dataclasses
import json
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import tyro
from measure import Measurement, environment, median, prepare, run_rounds
from models import build

from tsam_jax.analysis import hvp

CONVOLUTIONS = {"jax": "resnet", "tsam_jax": "resnet_fast_in_loops"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to measure, and how often."""

    batch: int = 16
    members: int = 3
    """Gradients, or Hessian products, of a program."""
    repeats: int = 5
    limit: float = 120.0
    """Seconds of timing for each function."""
    output: Path = Path(__file__).parent / "results" / "convolution-cpu.json"


def programs(loss: Callable, params: Any, members: int) -> dict[str, Callable]:
    """Functions of `members` scales, each of which gives other parameters."""

    def gradient(scale: jax.Array) -> Any:
        return jax.grad(loss)(jax.tree.map(lambda x: x * scale, params))

    def product(scale: jax.Array) -> Any:
        return hvp(loss, jax.tree.map(lambda x: x * scale, params), params)

    return {
        "gradient unrolled": lambda scales: [gradient(scales[i]) for i in range(members)],
        "gradient lax.map": lambda scales: jax.lax.map(gradient, scales),
        "gradient vmap": jax.vmap(gradient),
        "Hessian product unrolled": lambda scales: [product(scales[i]) for i in range(members)],
        "Hessian product lax.map": lambda scales: jax.lax.map(product, scales),
    }


def main(settings: Settings) -> None:
    """Measures, prints, and writes the numbers as JSON."""
    where = environment()
    scales = 1 + jax.numpy.arange(settings.members) / 8
    cases = []
    for convolution, model in CONVOLUTIONS.items():
        problem = build(model, batch=settings.batch, dtype="float32")

        def loss(p, problem=problem):
            return problem.loss(p, problem.inputs, problem.targets)

        for name, function in programs(loss, problem.params, settings.members).items():
            this = Measurement(convolution, name, "-", settings.members, settings.members)
            cases.append((this, prepare(this, jax.jit(function).lower(scales), (scales,))))
            print(convolution, name, this.outcome, this.step_seconds)
    run_rounds(cases, repeats=settings.repeats, limit=settings.limit)
    times = {(this.model, this.method): this for this, _ in cases}
    rows = []
    for method in programs(None, None, settings.members):
        plain, ours = (times[name, method] for name in CONVOLUTIONS)
        pairs = zip(plain.seconds, ours.seconds, strict=False)
        ratio = statistics.median(a / b for a, b in pairs)
        rows.append({"program": method, "jax_over_tsam_jax": round(ratio, 2)})
        print(f"{method:26}{median(plain):8.2f} s{median(ours):8.2f} s{ratio:7.1f}")
    record = {
        "environment": {**where, "load_after": os.getloadavg()[0]},
        "settings": {**dataclasses.asdict(settings), "output": settings.output.name},
        "measurements": [dataclasses.asdict(this) for this, _ in cases],
        "ratios": rows,
    }
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    settings.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Settings))
