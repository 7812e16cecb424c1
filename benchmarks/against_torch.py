"""TSAM against an eager PyTorch TSAM: both sides in turn, each in a process of its own."""

import importlib.util
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from benchmarks import measure, models, record
from tsam_jax import noise, tsam

STEP = {"t": models.T, "rho": models.RHO, "lr": 0.01}
# Relative differences up to this are float32's, through two gradients, a norm and the batch
# statistics of 18 layers; a step that is another one differs by about 1.
SAME = 2e-2


def compare(told: dict[str, Any]) -> dict[str, Any]:
    """Returns the times of a gradient and a step of both sides, and whether they are the same.

    This process does not start JAX: a GPU must be free for the workers.
    """
    if importlib.util.find_spec("torch") is None:
        return {"outcome": "failed: PyTorch is not installed"}
    patience = told["timeout"]
    env = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # both are on the GPU
    with tempfile.TemporaryDirectory() as folder:
        told = {**told, **STEP, "threads": len(os.sched_getaffinity(0))}
        told["exchange"] = str(Path(folder) / "exchange.npz")
        try:
            with record.Worker("against_torch", told, **env) as ours:
                us = ours.hear(patience)
                with record.Worker("torch_side", told | us, **env) as theirs:
                    them = theirs.hear(patience)
                    times = take_turns({"ours": ours, "torch": theirs}, us["seconds"], told)
        except RuntimeError as error:
            return {"outcome": str(error)}
    exact = told["dtype"] == "float32"
    worst = max(them["update_difference"], them["gradient_difference"])
    (our_gradient, gradient), (our_step, step) = (
        (times[f"{what} of ours"], times[f"{what} of torch"]) for what in ("gradient", "step")
    )
    return {
        "outcome": "failed: two different steps" if exact and worst > SAME else "measured",
        **{key: them[key] for key in ("layout", "gradient_difference", "update_difference")},
        **{key: us[key] for key in ("parameters", "compile_seconds")},
        "threads": told["threads"],
        "seconds": {key: measure.significant(x) for key, x in times.items()},
        "medians": {key: measure.significant(statistics.median(x)) for key, x in times.items()},
        "gradient_over_torch": measure.ratios(our_gradient, gradient),
        "step_over_torch": measure.ratios(our_step, step),
        "step_over_gradients": measure.ratios(our_step, our_gradient, 2 * told["s"]),
        "torch_step_over_gradients": measure.ratios(step, gradient, 2 * told["s"]),
    }


def take_turns(
    sides: dict[str, record.Worker], expected: float, told: dict[str, Any]
) -> dict[str, list[float]]:
    """Returns the seconds of each side's gradient and step, one entry a round."""
    kinds = {"gradient": expected / (2 * told["s"]), "step": expected}
    times: dict[str, list[float]] = {f"{k} of {x}": [] for k, x in itertools.product(kinds, sides)}
    start = time.monotonic()
    for finished in range(measure.MOST_ROUNDS):
        if measure.stop(finished, time.monotonic() - start, told["seconds"]):
            break
        for what, side in itertools.product(kinds, sides):
            asked = {"what": what, "calls": measure.calls_for_one_timing(kinds[what])}
            times[f"{what} of {side}"].append(sides[side].ask(asked, told["timeout"])["seconds"])
    return times


def write_exchange(told: dict[str, Any]) -> dict[str, Any]:
    """Writes parameters, batch, gradient, the first step's noise, and what that step makes."""
    problem = models.build(told)
    step, arguments = models.training_step(problem, optimizer_of(told))
    params, state = arguments[:2]
    radius = models.RMS * optax.tree.size(params) ** 0.5
    key = jax.random.fold_in(jax.random.wrap_key_data(state[0].key), 0)
    law, keys = noise.sphere(radius=radius), jax.random.split(key, told["s"])
    grads = jax.jit(jax.grad(problem.loss))(*problem[1:])
    trees = {"param": params, "after": jax.jit(step)(*arguments)[0], "grad": grads}
    trees |= {f"noise{j}": law(keys[j], params) for j in range(told["s"])}
    arrays = {"inputs": problem.inputs, "targets": problem.targets}
    for kind, tree in trees.items():
        arrays |= {f"{kind}:{name}": leaf for name, leaf in models.named(tree).items()}
    np.savez(told["exchange"], **{name: np.asarray(x) for name, x in arrays.items()})
    names = list(models.named(params))
    return {"names": names, "parameters": optax.tree.size(params), "radius": radius}


def optimizer_of(told: dict[str, Any]) -> Any:
    law = noise.sphere(rms=models.RMS)
    return tsam(optax.sgd(told["lr"]), told["t"], told["rho"], told["s"], noise=law)


def main(told: dict[str, Any]) -> None:
    """Our side."""
    found = write_exchange(told)
    problem = models.build(told, told["dtype"])
    this, plain = measure.Measurement({}), measure.Measurement({})
    step = models.donating(*models.training_step(problem, optimizer_of(told)))
    runs = {"step": measure.prepare(this, *step, donated=2)}
    runs["gradient"] = measure.prepare(plain, *models.estimate(problem, "gradient", 1))
    warm = {"seconds": this.warm_seconds, "compile_seconds": this.compile_seconds}
    record.answer({**found, **warm})
    for line in sys.stdin:
        asked = json.loads(line)
        record.answer({"seconds": measure.timed(runs[asked["what"]], asked["calls"])})


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
