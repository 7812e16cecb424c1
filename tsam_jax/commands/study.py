"""`tsam-jax study`, its views `train`, `compare` and `sweep`, and the `report` of all of them."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from tyro.conf import Positional, Suppress, arg

from tsam_jax.commands import INTERRUPTED, OUT, Command, default_directory, say
from tsam_jax.recipes import Recipe
from tsam_jax.train import config
from tsam_jax.train.config import option

_Recipe = Annotated[str | None, Positional, arg(metavar="[RECIPE]", help_behavior_hint="")]
_EVALUATIONS = "Evaluations per run, the same number for each; at most the epochs of the shortest."
_FLATNESS = "Training examples for the flatness measures, each at the cost of 151 losses."
_REMEDIES = (
    "Try a lower learning rate (`--lr`), clipping (`--clip 1`), a warm-up (`--warmup 1`), a smaller"
    " rho or noise radius, or `--precision float32`."
)
_EVERY = "Epochs between checkpoints; one more at the end, and the best epoch's. Default: {}."


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Experiment(Command):
    """Options of every command that trains."""

    recipe: _Recipe = option(
        None,
        "Recipe to start from, see `tsam-jax recipes`; options override its values. Or a data set"
        " with a colon, as of --dataset. Default: digits, unless a data set is named.",
    )
    t: float | None = option(None, "Tilt of every method that has one, in units of 1/loss.")
    rho: float | None = option(None, "Length of the ascent step, of every method that has one.")
    s: int | None = option(None, "Number of samples, of every method that has one.")
    out: Path | None = option(None, OUT)
    resume: Path | None = option(
        None, "Directory of a run to resume with its own options; takes no others."
    )
    words: Suppress[tuple[str, ...]] = ()
    mesh: str | None = option(
        None,
        'Devices, for example "data=4,sample=2": the batch is split over the first axis, the'
        " samples of a method over the second. Default: one device.",
    )
    distributed: str | None = option(
        None, "Join other processes: auto (by a launcher's environment) or HOST:PORT,COUNT,INDEX."
    )
    checkpoint_every: int | None = option(None, _EVERY.format("a fifth of the training"), low=1)
    keep_checkpoints: int = option(2, "Checkpoints to keep, the newest ones.", low=1)
    tensorboard: bool = config.switch("Log to TensorBoard, in the directory of the run.")
    wandb: bool = config.switch("Log to Weights & Biases.")
    task: config.TaskFlags = dataclasses.field(default_factory=dict)
    optimizer: config.OptimizerFlags = dataclasses.field(default_factory=dict)
    budget: config.BudgetFlags = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks the values, those of `task`, `optimizer` and `budget` with them."""
        config.check(config.Task, self.task)
        config.check(config.Optimizer, self.optimizer)
        config.Budget(**self.budget)
        super().__post_init__()

    @property
    def kind(self) -> str:
        """Its name."""
        return type(self).__name__.lower()

    def flags(self) -> tuple[str, ...]:
        """The flags of data, network, optimizer and budget that were given, to be repeated."""
        found = []
        for name, value in (self.task | self.optimizer | self.budget).items():
            values = value if isinstance(value, tuple) else (value,)
            off = "no_" if value is False else ""
            found.append(config.flag(off + name))
            found += ["none" if x is None else str(x) for x in values if not isinstance(x, bool)]
        return tuple(found)

    def run(self: Any, console: Console) -> int:
        """Trains what is not finished, and writes the report; returns the exit status."""
        import jax

        from tsam_jax.train import mesh
        from tsam_jax.train.resolve import announce, render, resolve
        from tsam_jax.train.study import run_study

        mesh.join_processes(self.distributed)
        config.require(
            jax.process_count() == 1 or self.out is not None,
            "`--distributed` needs `--out`: one directory for all processes.",
        )
        console = console if jax.process_index() == 0 else Console(quiet=True)
        directory, resolved = self.out or default_directory(self.kind), resolve(self)
        say(console, announce(resolved.task))
        console.print(render(resolved))
        complete = run_study(resolved, self, directory, console)
        status = _report(directory, console)
        if complete:
            return status
        # a resumed directory is all of its shards
        words = (self.kind, "--resume", str(directory))
        if self.shard is not None:
            words = *self.words, *["--out", str(directory)] * (self.out is None)
        again = shlex.join(["tsam-jax", *words])
        say(console, f"Interrupted; resume with: {again}")
        return INTERRUPTED


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(_Experiment):
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
    checkpoint_every: int | None = option(10, _EVERY.format(10), low=1)

    grid, shard, flatness_examples, evaluations = (), None, 0, sys.maxsize

    def chosen(self, recipe: Recipe) -> tuple[str, ...]:
        """The setting to run."""
        return (self.method or recipe.method,)

    def seed_list(self) -> list[int]:
        """The seed, alone."""
        return [self.seed]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study(_Experiment):
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
    shard: str | None = option(None, "Run a part of the study: I/N, for example 2/4.")

    def chosen(self, recipe: Recipe) -> tuple[str, ...]:
        """The settings to run."""
        return self.methods or recipe.methods

    def seed_list(self) -> list[int]:
        """All seeds."""
        return list(range(self.seeds))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compare(Study):
    """Compare methods over seeds at one budget, with a report.

    Without options: handwritten digits with 40 % of the training labels replaced; ERM, SAM and
    TSAM, each with the setting that `tsam-jax sweep` chose on the validation images; 3 seeds.
    """

    flatness_examples: int = option(2000, _FLATNESS, low=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep(Study):
    """Search settings on the validation part.

    The test part is not evaluated. Without options: the search that chose the settings of
    `tsam-jax compare`, the same number of settings for each method at the same gradient budget.
    """

    evaluations: int = option(20, _EVALUATIONS, low=1)

    def chosen(self, recipe: Recipe) -> tuple[str, ...]:
        """The settings to search."""
        return self.methods or recipe.search or recipe.methods


@dataclasses.dataclass(frozen=True)
class Report(Command):
    """Write the report of a study, merging its shards."""

    directory: Positional[Path]
    """Directory of the study."""

    def run(self, console: Console) -> int:
        """Writes report.html and report.json; returns 0, or 1 if a run diverged."""
        return _report(self.directory, console)


def _report(directory: Path, console: Console) -> int:
    """Writes the report of a study and prints its results; the exit status of the study."""
    from tsam_jax.train import report, table

    results = report.write_report(directory)
    console.print(table.render(results))
    for line in report.commands(results):
        say(console, f"Next: {line}")
    say(console, f"Report: {directory / 'report.html'}")
    diverged = [row for row in results.rows if row["diverged"]]
    for row in diverged:
        say(console, f"Diverged: {row['setting']}, seed {row['seed']}, at {row['diverged']}.")
    if diverged:
        say(console, _REMEDIES)
    return 1 if diverged else 0
