"""One step over several virtual devices: `python -m benchmarks devices`; see README.md."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from benchmarks import workers
from benchmarks.budget import Budget
from benchmarks.record import Common, models_of, say


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Work and communication of a device as there are more of them; virtual ones, on a CPU."""

    models: tuple[str, ...] = ("mlp",)
    counts: tuple[int, ...] = (1, 2, 4, 8)
    s: int = 8
    batch: int = 64


def measure_all(settings: Settings, budget: Budget) -> Iterator[dict[str, Any]]:
    models = models_of(settings, ("mlp_small",))
    counts = settings.counts[:2] if settings.quick else settings.counts
    rows, todo = [], [(n, model) for n in counts for model in models]
    where = None
    for i, (n, model) in enumerate(todo):
        if budget.left() < 5:
            found = {"failed": "the time is spent"}
        else:
            found = workers.ask(
                "devices_worker",
                {"model": model, "devices": n, "s": settings.s, "batch": settings.batch},
                timeout=max(budget.left(), 60),
                env={
                    "JAX_PLATFORMS": "cpu",
                    "XLA_FLAGS": f"--xla_force_host_platform_device_count={n}",
                },
            )
        where = found.pop("environment", where)
        rows += found.get("rows", [{"model": model, "devices": n, **found}])
        say(f"  {i + 1} of {len(todo)}: {model} on {n} virtual devices")
        yield {"measurements": rows, "environment": where}
