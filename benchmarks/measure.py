"""Measuring compiled functions: compile time, memory, flops, and interleaved timings."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax

from benchmarks.budget import Budget

Run = Callable[[], Any]

LEAST_ROUNDS = 3
SHORT = 3.0  # seconds that the least rounds may always take
LEAST_SECONDS = 0.05  # of one timing: a faster function is called several times for each


@dataclass
class Measurement:
    """One function, and what was measured of it."""

    labels: dict[str, Any]
    """What tells it apart, such as model, method, strategy, s, batch and dtype."""
    gradients: float = 1.0
    """Gradient evaluations of a call, by count."""
    outcome: str = "measured"
    """Or why it was not."""
    compile_seconds: float | None = None
    """Of the compiler alone, without tracing."""
    compile_cpu_seconds: float | None = None
    temp_bytes: int | None = None
    """Memory beyond arguments and results, as the compiler plans it."""
    total_bytes: int | None = None
    """That and the arguments and the results."""
    flops: float | None = None
    """As the compiler counts them; of a loop it counts the body once."""
    bytes_accessed: float | None = None
    warm_seconds: float | None = None
    """Of the first calls, before the rounds."""
    seconds: list[float] = field(default_factory=list)
    """Of a call, one entry for each round."""

    def as_json(self) -> dict[str, Any]:
        rest = {name: value for name, value in vars(self).items() if name != "labels"}
        return {**self.labels, **rest, "seconds": [round(x, 7) for x in self.seconds]}


def prepare(this: Measurement, lowered: jax.stages.Lowered, arguments: tuple) -> Run | None:
    """Compiles and warms up; returns the function to time. A failure is a result as well."""
    try:
        compiled = compile_only(this, lowered)

        def run() -> Any:
            return compiled(*arguments)

        this.warm_seconds = warm(run)
    except jax.errors.JaxRuntimeError as error:  # out of memory; unsupported by the backend
        this.outcome = f"failed: {str(error).splitlines()[0][:200]}"
        return None
    return run


def compile_only(this: Measurement, lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    clock, cpu = time.perf_counter(), time.process_time()
    compiled = lowered.compile()
    this.compile_seconds = time.perf_counter() - clock
    this.compile_cpu_seconds = time.process_time() - cpu
    if plan := compiled.memory_analysis():  # not every backend tells
        this.temp_bytes = plan.temp_size_in_bytes
        fixed = plan.argument_size_in_bytes + plan.output_size_in_bytes
        this.total_bytes = this.temp_bytes + fixed - plan.alias_size_in_bytes
    costs = compiled.cost_analysis() or {}
    this.flops, this.bytes_accessed = costs.get("flops"), costs.get("bytes accessed")
    return compiled


def timed(run: Run, calls: int = 1) -> float:
    """Returns the seconds of a call.

    On a CPU each call is waited for, since programs that do not depend on each other would run side
    by side. Elsewhere the device has a queue, which a training loop keeps filled. Before a timing
    of several calls there is one that does not count: it finds the caches as the last program left
    them, and a training loop does not.
    """
    wait_for_each = jax.default_backend() == "cpu"
    if calls > 1:
        jax.block_until_ready(run())
    start = time.perf_counter()
    for _ in range(calls):
        result = run()
        if wait_for_each:
            jax.block_until_ready(result)
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / calls


def warm(run: Run) -> float:
    """Runs it for the first time, and once more if that was short; returns the shorter time."""
    first = timed(run)
    return min(first, timed(run)) if first < 1.0 else first


def calls_for_one_timing(warm_seconds: float) -> int:
    return min(max(math.ceil(LEAST_SECONDS / warm_seconds), 1), 100)


def run_rounds(cases: Sequence[tuple[Measurement, Run]], *, repeats: int, budget: Budget) -> None:
    """Times all in turn, round after round, so that drift hits all alike.

    At most `repeats` rounds, at least 3 if they are short or twice the budget allows them, else
    what the budget allows, and at least one.
    """
    calls = {id(this): calls_for_one_timing(this.warm_seconds) for this, _ in cases}
    start = time.monotonic()
    for finished in range(repeats):
        spent = time.monotonic() - start
        expected = spent * (finished + 1) / max(finished, 1)
        allowed = budget.seconds if finished >= LEAST_ROUNDS else max(2 * budget.seconds, SHORT)
        if finished and expected > allowed:
            break
        for this, run in cases:
            this.seconds.append(timed(run, calls[id(this)]))


def median(this: Measurement) -> float | None:
    return statistics.median(this.seconds) if this.seconds else None


def quartiles(values: Sequence[float]) -> list[float]:
    if len(values) == 1:
        return [values[0]] * 3
    return statistics.quantiles(values, n=4, method="inclusive")


def ratios(
    seconds: Sequence[float], reference: Sequence[float], times: float = 1.0
) -> list[float] | None:
    """Returns the quartiles, over rounds, of time over `times` the reference's in that round."""
    values = [a / (times * b) for a, b in zip(seconds, reference, strict=False)]
    return [round(x, 4) for x in quartiles(values)] if values else None
