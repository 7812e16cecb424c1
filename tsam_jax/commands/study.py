"""`tsam-jax study`, its two views `compare` and `sweep`, and the `report` of all of them."""

import dataclasses
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from tsam_jax.commands import Command, Common, default_directory, interrupted, say
from tsam_jax.recipes import Recipe
from tsam_jax.train.config import option

_EVALUATIONS = "Evaluations per run, the same number for each; at most the epochs of the shortest."
_FLATNESS = "Training examples for the flatness measures, each at the cost of 151 losses."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study(Common):
    """Run settings x seeds, resumable, in shards if asked.

    rows.jsonl gets a row when a run ends. The same command with the same `--out` resumes what is
    not finished. `--shard I/N` runs every N-th run, for the job array of any scheduler; `tsam-jax
    report` merges the shards.
    """

    methods: tuple[str, ...] = option(
        (),
        'Methods: bare names, or settings in quotes. A list is a grid: "sam(rho=[0.1,0.2])"; "all"'
        " is every method. Default: the recipe's, else erm, sam and tsam.",
    )
    grid: tuple[str, ...] = option(
        (),
        "Values for every method that takes them: t=1,20 rho=0.05,0.1 lr=0.03,0.1; radius or rms is"
        " the size of the noise.",
    )
    seeds: int = option(
        3, "Number of seeds: 0, 1, ..., the same for every setting.", low=1, high=10_000
    )
    evaluations: int = option(100, _EVALUATIONS, low=1)
    flatness_examples: int = option(0, _FLATNESS, low=0)
    vectorize: bool | None = option(
        None, "Train runs that differ in numbers and seeds as one program. Default: for the mlp."
    )
    shard: str | None = option(None, "Run a part of the study: I/N, for example 2/4.")

    view = "study"

    def chosen(self, recipe: Recipe) -> tuple[str, ...]:
        """The settings to run."""
        return self.methods or recipe.methods

    def run(self, console: Console) -> int:
        """Runs the study, and writes its report; returns the exit status."""
        from tsam_jax.train.study import run_study

        resolved = self.resolved(console)
        directory = self.out or default_directory(self.view)
        complete = run_study(resolved, self, directory, console)
        status = _report(directory, console)
        if complete:
            return status
        words: list[Any] = [self.view, "--resume", directory]
        if self.shard is not None:  # a resumed directory is all of its shards
            words = [*self.words, "--out", directory]
        return interrupted(console, words)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compare(Study):
    """Compare methods over seeds at one budget, with a report.

    Without options: handwritten digits with 40 % of the training labels replaced; ERM, SAM and
    TSAM, each with the setting that `tsam-jax sweep` chose on the validation images; 3 seeds.
    """

    flatness_examples: int = option(2000, _FLATNESS, low=0)

    view = "compare"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep(Study):
    """Search settings on the validation part.

    The test part is not evaluated. Without options: the search that chose the settings of
    `tsam-jax compare`, the same number of settings for each method at the same gradient budget.
    """

    evaluations: int = option(20, _EVALUATIONS, low=1)

    view = "sweep"

    def chosen(self, recipe: Recipe) -> tuple[str, ...]:
        """The settings to search."""
        return self.methods or recipe.search or recipe.methods


@dataclasses.dataclass(frozen=True)
class Report(Command):
    """Write the report of a study, merging its shards."""

    directory: tyro.conf.Positional[Path]
    """Directory of the study."""

    def run(self, console: Console) -> int:
        """Writes report.html and report.json; returns 0, or 1 if a run diverged."""
        return _report(self.directory, console)


def _report(directory: Path, console: Console) -> int:
    """Writes the report of a study and prints its results; the exit status of the study."""
    from tsam_jax.train import report, table

    page = report.write_report(directory)
    study, rows = report.read_study(directory)
    console.print(table.render(study, rows))
    for line in report.commands(study, rows) if study["kind"] == "sweep" else ():
        say(console, f"Next: {line}")
    say(console, f"Report: {page}")
    diverged = [row for row in rows if row["diverged"]]
    for row in diverged:
        say(console, f"Diverged: {row['setting']}, seed {row['seed']}, at {row['diverged']}")
    return 1 if diverged else 0
