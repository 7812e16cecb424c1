"""Results on disk: one JSON file for each part and backend."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.budget import Budget

RESULTS = Path(__file__).parent / "results"


@dataclasses.dataclass(frozen=True)
class Common:
    """What all parts are told."""

    quick: bool = False
    """A small version, to see that it works: its numbers mean little."""
    seconds: float | None = None
    """Time to spend, roughly; each part has a default."""
    output: Path | None = None
    """The JSON file; by default PART-BACKEND.json in benchmarks/results; quick: runs/benchmarks."""


Measure = Callable[[Any, Budget], dict[str, Any]]


def run(part: str, measure: Measure, settings: Common, *, seconds: float) -> Path:
    """Measures, and writes the numbers with where they come from; returns the file."""
    from benchmarks.machine import environment  # it starts JAX, which workers must not find started

    by_default = seconds / 4 if settings.quick else seconds
    budget = Budget(by_default if settings.seconds is None else settings.seconds)
    load = round(os.getloadavg()[0], 2)
    body = measure(settings, budget)
    where = body.pop("environment", None) or environment()
    record = {
        "part": part,
        "environment": {**where, "load_before": load, "load_after": round(os.getloadavg()[0], 2)},
        "settings": {
            name: value
            for name, value in dataclasses.asdict(settings).items()
            if name not in {"output", "seconds"}
        },
        "seconds": round(budget.seconds - budget.left()),
        **body,
    }
    output = settings.output or path_of(part, where["backend"], folder(quick=settings.quick))
    write(output, record)
    return output


def models_of(settings: Any, quick: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the models to measure: `quick` ones only where none were asked for."""
    asked = settings.models != type(settings).models
    return settings.models if asked or not settings.quick else quick


def path_of(part: str, backend: str, results: Path) -> Path:
    return results / f"{part}-{backend}.json"


def folder(*, quick: bool) -> Path:
    return RESULTS.parent.parent / "runs" / "benchmarks" if quick else RESULTS


def write(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    return float(value) if hasattr(value, "__float__") else str(value)


def read(part: str, backend: str, results: Path = RESULTS) -> dict[str, Any] | None:
    """Returns the record; None if it was not measured, or failed."""
    path = path_of(part, backend, results)
    record = json.loads(path.read_text()) if path.exists() else None
    return None if record is None or "failed" in record else record


def say(*words: Any) -> None:
    print(*words, flush=True)
