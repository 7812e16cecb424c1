"""Measuring compiled functions: compile time, memory, flops, and interleaved timings."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax

Run = Callable[[], Any]

LEAST_ROUNDS, MOST_ROUNDS = 3, 15
LEAST_SECONDS = 0.05  # of one timing: a faster function is called several times for each


@dataclass
class Measurement:
    """One function, by its labels, and what was measured of it."""

    labels: dict[str, Any]
    gradients: float = 1.0  # evaluations in a call, by count
    outcome: str = "measured"  # or why it was not
    compile_seconds: float | None = None  # without tracing
    temp_bytes: int | None = None  # beyond arguments and results, as the compiler plans it
    total_bytes: int | None = None
    flops: float | None = None  # as the compiler counts them: of a loop the body once
    warm_seconds: float | None = None  # of the first calls, before the rounds
    seconds: list[float] = field(default_factory=list)  # of a call, one entry for each round

    def as_json(self) -> dict[str, Any]:
        found = {**self.labels, **{k: v for k, v in vars(self).items() if k != "labels"}}
        found["median"] = statistics.median(self.seconds) if self.seconds else None
        return {k: significant(v) for k, v in found.items()}


def significant(value: Any) -> Any:
    """Rounds numbers to five digits, so that records are short."""
    if isinstance(value, list):
        return [significant(x) for x in value]
    return float(f"{value:.4e}") if isinstance(value, float) else value


def compile_only(this: Measurement, lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    clock = time.perf_counter()
    compiled = lowered.compile()
    this.compile_seconds = time.perf_counter() - clock
    if plan := compiled.memory_analysis():  # not every backend tells
        this.temp_bytes = plan.temp_size_in_bytes
        fixed = plan.argument_size_in_bytes + plan.output_size_in_bytes
        this.total_bytes = this.temp_bytes + fixed - plan.alias_size_in_bytes
    this.flops = (compiled.cost_analysis() or {}).get("flops")
    return compiled


def prepare(
    this: Measurement, lowered: jax.stages.Lowered, arguments: tuple, donated: int = 0
) -> Run | None:
    """Compiles and warms up; returns the function to time. A failure is a result as well.

    Donated arguments, the first ones, are replaced by the first results after each call.
    """

    def run() -> Any:
        nonlocal arguments
        result = compiled(*arguments)
        if donated:
            arguments = (*result[:donated], *arguments[donated:])
        return result

    try:
        compiled = compile_only(this, lowered)
        first = timed(run)
        this.warm_seconds = min(first, timed(run)) if first < 1.0 else first
    except jax.errors.JaxRuntimeError as error:  # out of memory; unsupported by the backend
        this.outcome = f"failed: {str(error).splitlines()[0][:200]}"
        return None
    return run


def timed(run: Run, calls: int = 1) -> float:
    """Returns the seconds of a call.

    Before several calls there is one that does not count: it finds the caches as the last program
    left them, and a training loop does not. On a CPU each call is waited for, since programs that
    do not depend on each other would run side by side; elsewhere the queue is kept filled.
    """
    if calls > 1:
        jax.block_until_ready(run())
    start = time.perf_counter()
    for _ in range(calls):
        result = run()
        if jax.default_backend() == "cpu":
            jax.block_until_ready(result)
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / calls


def calls_for_one_timing(warm_seconds: float) -> int:
    return min(max(math.ceil(LEAST_SECONDS / warm_seconds), 1), 100)


def rounds(cases: Sequence[tuple[Measurement, Run]], seconds: float) -> Iterator[None]:
    """Times all in turn, round after round, so that drift hits all alike."""
    start = time.monotonic()
    for finished in range(MOST_ROUNDS):
        if stop(finished, time.monotonic() - start, seconds):
            break
        for this, run in cases:
            this.seconds.append(timed(run, calls_for_one_timing(this.warm_seconds)))
        yield


def stop(finished: int, spent: float, seconds: float) -> bool:
    """Whether another round would take more than the seconds; there are at least three."""
    return finished >= LEAST_ROUNDS and spent * (finished + 1) / finished > seconds


def ratios(seconds: Sequence[float], reference: Sequence[float], times: float = 1.0) -> Any:
    """Returns the quartiles, over rounds, of time over `times` the reference's in that round."""
    values = [a / (times * b) for a, b in zip(seconds, reference, strict=False)]
    if len(values) < 2:
        return significant(values * 3) or None
    return significant(statistics.quantiles(values, n=4, method="inclusive"))
