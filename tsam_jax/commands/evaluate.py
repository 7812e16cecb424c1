"""`tsam-jax evaluate`: the metrics of a checkpoint."""

import dataclasses
from pathlib import Path
from typing import ClassVar, Literal

from rich.console import Console

from tsam_jax.commands import Command, say
from tsam_jax.train.config import option


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(Command):
    """Evaluate a checkpoint; nothing is written."""

    first: ClassVar[str] = "--checkpoint"

    checkpoint: Path = option(
        dataclasses.MISSING,
        "Directory of a run, for its newest checkpoint; RUN/best for its best epoch on the"
        " validation part; RUN/checkpoints/STEP for one of them. May come first.",
    )
    part: Literal["train", "validation", "test"] = option("test", "Part of the data set.")

    def run(self, console: Console) -> int:
        """Prints the metrics; returns 0."""
        from tsam_jax.train.metrics import metric
        from tsam_jax.train.restore import restore

        run, epoch, weights = restore(self.checkpoint, (self.part,))
        found = run.program.measure(weights, run.start(), run.data)
        own = {name: x for name, x in sorted(found.items()) if name.startswith(f"{self.part}_")}
        words = [f"{metric(name).name} {metric(name).shown(x)}" for name, x in own.items()]
        say(console, f"epoch {epoch:g}\n{self.part}: {', '.join(words)}")
        return 0
