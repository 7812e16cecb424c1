"""`tsam-jax study`, and its two views: `compare` with a report, `sweep` with a choice."""

import dataclasses
import shlex
from collections.abc import Mapping
from typing import ClassVar

from rich.console import Console

from tsam_jax.commands import INTERRUPTED, Common, help_, say
from tsam_jax.train import config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study(Common):
    """Run settings x seeds, resumable, in shards if asked.

    rows.jsonl gets a row when a run ends. The same command with the same `--out` resumes what is
    not finished. `--shard I/N` runs every N-th run, for the job array of any scheduler; `tsam-jax
    report` merges the shards.
    """

    methods: tuple[str, ...] = help_(
        'Methods: bare names, or settings in quotes. A list is a grid: "sam(rho=[0.1,0.2])"; "all"'
        " is every method. Default: the recipe's, else erm, sam and tsam.",
        default=(),
    )
    grid: tuple[str, ...] = help_(
        "Values for every method that takes them: t=1,20 rho=0.05,0.1 lr=0.03,0.1; radius or rms is"
        " the size of the noise.",
        default=(),
    )
    seeds: int = config.option(
        3, "Number of seeds: 0, 1, ..., the same for every setting.", low=1, high=10_000
    )
    evaluations: int = config.option(
        100, "Evaluations per run; as many for each, at most the epochs of the shortest.", low=1
    )
    flatness_examples: int = config.option(
        0, "Training examples of the flatness measures; each costs 151 losses.", low=0
    )
    vectorize: bool | None = help_(
        "Train runs that differ in numbers and seeds as one program. Default: for the mlp."
    )
    shard: str | None = help_("Run a part of the study: I/N, for example 2/4.")

    view = "study"
    refused: ClassVar[Mapping[str, str]] = {
        "--distributed": "is for `tsam-jax train`: a study is shared by `--shard I/N`."
    }

    def run(self, console: Console) -> int:
        """Runs the study, and writes its report; returns the exit status."""
        from tsam_jax.train import loop
        from tsam_jax.train.report import read_study, write_report
        from tsam_jax.train.resolve import announce, render, resolve
        from tsam_jax.train.study import Options, parse_shard, run_study

        command = self.with_recipe()
        if command.view == "sweep" and not command.methods and command.recipe is not None:
            recipe = config.find_recipe(command.recipe)
            command = dataclasses.replace(command, methods=recipe.search or recipe.methods)
        resolved = resolve(command)
        directory = command.directory(command.view)
        say(console, announce(resolved.task))
        console.print(render(resolved))
        parts = loop.PARTS if command.view != "sweep" else ("train", "validation")
        options = Options(
            kind=command.view,
            seeds=command.seeds,
            parts=parts,
            evaluations=command.evaluations,
            flatness_examples=command.flatness_examples,
            vectorize=command.vectorize,
            shard=parse_shard(command.shard),
            flags=command.flags(),
            recipe=command.recipe,
            words=_without_shard(command.words),
        )
        complete = run_study(resolved, options, directory, console)
        page = write_report(directory)
        study, rows = read_study(directory)
        show(console, study, rows)
        say(console, f"Report: {page}")
        if not complete:
            words = [command.view, "--resume", str(directory)]
            if command.shard is not None:  # a resumed directory is all of its shards
                words = [*command.words, "--out", str(directory)]
            again = shlex.join(["tsam-jax", *words])
            say(console, f"Interrupted; resume with: {again}")
            return INTERRUPTED
        diverged = [row for row in rows if row["diverged"]]
        for row in diverged:
            say(console, f"Diverged: {row['setting']}, seed {row['seed']}, at {row['diverged']}")
        return 1 if diverged else 0


def _without_shard(words: tuple[str, ...]) -> tuple[str, ...]:
    """The words of a study, of which one shard may have been asked for."""
    found = [word for word in words if not word.startswith("--shard=")]
    if "--shard" in found:
        place = found.index("--shard")
        del found[place : place + 2]
    return tuple(found)


def show(console: Console, study: dict, rows: list) -> None:  # type: ignore[type-arg]
    """Prints what a study found, and for a sweep the commands to go on with."""
    from tsam_jax.train import report, table

    console.print(table.render(study, rows))
    if study["kind"] == "sweep":
        for line in report.commands(study, rows):
            say(console, f"Next: {line}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compare(Study):
    """Compare methods over seeds at one budget, with a report.

    Without options: handwritten digits with 40 % of the training labels replaced; ERM, SAM and
    TSAM, each with the setting that `tsam-jax sweep` chose on the validation images; 3 seeds.
    """

    flatness_examples: int = config.option(
        2000, "Training examples of the flatness measures; each costs 151 losses.", low=0
    )

    view = "compare"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep(Study):
    """Search settings on the validation part.

    The test part is not evaluated. Without options: the search that chose the settings of
    `tsam-jax compare`, the same number of settings for each method at the same gradient budget.
    """

    evaluations: int = config.option(
        20, "Evaluations per run; as many for each, at most the epochs of the shortest.", low=1
    )

    view = "sweep"
