"""`tsam-jax compare`: methods side by side, on the same seeds, at a stated gradient budget."""

import dataclasses
from pathlib import Path

import numpy as np
from rich.console import Console

from tsam_jax.estimator import known_cost
from tsam_jax.recipes import RECIPES
from tsam_jax.train import config, provenance
from tsam_jax.train.flatness import NOISE_RMS, Flatness, make_measure
from tsam_jax.train.progress import Progress
from tsam_jax.train.results import Comparison, MethodResult
from tsam_jax.train.runs import Runner, Trained
from tsam_jax.train.settings import Setting


@dataclasses.dataclass(frozen=True)
class Compare:
    """Train methods side by side and write a report.

    Without options: handwritten digits with 40 % wrong training labels; ERM, SAM and TSAM, each in
    the setting that `tsam-jax sweep` chose on the validation images; 3 seeds; the same number of
    gradient evaluations for each.
    """

    recipe: str = "digits"
    """The experiment whose values the other options replace; it may stand first."""
    methods: tuple[str, ...] = RECIPES["digits"].methods
    """Methods: a bare name for its tuned setting, or one of your own, in quotes:
    "sam(rho=0.5, lr=0.1)". A list is a grid: "tsam(t=[0,20], rho=0.8, s=3)"; "all" stands for
    every method."""
    out: Path | None = None
    """Directory for the report, new or empty. Default: runs/compare-DATE-TIME."""
    task: config.Task = dataclasses.field(default_factory=config.Task)
    """What is learnt."""
    optimizer: config.Optimizer = dataclasses.field(default_factory=config.Optimizer)
    """The base optimizer of all methods."""
    budget: config.Budget = dataclasses.field(default_factory=config.Budget)
    """How long to train."""
    runs: config.Runs = dataclasses.field(default_factory=config.Runs)
    """Seeds and measurements."""

    def __post_init__(self) -> None:
        """Checks what the parts cannot check by themselves."""
        settings = config.parse_methods(self.methods, self.recipe)
        config.check_batch(self.task.train_size, self.optimizer, settings)


def compare(command: Compare, directory: Path, console: Console) -> Comparison:
    """Trains, measures, and returns what was found; metrics are logged on the way.

    Args:
      command: what to do.
      directory: where config.json and metrics.jsonl go; made when the data are loaded.
      console: where progress is shown.

    Returns:
      A `Comparison`; `complete` is False if the user interrupted it.
    """
    settings = config.parse_methods(command.methods, command.recipe)
    runner = Runner(
        command.task, command.optimizer, command.budget, command.runs, directory / "metrics.jsonl"
    )
    work = runner.work(settings)
    config.check_writable(directory)
    results: list[MethodResult] = []
    resolved = provenance.as_dict(command)
    resolved["methods"] = [setting.text for setting in settings]
    provenance.write_json(directory / "config.json", resolved)
    complete = False
    try:
        examples = command.runs.flatness_examples
        measure = make_measure(runner.network, examples)
        with Progress(work, console) as progress:
            for setting in settings:
                trained = runner.train(setting, progress)
                result = _result(setting, command.optimizer, trained, None)
                if result.epochs:
                    results.append(result)
                if trained.state is None:
                    break
                if examples:
                    progress.note(setting.text, "measuring flatness")
                    flatness = measure(trained.state, runner.data)
                    results[-1] = _result(setting, command.optimizer, trained, flatness)
                progress.note(setting.text, "done")
            else:
                complete = True
    except KeyboardInterrupt:
        console.print("Interrupted: writing what there is.", style="bold")
    resolved["runs"]["seeds_together"] = "yes" if runner.together else "no"
    task = {"name": command.task.dataset, **provenance.as_dict(command.task)}
    return Comparison(task, resolved, provenance.versions(), complete, tuple(results))


def _result(
    setting: Setting, optimizer: config.Optimizer, trained: Trained, flatness: Flatness | None
) -> MethodResult:
    seeds = len(trained.seeds)
    if flatness is None:
        nothing = np.full((seeds,), np.nan)
        flatness = Flatness(nothing, np.zeros((seeds, 0)), np.zeros((seeds, 0)), nothing)
    program = trained.program
    epochs = int(trained.curve_epochs[-1]) if len(trained.curve_epochs) else 0
    return MethodResult(
        label=setting.text,
        name=setting.name,
        settings={"setting": setting.text, **provenance.as_dict(optimizer.for_setting(setting))},
        gradients_per_step=known_cost(program.cost).gradients,
        steps_per_epoch=program.steps_per_epoch,
        epochs=epochs,
        planned_epochs=trained.epochs,
        seeds=trained.seeds,
        gradient_evaluations=round(
            epochs * program.steps_per_epoch * known_cost(program.cost).gradients
        ),
        wall_seconds=trained.seconds,
        curves=trained.curves,
        curve_epochs=trained.curve_epochs,
        noise_rms=np.asarray(NOISE_RMS),
        neighbourhood_mean=flatness.mean,
        neighbourhood_variance=flatness.variance,
        loss=flatness.loss,
        top_eigenvalue=flatness.top_eigenvalue,
    )
