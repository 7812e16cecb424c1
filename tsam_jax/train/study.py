"""A study: settings x seeds -> rows.jsonl, resumable at any point, in any number of shards."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from tsam_jax.train import config, loop, record, restore
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
    i, n = map(int, found.groups()) if found else (0, 0)
    msg = f"`--shard` must be I/N with I from 1 to N, for example 2/4, got {text!r}."
    config.require(1 <= i <= n, msg)
    return i, n


def without_shard(words: Sequence[str]) -> list[str]:
    """The words of a command line without the `--shard` among them.

    Example:
      >>> without_shard(["study", "--shard", "1/2", "--seeds", "3"])
      ['study', '--seeds', '3']
    """
    pairs = zip(["", *words], words, strict=False)
    return [x for before, x in pairs if before != "--shard" and x.partition("=")[0] != "--shard"]


def run_study(resolved: Resolved, command: Any, directory: Path, console: Console) -> bool:
    """Trains what is not finished yet; a row is written when a run ends.

    Args:
      resolved: the settings.
      command: a `commands.study.Study`.
      directory: where study.json, rows.jsonl (one for each shard) and cells/ go; the same study in
        it is resumed, another one or other files are a ConfigError.
      console: where progress is shown.

    Returns:
      Whether all runs of this shard are finished.
    """
    config.require(
        not resolved.task.stream,
        "`--stream` is for `tsam-jax train`: the runs of a study share data on the device.",
    )
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
    train_group = _trainer(resolved, command, loaded, directory)
    work: dict[str, float] = {}
    for _, plan, _ in missing:
        steps = plan.epochs * (loaded.train_size // plan.optimizer.batch_size)
        work[plan.setting.text] = work.get(plan.setting.text, 0) + steps * plan.setting.price
    with record.owned(directory, path.stem), Progress(work, console) as progress:
        if path.exists():
            record.write_lines(
                path, record.read_lines(path)
            )  # a kill may have cut off the last one
        for group in _groups(missing, loaded) if vectorize else ([cell] for cell in missing):
            for cell, row in train_group(group, progress):
                if row is None:
                    return False
                record.add_line(path, row)
                progress.note(cell.plan.setting.text, "diverged" if row["diverged"] else "done")
    return True


def _trainer(resolved: Resolved, command: Any, loaded: Loaded, directory: Path) -> Any:
    """(cells of a group, progress) -> each cell with its row, None if it is not finished."""
    programs: dict[Any, loop.Program] = {}
    flatness, parts = restore.make_flatness(loaded.network), _parts(command)
    count = min(command.evaluations, *(plan.epochs for plan in resolved.plans))

    def train_group(group: Sequence[Cell], progress: Progress) -> Iterator[tuple[Cell, Any]]:
        plan, runs = group[0].plan, []
        for cell in group:
            folder = directory / cell.folder
            folder.mkdir(parents=True, exist_ok=True)
            run = restore.make_run(cell.plan, resolved.task, cell.seed, folder, loaded.digest)
            record.write_json(folder / "config.json", dict(run.identity))
            runs.append(run)
        program = programs.get(key := _shared(plan))
        progress.note(plan.setting.text, "training" if program else "compiling")
        job = restore.make_job(loaded, plan, runs, count, parts, program)
        programs[key] = job.program
        every = max(1, plan.epochs // 5)
        outcomes = train(job, progress, checkpoint_every=every, keep_checkpoints=1)
        for cell, outcome in zip(group, outcomes, strict=True):
            if not outcome.complete and outcome.diverged is None:
                yield cell, None
                return
            row = _row(cell, job, outcome)
            if command.flatness_examples and outcome.diverged is None:
                progress.note(cell.plan.setting.text, f"seed {cell.seed}  measuring flatness")
                train_part = loaded.data.train
                own = train_part._replace(labels=train_part.labels[cell.seed])
                try:  # a failure must not lose the training
                    batches = restore.some_batches(own, command.flatness_examples)
                    found = flatness(outcome.weights, batches)
                    row["flatness"] = {"noise_rms": list(restore.NOISE_RMS), **found}
                except (RuntimeError, ValueError, MemoryError) as error:  # XLA's are RuntimeErrors
                    said = str(error) or type(error).__name__
                    row["flatness_error"] = said.splitlines()[0][:300]
            yield cell, row

    return train_group


def _row(cell: Cell, job: Job, outcome: Outcome) -> dict[str, Any]:
    setting, lines = cell.plan.setting, outcome.log.lines
    names = [name for name in (lines[-1] if lines else ()) if name != "gradient_evaluations"]
    return {
        "setting": setting.text,
        "method": setting.name,
        "arguments": setting.written,
        "seed": cell.seed,
        "directory": cell.folder,
        "optimizer": vars(cell.plan.optimizer),
        "epochs": cell.plan.epochs,
        "steps_per_epoch": job.program.steps_per_epoch,
        "gradients_per_step": setting.cost.gradients,
        "values_per_step": setting.cost.values,
        "gradient_evaluations": cell.plan.epochs * job.price,
        "seconds": outcome.log.seconds / len(job.runs),
        "diverged": outcome.diverged,
        "curve": {name: [line.get(name) for line in lines] for name in names},
        "final": outcome.log.last,
        "best": outcome.best,
        "flatness": None,
        "flatness_error": None,
    }


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


def _shared(plan: Plan) -> tuple[Any, ...]:
    """Key of the program of a plan: plans that differ only in numbers share it."""
    static = {k: x for k, x in vars(plan.optimizer).items() if k not in NUMBERS}
    return plan.setting.shape, tuple(static.items()), plan.epochs, plan.setting.cost


def _groups(cells: Sequence[Cell], loaded: Loaded) -> Iterator[list[Cell]]:
    """Cells that train at once, as many as fit."""
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
