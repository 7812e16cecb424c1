"""Memory as s grows, each case in a fresh process: `python -m benchmarks memory`; see README.md."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from benchmarks import workers
from benchmarks.budget import Budget
from benchmarks.record import Common, models_of, say

CASES = (("gradient", "-", 1), ("sam", "-", 1), ("tsam", "streamed", 1), ("tsam", "streamed", 16))
CASES += (("tsam", "unrolled", 16),)
MODELS = ("mlp", "transformer", "resnet14_fast_in_loops")
KINDS = ("planned_bytes", "peak_bytes")


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Peak memory: planned by the compiled program, and what the process or device really used."""

    models: tuple[str, ...] = MODELS
    batch: int = 64
    dtype: str = "float32"


def measure_all(settings: Settings, budget: Budget) -> Iterator[dict[str, Any]]:
    """Leaves JAX alone: a GPU must be free for the workers."""
    models = models_of(settings, ("mlp_small",))
    cases = CASES[:-1] if settings.quick else CASES
    rows, ratios, where = [], [], None
    for model in models:
        for method, strategy, s in cases:
            told = {"model": model, "batch": settings.batch, "dtype": settings.dtype}
            told |= {"method": method, "strategy": strategy, "s": s}
            if budget.left() < 5:
                found = {"failed": "the time is spent"}
            else:
                timeout = max(budget.left(), 60)
                found = workers.ask("memory_worker", told, timeout=timeout)
            where = found.pop("environment", where)
            rows.append({**told, **found})
            shown = f"{found['planned_bytes'] / 1e6:.1f} MB" if "planned_bytes" in found else found
            say(f"  {model} {method} {strategy} s={s}: {shown}")
        ratios.append(ratios_of(model, rows))
        yield {"measurements": rows, "ratios": ratios, "environment": where}


def ratios_of(model: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Streamed at s = 16 over s = 1, and over SAM and one copy of the parameters."""
    cases = {(x["method"], x["strategy"], x["s"]): x for x in rows if x["model"] == model}
    sam, one, many = (cases[key] for key in CASES[1:4])
    result: dict[str, Any] = {"model": model}
    for kind in KINDS:
        if not all(x.get(kind) for x in (sam, one, many)):
            continue
        result[f"{kind}_16_over_1"] = round(many[kind] / one[kind], 3)
        allowed = sam[kind] + sam["parameter_bytes"]
        result[f"{kind}_16_over_sam_and_copy"] = round(many[kind] / allowed, 3)
    return result
