"""`tsam-jax sweep`: the search for settings, by validation accuracy alone."""

import dataclasses
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from tsam_jax.recipes import noisy_digits
from tsam_jax.train import config, provenance
from tsam_jax.train.progress import Progress
from tsam_jax.train.runs import Runner


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Search settings by validation accuracy; the test images are not looked at.

    Without options: the search that chose the settings of `tsam-jax compare`, the same number of
    settings for each method, at the same gradient budget.
    """

    methods: tuple[str, ...] = tuple(noisy_digits.SEARCH)
    """Grids of settings, in quotes: "sam(rho=[0.1,0.3], lr=[0.01,0.03])"."""
    out: Path | None = None
    """Directory for the results, new or empty. Default: runs/sweep-DATE-TIME."""
    task: config.Task = dataclasses.field(default_factory=config.Task)
    """What is learnt."""
    optimizer: config.Optimizer = dataclasses.field(default_factory=config.Optimizer)
    """The base optimizer of all methods."""
    budget: config.Budget = dataclasses.field(default_factory=config.Budget)
    """How long to train."""
    runs: config.Runs = dataclasses.field(default_factory=lambda: config.Runs(evaluations=20))
    """Seeds and measurements."""

    def __post_init__(self) -> None:
        """Checks what the parts cannot check by themselves."""
        config.check_batch(self.task, self.optimizer, config.parse_methods(self.methods))


def sweep(command: Sweep, directory: Path, console: Console) -> dict[str, Any]:
    """Trains every setting and writes sweep.json, which grows setting by setting.

    Args:
      command: what to do.
      directory: where config.json, metrics.jsonl and sweep.json go; exists.
      console: where progress is shown.

    Returns:
      The content of sweep.json: the settings with their validation accuracies, the chosen one of
      each method, and whether the sweep was completed.
    """
    settings = config.parse_methods(command.methods)
    log, parts = directory / "metrics.jsonl", ("train", "validation")
    runner = Runner(command.task, command.optimizer, command.budget, command.runs, log, parts)
    resolved = provenance.as_dict(command)
    provenance.write_json(directory / "config.json", resolved)
    rows: list[dict[str, Any]] = []
    found: dict[str, Any] = {}
    with Progress(runner.work(settings), console) as progress:
        for setting in settings:
            trained = runner.train(setting, progress)
            if trained.state is not None:
                accuracies = trained.curves["validation_accuracy"][:, -1]
                rows.append({
                    "method": setting.name,
                    "setting": setting.text,
                    "validation_accuracy": [float(accuracy) for accuracy in accuracies],
                    "mean": float(np.mean(accuracies)),
                })
            found = {
                "complete": len(rows) == len(settings),
                "config": resolved,
                "versions": provenance.versions(),
                "settings_tried": dict(Counter(row["method"] for row in rows)),
                "chosen": _chosen(rows),
                "settings": rows,
            }
            provenance.write_json(directory / "sweep.json", found)
            if trained.state is None:
                break
    return found


def render(found: dict[str, Any]) -> Table:
    """The table of settings, best first within each method."""
    table = Table("method", "setting", "validation accuracy", "seeds")
    for method, tried in found["settings_tried"].items():
        rows = [row for row in found["settings"] if row["method"] == method]
        rows.sort(key=lambda row: -row["mean"])
        for row in rows:
            best = row["setting"] == found["chosen"][method]
            accuracies = " ".join(f"{100 * x:.1f}" for x in row["validation_accuracy"])
            name = f"{method} ({tried})" if best else ""
            style = "bold" if best else None
            table.add_row(
                name, row["setting"], f"{100 * row['mean']:.1f} %", accuracies, style=style
            )
        table.add_section()
    return table


def compare_command(found: dict[str, Any]) -> str:
    """The command that compares the chosen settings."""
    return shlex.join(["tsam-jax", "compare", "--methods", *found["chosen"].values()])


def _chosen(rows: list[dict[str, Any]]) -> dict[str, str]:
    """The best setting of each method; of equals the first."""
    chosen: dict[str, dict[str, Any]] = {}
    for row in rows:
        best = chosen.get(row["method"])
        if best is None or row["mean"] > best["mean"]:
            chosen[row["method"]] = row
    return {method: row["setting"] for method, row in chosen.items()}
