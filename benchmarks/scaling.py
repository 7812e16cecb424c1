"""Scaling in samples and in parameters: `python -m benchmarks scaling`; see README.md."""

import dataclasses
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax

from benchmarks import measure, programs
from benchmarks.budget import Budget
from benchmarks.measure import Measurement
from benchmarks.models import Problem, build, mlp, size
from benchmarks.record import Common, models_of, say

COPIES = 12  # of the parameters that a step may hold: beyond the memory at hand it is not tried


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """The time of a step as s grows from 1 to 64, and as an MLP grows to 1e8 parameters."""

    models: tuple[str, ...] = ("mlp", "transformer", "resnet14_fast_in_loops")
    samples: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    parameters: tuple[float, ...] = (1e4, 1e5, 1e6, 1e7, 1e8)
    s: int = 3
    """Samples, while parameters grow."""
    batch: int = 64
    repeats: int = 10


def hidden_for(parameters: float) -> int:
    """Returns the width w of two hidden layers: 784 w + w^2 + 10 w = parameters, roughly."""
    return max(round((-794 + math.sqrt(794**2 + 4 * parameters)) / 2), 1)


def measure_group(
    labels: dict[str, Any], problem: Problem, samples: tuple[int, ...], repeats: int, budget: Budget
) -> list[dict[str, Any]]:
    """Times the plain gradient and a step of each s in the same rounds."""
    plain = Measurement({**labels, "method": "gradient", "s": 1})
    done, ready = [plain], []
    ready.append((plain, measure.prepare(plain, *programs.plain(problem))))
    for s in samples:
        this = Measurement({**labels, "method": "tsam", "s": s}, 2 * s)
        done.append(this)
        last = done[-2] if done[-2].warm_seconds else plain
        expected = last.warm_seconds * this.gradients / last.gradients
        so_far = sum(x.warm_seconds or 0.0 for x in done)
        if last.compile_seconds + (measure.LEAST_ROUNDS + 1) * (so_far + expected) > budget.left():
            this.outcome = f"skipped: no time for {expected:.2g} s a step"
            continue
        run = measure.prepare(this, *programs.estimate(problem, programs.tsam(s)))
        say(f"  {labels} s={s}: {this.outcome}, {this.warm_seconds or 0:.3f} s")
        if run is not None:
            ready.append((this, run))
    measure.run_rounds(ready, repeats=repeats, budget=budget.share(1.0))
    rows = []
    for this in done:
        row = this.as_json()
        row["parameters"] = size(problem.params)
        row["ratio_quartiles"] = measure.ratios(this.seconds, plain.seconds, this.gradients)
        rows.append(row)
    return rows


def available_bytes() -> float:
    if stats := jax.devices()[0].memory_stats():
        return stats["bytes_limit"]
    with open("/proc/meminfo") as lines:  # noqa: PTH123 - not a file on a disk
        found = [line.split()[1] for line in lines if line.startswith("MemAvailable")]
    return 1024 * float(found[0])


def measure_all(settings: Settings, budget: Budget) -> Iterator[dict[str, Any]]:
    repeats = 3 if settings.quick else settings.repeats
    models = models_of(settings, ("mlp_small",))
    samples, sizes = settings.samples, settings.parameters
    if settings.quick:
        samples, sizes = samples[:3], sizes[:3]
    in_samples, in_parameters = [], []
    for i, model in enumerate(models):
        share = budget.share(0.6 / (len(models) - 0.6 * i))
        problem = build(model, batch=settings.batch)
        in_samples += measure_group({"model": model}, problem, samples, repeats, share)
        yield {"samples": in_samples, "parameters": in_parameters}
    for i, parameters in enumerate(sizes):
        width = hidden_for(parameters)
        labels = {"model": f"mlp, {width} wide", "wanted": parameters}
        if 4 * COPIES * parameters > available_bytes():
            in_parameters.append({**labels, "outcome": "skipped: not enough memory"})
            yield {"samples": in_samples, "parameters": in_parameters}
            continue
        share = budget.share(1.0 if i == len(sizes) - 1 else 0.25)
        problem = partial(mlp, hidden=(width, width))(jax.random.key(0), settings.batch)
        in_parameters += measure_group(labels, problem, (settings.s,), repeats, share)
        yield {"samples": in_samples, "parameters": in_parameters}
