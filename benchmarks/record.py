"""Results on disk: one JSON file for each part and backend."""

import dataclasses
import json
from collections.abc import Callable, Iterator
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


# Yields what it has measured so far, each time that this is worth keeping.
Measure = Callable[[Any, Budget], Iterator[dict[str, Any]]]


def run(part: str, measure: Measure, settings: Common, *, seconds: float) -> Path:
    """Measures, and writes the numbers with where they come from; returns the file.

    The file is written anew whenever there is more: what is cut off leaves what it had.
    """
    from benchmarks.machine import Usage, environment  # JAX, which `render` does without

    by_default = seconds / 4 if settings.quick else seconds
    budget = Budget(by_default if settings.seconds is None else settings.seconds)
    usage = Usage()
    output = settings.output
    for body in measure(settings, budget):
        where = body.pop("environment", None) or environment()
        output = output or path_of(part, where["backend"], folder(quick=settings.quick))
        record = {
            "part": part,
            "environment": {**where, "busy_elsewhere": usage.elsewhere()},
            "settings": {
                name: value
                for name, value in dataclasses.asdict(settings).items()
                if name not in {"output", "seconds"}
            },
            "seconds": round(budget.seconds - budget.left()),
            **body,
        }
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


def cut_off(path: Path, part: str, why: str) -> None:
    """Records why a part did not come to its end, beside what it had measured, if anything."""
    if path.exists():
        write(path, {**json.loads(path.read_text()), "stopped": why})
    else:
        write(path, {"part": part, "failed": why})


def _plain(value: Any) -> Any:
    return float(value) if hasattr(value, "__float__") else str(value)


def read(part: str, backend: str, results: Path = RESULTS) -> dict[str, Any] | None:
    """Returns the record; None if it was not measured, or failed."""
    path = path_of(part, backend, results)
    record = json.loads(path.read_text()) if path.exists() else None
    return None if record is None or "failed" in record else record


def say(*words: Any) -> None:
    print(*words, flush=True)
