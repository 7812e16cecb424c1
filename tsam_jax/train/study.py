"""A study: settings x seeds -> rows.jsonl, resumable at any point, in any number of shards."""

import re
from pathlib import Path
from typing import Any

from rich.console import Console

from tsam_jax.train import config, loop, mesh, record, restore
from tsam_jax.train.optimizers import NUMBERS
from tsam_jax.train.progress import Progress
from tsam_jax.train.resolve import Plan, Resolved
from tsam_jax.train.run import Outcome, Run, make_run, train
from tsam_jax.train.task import load_task
from tsam_jax.train.trackers import Tracking, check_available


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


def run_study(resolved: Resolved, command: Any, directory: Path, console: Console) -> bool:
    """Trains what is not finished yet; a row is written when a run ends.

    Args:
      resolved: the settings.
      command: `Train`, `Study`, `Compare` or `Sweep` of `commands.study`.
      directory: where study.json, rows.jsonl (one for each shard) and cells/ go; the same study in
        it is resumed, another one or other files are a ConfigError. `tsam-jax train` has its only
        run in the directory itself.
      console: where progress is shown.

    Returns:
      Whether all runs of this shard are finished.
    """
    task, alone, seeds = resolved.task, command.kind == "train", command.seed_list()
    config.require(
        not alone or len(resolved.plans) == 1,
        f"`--method` takes one setting, got {len(resolved.plans)}: use `tsam-jax study`.",
    )
    config.require(
        alone or not task.stream,
        "`--stream` is for `tsam-jax train`: the runs of a study share data on the device.",
    )
    i, n = parse_shard(command.shard)
    pairs = [(plan, seed) for plan in resolved.plans for seed in seeds]
    cells = [
        (plan, seed, "." if alone else f"cells/{k:03d}-{plan.setting.name}-seed{seed}")
        for k, (plan, seed) in enumerate(pairs)
    ][i - 1 :: n]
    tracking = Tracking(command.tensorboard, command.wandb)
    check_available(tracking)
    study = _described(resolved, command)
    record.check_same(directory / "study.json", study)
    loaded = load_task(task, seeds, resolved.devices, resolved.opened)
    study["data"] = loaded.digest
    record.check_same(directory / "study.json", study)
    study |= {"metric": loaded.metrics[0], "metrics": loaded.metrics, "flags": command.flags()}
    study |= {"words": command.words, "resolved": resolved.rows, "versions": record.versions()}
    path = directory / ("rows.jsonl" if n == 1 else f"rows-{i}-of-{n}.jsonl")
    rows = [row for file in directory.glob("rows*.jsonl") for row in record.read_lines(file)]
    finished = {(row["setting"], row["seed"]) for row in rows}
    missing = [cell for cell in cells if (cell[0].setting.text, cell[1]) not in finished]
    mesh.wait_for_others()  # the first one writes when all have checked
    config.check_writable(directory)
    if not (directory / "study.json").exists():
        record.write_json(directory / "study.json", study)
    programs: dict[Any, loop.Program] = {}
    measured = {name: study[name] for name in ("evaluations", "parts")}
    flatness = restore.make_flatness(loaded.network)
    work = sum(plan.price(loaded.train_size) for plan, *_ in missing)
    with record.owned(directory, path.stem), Progress(work, console) as progress:
        if path.exists():  # a kill may have cut off its last line
            record.write_lines(path, record.read_lines(path))
        for plan, seed, folder in missing:
            own, program = directory / folder, programs.get(key := _shared(plan))
            run = make_run(plan, task, loaded, seed, own, program=program, **measured)
            programs[key] = run.program
            own.mkdir(parents=True, exist_ok=True)
            if (own / "config.json").exists():
                record.check_same(own / "config.json", run.identity)
            record.write_json(own / "config.json", run.identity)
            progress.note(run.label, "training" if program else "compiling")
            outcome = train(
                run,
                progress,
                checkpoint_every=command.checkpoint_every or max(1, plan.epochs // 5),
                keep_checkpoints=command.keep_checkpoints,
                tracking=tracking._replace(config=run.identity),
            )
            if not outcome.complete and outcome.diverged is None:
                return False
            row = _row(plan, run, outcome) | {"directory": folder}
            if command.flatness_examples and outcome.diverged is None:
                progress.note(run.label, f"seed {seed}  measuring flatness")
                row |= _flatness(flatness, run, outcome, command.flatness_examples)
            record.add_line(path, row)
            progress.note(run.label, "diverged" if row["diverged"] else "done")
    mesh.wait_for_others()
    return True


def _flatness(measure: Any, run: Run, outcome: Outcome, examples: int) -> dict[str, Any]:
    """What `measure` finds; or its error, which must not lose the training."""
    try:
        found = measure(outcome.weights, restore.some_batches(run.data.train, examples))
    except (RuntimeError, ValueError, MemoryError) as error:  # XLA's are RuntimeErrors
        return {"flatness_error": (str(error) or type(error).__name__).splitlines()[0][:300]}
    return {"flatness": {"noise_rms": list(restore.NOISE_RMS), **found}}


def _row(plan: Plan, run: Run, outcome: Outcome) -> dict[str, Any]:
    setting, lines, where = plan.setting, outcome.log.lines, outcome.diverged
    names = [name for name in (lines[-1] if lines else ()) if name != "gradient_evaluations"]
    return {
        "setting": setting.text,
        "method": setting.name,
        "arguments": setting.written,
        "seed": run.seed,
        "optimizer": vars(plan.optimizer),
        "epochs": plan.epochs,
        "steps_per_epoch": run.program.steps_per_epoch,
        "price_per_step": setting.price,
        "gradient_evaluations": plan.epochs * run.price,
        "seconds": outcome.log.seconds,
        "diverged": where and f"{where}; last checkpoint: {outcome.saved}",
        "curve": {name: [line.get(name) for line in lines] for name in names},
        "final": lines[-1] if lines else None,
        "best": outcome.log.best(run.metric),
        "flatness": None,
        "flatness_error": None,
    }


def _described(resolved: Resolved, command: Any) -> dict[str, Any]:
    """Content of study.json that is known before the data are loaded."""
    epochs = [plan.epochs for plan in resolved.plans]
    parts = loop.PARTS if command.kind != "sweep" else ("train", "validation")
    return {
        "kind": command.kind,
        "recipe": resolved.recipe,
        "seeds": command.seed_list(),
        "settings": [plan.setting.text for plan in resolved.plans],
        "epochs": epochs,
        "optimizers": [vars(plan.optimizer) for plan in resolved.plans],
        "parts": parts,  # a search must not evaluate the test part
        "evaluations": min(command.evaluations, *epochs),
        "task": vars(resolved.task),
        "flatness_examples": command.flatness_examples,
    }


def _shared(plan: Plan) -> tuple[Any, ...]:
    """Key of the program of a plan: plans that differ only in numbers share it."""
    static = {k: x for k, x in vars(plan.optimizer).items() if k not in NUMBERS}
    return plan.setting.shape, tuple(static.items()), plan.epochs
