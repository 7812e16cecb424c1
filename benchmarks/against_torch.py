"""TSAM against an eager PyTorch TSAM: `python -m benchmarks torch`; see README.md."""

import dataclasses
import importlib.util
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import measure, workers
from benchmarks.budget import Budget
from benchmarks.record import Common, models_of, say

T, RHO, RMS, LR = 20.0, 0.05, 0.006, 0.01
# Relative differences up to this are float32's, through two gradients, a norm and the batch
# statistics of 18 layers; a step that is another one differs by about 1.
SAME = 2e-2


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """A training step, TSAM with SGD: our time over eager PyTorch's."""

    models: tuple[str, ...] = ("mlp", "transformer", "resnet14", "resnet18")
    batches: tuple[int, ...] = (64,)
    dtypes: tuple[str, ...] = ("float32",)
    s: int = 3
    passive: bool = False
    """PyTorch's threads sleep while they wait: slower alone, far faster beside other work."""
    repeats: int = 15


def measure_all(settings: Settings, budget: Budget) -> Iterator[dict[str, Any]]:
    """Leaves JAX alone: a GPU must be free for the workers."""
    if importlib.util.find_spec("torch") is None:
        yield {"failed": "PyTorch is not installed: pip install tsam_jax[torch]"}
        return
    models = models_of(settings, ("mlp_small", "transformer"))
    batches = (8,) if settings.quick else settings.batches
    todo = [(d, b, m) for d in settings.dtypes for b in batches for m in models]
    rows, where = [], None
    for i, (dtype, batch, model) in enumerate(todo):
        share = budget.share(1 / (len(todo) - i) if i < len(todo) - 1 else 1.0)
        labels = {"model": model, "batch": batch, "dtype": dtype, "s": settings.s}
        try:
            row = compare(labels, settings, share)
            where = row.pop("environment")
            say(f"  {model}: {row['ratio_quartiles'][1]:.2f} of PyTorch's time")
        except (RuntimeError, OSError, ValueError) as error:
            row = {"outcome": f"failed: {error}"}
            say(f"  {model}: {row['outcome']}")
        rows.append({**labels, **row})
        yield {"measurements": rows, "environment": where}


def compare(labels: dict[str, Any], settings: Settings, budget: Budget) -> dict[str, Any]:
    """Both take turns, each in a process of its own, the other one resting."""
    patience = 60 + 2 * budget.seconds
    threads = len(os.sched_getaffinity(0))
    env = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # both are on the GPU
    env |= {"OMP_WAIT_POLICY": "PASSIVE"} if settings.passive else {}
    with tempfile.TemporaryDirectory() as folder:
        told = {**labels, "t": T, "rho": RHO, "lr": LR, "rms": RMS}
        told |= {"exchange": str(Path(folder) / "exchange.npz"), "threads": threads}
        ours = workers.Dialogue("jax_worker", told, env, timeout=patience)
        theirs = None
        try:
            us = ours.hear()
            told["found"] = us
            theirs = workers.Dialogue("torch_worker", told, env, timeout=patience)
            them = theirs.hear()
            repeats = 3 if settings.quick else settings.repeats
            sides = {"ours": ours, "torch": theirs}
            a_gradient = us["seconds"] / (2 * settings.s)
            gradients = take_turns(sides, "gradient", a_gradient, repeats, budget.share(0.2))
            seconds = take_turns(sides, "step", us["seconds"], repeats, budget)
        finally:
            ours.end()
            if theirs is not None:
                theirs.end()
    same = labels["dtype"] != "float32" or them["update_difference"] < SAME
    return {
        "outcome": "measured" if same else "failed: the two do not compute the same step",
        **them,
        "threads": threads,
        "parameters": us["parameters"],
        "compile_seconds": us["compile_seconds"],
        "seconds": seconds,
        "ratio_quartiles": measure.ratios(seconds["ours"], seconds["torch"]),
        "gradient_seconds": gradients,
        "gradient_ratio_quartiles": measure.ratios(gradients["ours"], gradients["torch"]),
        "environment": us["environment"],
    }


def take_turns(
    sides: dict[str, workers.Dialogue], what: str, expected: float, repeats: int, budget: Budget
) -> dict[str, list[float]]:
    """Returns the seconds of each side, one entry a round; at least 3 rounds."""
    calls = measure.calls_for_one_timing(expected)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for finished in range(repeats):
        a_round = calls * sum(x[-1] for x in seconds.values()) if finished else 0.0
        if finished >= measure.LEAST_ROUNDS and a_round > budget.left():
            break
        for name, side in sides.items():
            seconds[name].append(round(side.ask({"what": what, "calls": calls})["seconds"], 7))
    return seconds
