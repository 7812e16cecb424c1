"""Timing whole training steps, which keep their state in donated buffers."""

from collections.abc import Callable
from typing import Any

import jax

from benchmarks import measure
from benchmarks.measure import Measurement, Run
from benchmarks.models import Problem
from benchmarks.programs import copied, training_step


def prepare_training(
    this: Measurement, problem: Problem, optimizer: Any
) -> tuple[Run | None, Callable]:
    """Compiles the jitted step and warms it up; returns what runs one, and the step."""
    step, start = training_step(problem, optimizer)
    return prepare_donated(this, step, start, problem.inputs, problem.targets), step


def prepare_donated(
    this: Measurement, step: Callable[..., Any], start: tuple, *batch: Any
) -> Run | None:
    """Compiles (params, state, *batch) -> (params, state), with donated params and state."""
    carry = copied(start)
    lowered = jax.jit(step, donate_argnums=(0, 1)).lower(*carry, *batch)
    try:
        compiled = measure.compile_only(this, lowered)

        def run() -> Any:
            nonlocal carry
            carry = compiled(*carry, *batch)
            return carry

        this.warm_seconds = measure.warm(run)
    except jax.errors.JaxRuntimeError as error:
        this.outcome = f"failed: {str(error).splitlines()[0][:200]}"
        return None
    return run
