"""`tsam-jax evaluate`: what a checkpoint says of a part of its data set."""

import dataclasses
from pathlib import Path
from typing import Literal

import jax

from tsam_jax.train.trained import restore


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Measure a trained network; nothing is written."""

    checkpoint: Path
    """Directory of a run, for its newest checkpoint; RUN/best for its best on the validation part,
    RUN/checkpoints/STEP for one of them. It may stand first: `tsam-jax evaluate runs/mine`."""
    part: Literal["train", "validation", "test"] = "test"
    """Part of the data set."""


def evaluate(command: Evaluate) -> dict[str, float]:
    """Measures a checkpoint.

    Args:
      command: what to measure.

    Returns:
      "epoch" of the checkpoint, and the loss and the metrics of the part by name.

    Raises:
      ConfigError: if there is no such checkpoint, or it is damaged.
    """
    job, state = restore(command.checkpoint, (command.part,))
    epoch = int(state.step[0]) // job.program.steps_per_epoch
    metrics = jax.device_get(job.program.measure(state, job.data))
    prefix = f"{command.part}_"
    found = {
        name.removeprefix(prefix): float(x[0])
        for name, x in metrics.items()
        if name.startswith(prefix)
    }
    return {"epoch": epoch, **found}
