"""`tsam-jax train`: one method, one seed, with checkpoints; `tsam-jax evaluate`: their metrics."""

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from rich.console import Console

from tsam_jax.commands import Command, Common, default_directory, interrupted, say
from tsam_jax.recipes import Recipe
from tsam_jax.train import config
from tsam_jax.train.config import option


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(Common):
    """Train one method with one seed, saving checkpoints.

    Every value comes from a flag, else from the setting, else from the recipe, else from the
    defaults of the model family; the table that is printed first has each with its origin.
    """

    method: str | None = option(
        None,
        'Method: a bare name for its default setting, or a setting in quotes: "sam(rho=0.5)".'
        " Default: the recipe's, else tsam.",
    )
    seed: int = option(
        0, "Seed of label noise, initial weights, batches and perturbations.", low=0, high=2**32 - 1
    )
    checkpoint_every: int = option(
        10, "Epochs between checkpoints; one more at the end, and the best epoch's.", low=1
    )
    keep_checkpoints: int = option(2, "Checkpoints to keep, the newest ones.", low=1)
    distributed: str | None = option(
        None, "Join other processes: auto (by a launcher's environment) or HOST:PORT,COUNT,INDEX."
    )
    tensorboard: bool = config.switch("Log to TensorBoard, in the run's directory.")
    wandb: bool = config.switch("Log to Weights & Biases.")

    grid = ()

    def chosen(self, recipe: Recipe) -> tuple[str, ...]:
        """The setting to run."""
        return (self.method or recipe.method,)

    def run(self, console: Console) -> int:
        """Trains, or resumes; returns the exit status."""
        import jax

        from tsam_jax.analysis import style
        from tsam_jax.train import mesh, plots, record, restore, run
        from tsam_jax.train.progress import Progress
        from tsam_jax.train.task import load_task
        from tsam_jax.train.trackers import Tracking, check_available

        mesh.join_processes(self.distributed)
        tracking = Tracking(self.tensorboard, self.wandb)
        check_available(tracking)
        config.require(
            jax.process_count() == 1 or self.out is not None,
            "`--distributed` needs `--out`: one directory for all processes.",
        )
        directory, first = self.out or default_directory("train"), jax.process_index() == 0
        console = console if first else Console(quiet=True)
        resolved = self.resolved(console)
        config.require(
            len(resolved.plans) == 1,
            f"`--method` takes one setting, got {len(resolved.plans)}: use `tsam-jax study`.",
        )
        [plan], task = resolved.plans, resolved.task
        loaded = load_task(task, [self.seed], resolved.devices, resolved.opened)
        one = restore.make_run(plan, task, self.seed, directory, loaded.digest)
        record.check_same(directory / "config.json", one.identity)
        mesh.wait_for_others()  # the first one writes when all have checked
        config.check_writable(directory)
        lock = record.owned(directory) if first else contextlib.nullcontext()
        job = restore.make_job(loaded, plan, [one], plan.epochs)
        with lock, Progress({one.label: job.price * plan.epochs}, console) as progress:
            if first:
                record.write_json(directory / "config.json", {**one.identity, "words": self.words})
            [outcome] = run.train(
                job,
                progress,
                checkpoint_every=self.checkpoint_every,
                keep_checkpoints=self.keep_checkpoints,
                tracking=tracking._replace(config=dict(one.identity)),
            )
        result = {
            "complete": outcome.complete and outcome.diverged is None,
            "setting": one.label,
            "epochs": plan.epochs,
            "metrics": outcome.log.last,
            "best": outcome.best,
            "diverged": outcome.diverged,
            "versions": record.versions(),
        }
        if first:
            record.write_json(directory / "result.json", result)
            if lines := outcome.log.lines:
                figure = plots.learning_curve(one.label, lines, job.metric, task.label_noise)
                (directory / "learning_curve.png").write_bytes(style.image(figure, "png"))
        if outcome.diverged is not None:
            message = run.refusal(one.label, outcome)
            say(Console(stderr=True), f"tsam-jax: error: {message}")
            return 1
        for part in ("validation", "test"):
            if text := measured(part, outcome.log.last or {}):
                say(console, text)
        say(console, f"Run: {directory}")
        return 0 if outcome.complete else interrupted(console, ["train", "--resume", directory])


@dataclasses.dataclass(frozen=True)
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
        import jax

        from tsam_jax.train.restore import restore

        job, epoch, weights = restore(self.checkpoint, (self.part,))
        rows = jax.tree.map(lambda x: x[None], weights)
        found = job.program.measure(rows, job.start(), job.data)
        say(console, f"epoch {epoch:g}")
        say(console, measured(self.part, {name: float(x[0]) for name, x in found.items()}))
        return 0


def measured(part: str, line: Mapping[str, Any]) -> str:
    """The loss and the metrics of a part in one line; "" without any."""
    from tsam_jax.train.metrics import metric

    own = [(metric(k), x) for k, x in sorted(line.items()) if k.startswith(f"{part}_")]
    shown = [f"{found.name} {found.shown(x)}" for found, x in own if x is not None]
    return f"{part}: {', '.join(shown)}" if shown else ""
