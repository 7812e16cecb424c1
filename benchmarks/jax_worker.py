"""Our side of the comparison with PyTorch; see against_torch.py."""

import json
import math
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import measure, programs, training, workers
from benchmarks.machine import environment
from benchmarks.measure import Measurement
from benchmarks.models import Problem, build, size
from tsam_jax import noise, tsam


def write_exchange(told: dict[str, Any], problem: Problem, optimizer: Any) -> dict[str, Any]:
    """Writes parameters, batch, the first step's noise, and what that step makes of them."""
    step, (params, state) = programs.training_step(problem, optimizer)
    after, new_state = jax.jit(step)(params, state, problem.inputs, problem.targets)
    radius = told["rms"] * math.sqrt(size(params))
    law = noise.sphere(radius=radius)
    first = jax.random.fold_in(jax.random.wrap_key_data(state[0].key), 0)
    keys = jax.random.split(first, told["s"])
    arrays = {"inputs": problem.inputs, "targets": problem.targets}
    arrays["losses"] = new_state[0].last.metrics["losses"]
    for i, x in enumerate(jax.tree.leaves(params)):
        arrays[f"param{i}"] = x
    for i, x in enumerate(jax.tree.leaves(after)):
        arrays[f"after{i}"] = x
    for j in range(told["s"]):
        for i, x in enumerate(jax.tree.leaves(law(keys[j], params))):
            arrays[f"noise{j}_{i}"] = x
    np.savez(told["exchange"], **{name: np.asarray(x) for name, x in arrays.items()})
    leaves = len(jax.tree.leaves(params))
    return {"leaves": leaves, "parameters": size(params), "radius": radius}


def computing_in_bfloat16(problem: Problem) -> Problem:
    def cast(x: jax.Array) -> jax.Array:
        return x.astype(jnp.bfloat16) if jnp.issubdtype(x.dtype, jnp.floating) else x

    def loss(params: Any, inputs: jax.Array, targets: jax.Array) -> jax.Array:
        return problem.loss(jax.tree.map(cast, params), cast(inputs), targets)

    return problem._replace(loss=loss)


def main(told: dict[str, Any]) -> None:
    problem = build(told["model"], batch=told["batch"])
    law = noise.sphere(rms=told["rms"])
    optimizer = tsam(optax.sgd(told["lr"]), told["t"], told["rho"], told["s"], noise=law)
    found = write_exchange(told, problem, optimizer)
    if told["dtype"] == "bfloat16":  # computing in it, from float32 parameters, as torch.autocast
        problem = computing_in_bfloat16(problem)
    this = Measurement({})
    run, _ = training.prepare_training(this, problem, optimizer)
    gradient = measure.prepare(Measurement({}), *programs.plain(problem))
    if run is None or gradient is None:
        raise RuntimeError(this.outcome)
    measure.timed(run)
    seconds = measure.timed(run)
    workers.answer({
        **found,
        "environment": environment(),
        "compile_seconds": this.compile_seconds,
        "seconds": seconds,
    })
    runs = {"step": run, "gradient": gradient}
    for line in sys.stdin:
        asked = json.loads(line)
        workers.answer({"seconds": measure.timed(runs[asked["what"]], asked["calls"])})


if __name__ == "__main__":
    main(workers.told())
