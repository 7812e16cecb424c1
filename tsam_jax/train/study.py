"""A study: settings x seeds -> rows.jsonl, resumable at any point, in any number of shards."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from tsam_jax.train import config, loop, record, restore
from tsam_jax.train.network import Batch
from tsam_jax.train.optimizers import NUMBERS
from tsam_jax.train.progress import Progress
from tsam_jax.train.resolve import Plan, Resolved
from tsam_jax.train.run import Job, Outcome, train
from tsam_jax.train.task import Loaded, load_task

_BYTES_TOGETHER = 2**30
"""Bound on the parameters, and what is made of their size, of runs that train as one program."""


class Cell(NamedTuple):
    """One (setting, seed) of a study, and its place among all of them."""

    place: int
    plan: Plan
    seed: int

    @property
    def folder(self) -> str:
        """Its directory in that of the study."""
        return f"cells/{self.place:03d}-{self.plan.setting.name}-seed{self.seed}"


def parse_shard(text: str | None) -> tuple[int, int]:
    """Reads `--shard`.

    Example:
      >>> parse_shard("2/4"), parse_shard(None)
      ((2, 4), (1, 1))
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text or "1/1")
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        msg = f"`--shard` must be I/N with I from 1 to N, for example 2/4, got {text!r}."
        raise config.ConfigError(msg)
    return int(found[1]), int(found[2])


def without_shard(words: Sequence[str]) -> list[str]:
    """The words of a command line without the `--shard` among them.

    Example:
      >>> without_shard(["study", "--shard", "1/2", "--seeds", "3"])
      ['study', '--seeds', '3']
    """
    values = [k + 1 for k, word in enumerate(words) if word == "--shard"]
    kept = [word for k, word in enumerate(words) if k not in values]
    return [word for word in kept if word.partition("=")[0] != "--shard"]


def run_study(resolved: Resolved, command: Any, directory: Path, console: Console) -> bool:
    """Trains what is not finished yet; a row is written when a run ends.

    Args:
      resolved: the settings.
      command: a `commands.study.Study`: its view, seeds, measurements and shard.
      directory: where study.json, rows.jsonl (one of its own for each shard) and cells/ go. If it
        has the same study, that is resumed.
      console: where progress is shown.

    Returns:
      Whether all runs of this shard are finished.

    Raises:
      ConfigError: if the directory has another study, or files of something else.
    """
    if resolved.task.stream:
        msg = "`--stream` is for `tsam-jax train`: the runs of a study share data on the device."
        raise config.ConfigError(msg)
    i, n = parse_shard(command.shard)
    seeds = range(command.seeds)
    pairs = [(plan, seed) for plan in resolved.plans for seed in seeds]
    cells = [Cell(k, *pair) for k, pair in enumerate(pairs)][i - 1 :: n]
    study = _described(resolved, command)
    record.check_same(directory / "study.json", study)
    loaded = load_task(resolved.task, seeds, resolved.devices, resolved.opened)
    study["data"] = loaded.digest
    record.check_same(directory / "study.json", study)
    study |= {"metric": loaded.metrics[0], "metrics": loaded.metrics, "flags": command.flags()}
    study |= {"words": without_shard(command.words), "versions": record.versions()}
    study["resolved"] = resolved.rows
    config.check_writable(directory)
    if not (directory / "study.json").exists():
        record.write_json(directory / "study.json", study)
    path = directory / ("rows.jsonl" if n == 1 else f"rows-{i}-of-{n}.jsonl")
    rows = [row for file in directory.glob("rows*.jsonl") for row in record.read_lines(file)]
    finished = {(row["setting"], row["seed"]) for row in rows}
    missing = [cell for cell in cells if (cell.plan.setting.text, cell.seed) not in finished]
    vectorize = command.vectorize
    if vectorize is None:  # a fixed rule: what is decided by timing is not reproducible
        vectorize = resolved.task.model == "mlp"
    trainer = _Trainer(resolved, command, loaded, directory)
    with (
        record.owned(directory, path.stem),
        Progress(_work(missing, loaded.train_size), console) as progress,
    ):
        for group in _groups(missing, loaded, vectorize=vectorize):
            for cell, row in trainer.train(group, progress):
                if row is None:
                    return False
                record.add_line(path, row)
                progress.note(cell.plan.setting.text, "diverged" if row["diverged"] else "done")
    return True


class _Trainer:
    """Trains groups of cells; keeps compiled programs."""

    def __init__(self, resolved: Resolved, command: Any, loaded: Loaded, directory: Path) -> None:
        self._resolved, self._command, self._loaded = resolved, command, loaded
        self._directory, self._parts = directory, _parts(command)
        self._count = min(command.evaluations, *(plan.epochs for plan in resolved.plans))
        self._programs: dict[Any, loop.Program] = {}
        self._flatness = restore.make_flatness(loaded.network)

    def train(
        self, group: Sequence[Cell], progress: Progress
    ) -> Iterator[tuple[Cell, dict[str, Any] | None]]:
        """Trains the cells of a group; yields each with its row, None if it is not finished."""
        plan, task = group[0].plan, self._resolved.task
        runs = []
        for cell in group:
            folder = self._directory / cell.folder
            folder.mkdir(parents=True, exist_ok=True)
            run = restore.make_run(cell.plan, task, cell.seed, folder, self._loaded.digest)
            record.write_json(folder / "config.json", dict(run.identity))
            runs.append(run)
        key = _shared(plan)
        progress.note(plan.setting.text, "training" if key in self._programs else "compiling")
        program = self._programs.get(key)
        job = restore.make_job(self._loaded, plan, runs, self._count, self._parts, program)
        self._programs[key] = job.program
        outcomes = train(
            job, progress, checkpoint_every=max(1, plan.epochs // 5), keep_checkpoints=1
        )
        for cell, outcome in zip(group, outcomes, strict=True):
            if not outcome.complete and outcome.diverged is None:
                yield cell, None
                return
            row = self._row(cell, job, outcome)
            if self._command.flatness_examples and outcome.diverged is None:
                progress.note(cell.plan.setting.text, f"seed {cell.seed}  measuring flatness")
                row |= self._measured(cell, outcome)
            yield cell, row

    def _row(self, cell: Cell, job: Job, outcome: Outcome) -> dict[str, Any]:
        lines, (gradients, values) = outcome.log.lines, cell.plan.setting.cost
        curve = {name: [line.get(name) for line in lines] for name in (lines[-1] if lines else ())}
        curve.pop("gradient_evaluations", None)
        return {
            "setting": cell.plan.setting.text,
            "method": cell.plan.setting.name,
            "arguments": cell.plan.setting.written,
            "seed": cell.seed,
            "directory": cell.folder,
            "optimizer": vars(cell.plan.optimizer),
            "epochs": cell.plan.epochs,
            "steps_per_epoch": job.program.steps_per_epoch,
            "gradients_per_step": gradients,
            "values_per_step": values,
            "gradient_evaluations": cell.plan.epochs * job.price,
            "seconds": outcome.log.seconds / len(job.runs),
            "diverged": outcome.diverged,
            "curve": curve,
            "final": outcome.log.last,
            "best": outcome.best,
            "flatness": None,
            "flatness_error": None,
        }

    def _measured(self, cell: Cell, outcome: Outcome) -> dict[str, Any]:
        """Flatness, or the error: a failure must not lose the training."""
        train = self._loaded.data.train
        own = Batch(train.inputs, train.labels[cell.seed])
        try:
            batches = restore.some_batches(own, self._command.flatness_examples)
            found = self._flatness(outcome.weights, batches)
        except (RuntimeError, ValueError, MemoryError) as error:  # XLA's are RuntimeErrors
            return {"flatness_error": (str(error) or type(error).__name__).splitlines()[0][:300]}
        plain = {name: _plain(x) for name, x in found.items()}
        return {"flatness": {"noise_rms": list(restore.NOISE_RMS), **plain}}


def _plain(x: Any) -> Any:
    values = np.asarray(x, float)
    return [*map(record.json_number, values)] if values.ndim else record.json_number(values)


def _parts(command: Any) -> tuple[str, ...]:
    """The parts that are measured: a search must not evaluate the test part."""
    return loop.PARTS if command.view != "sweep" else ("train", "validation")


def _described(resolved: Resolved, command: Any) -> dict[str, Any]:
    """Content of study.json that is known before the data are loaded."""
    task = resolved.task
    return {
        "kind": command.view,
        "title_name": task.dataset,
        "recipe": command.recipe,
        "seeds": list(range(command.seeds)),
        "settings": [plan.setting.text for plan in resolved.plans],
        "epochs": [plan.epochs for plan in resolved.plans],
        "optimizers": [vars(plan.optimizer) for plan in resolved.plans],
        "parts": _parts(command),
        "evaluations": command.evaluations,
        "label_noise": task.label_noise,
        "noise_law": task.noise_law,
        "task": vars(task),
        "value_cost": config.VALUE_COST,
        "flatness_examples": command.flatness_examples,
    }


def _work(cells: Sequence[Cell], train_size: int) -> dict[str, float]:
    """Gradient evaluations of each setting, all its seeds together."""
    work: dict[str, float] = {}
    for _, plan, _ in cells:
        steps = plan.epochs * (train_size // plan.optimizer.batch_size)
        work[plan.setting.text] = work.get(plan.setting.text, 0) + steps * plan.setting.price
    return work


def _shared(plan: Plan) -> tuple[Any, ...]:
    """Key of the program of a plan: plans that differ only in numbers share it."""
    static = {k: x for k, x in vars(plan.optimizer).items() if k not in NUMBERS}
    return plan.setting.shape, tuple(static.items()), plan.epochs, plan.setting.cost


def _groups(cells: Sequence[Cell], loaded: Loaded, *, vectorize: bool) -> Iterator[list[Cell]]:
    """Cells that train at once, as many as fit; one at a time by default."""
    if not vectorize:
        yield from ([cell] for cell in cells)
        return
    shapes = jax.eval_shape(lambda: loaded.network.init(jax.random.key(0))[0])
    size: int = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))
    together: dict[Any, list[Cell]] = {}
    for cell in cells:
        together.setdefault(_shared(cell.plan), []).append(cell)
    for group in together.values():
        # parameters, gradient, state and 2 s perturbed copies of each
        copies = 4 + 2 * int(group[0].plan.setting.arguments.get("s", 1))
        most = max(1, _BYTES_TOGETHER // (size * copies))
        for rows in np.array_split(np.arange(len(group)), -(-len(group) // most)):
            yield [group[row] for row in rows]
