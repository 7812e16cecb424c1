"""`tsam-jax sweep`: the search for settings, by the validation part alone."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from rich.console import Console

from tsam_jax.recipes import RECIPES
from tsam_jax.train import choice, config, heatmap, loop, provenance, sharing
from tsam_jax.train.numbers import apply_grid
from tsam_jax.train.progress import Progress
from tsam_jax.train.runs import Runner, Trained, together_is_faster
from tsam_jax.train.settings import Setting

_PARTS = ("train", "validation")
_BYTES_TOGETHER = 2**30
"""Bound on the parameters, and what is made of their size, of settings that are mapped over."""


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Search settings by the validation part; the test part is not looked at.

    Without options: the search that chose the settings of `tsam-jax compare`, the same number of
    settings for each method, at the same gradient budget. Settings that differ in numbers alone
    share one compiled program.
    """

    recipe: str = "digits"
    """The experiment whose values the other options replace; it may stand first."""
    methods: tuple[str, ...] = RECIPES["digits"].search
    """Methods, and grids of settings in quotes: "sam(rho=[0.1,0.3], lr=[0.01,0.03])"."""
    grid: tuple[str, ...] = ()
    """Numbers for all methods that take them, for example:

    t=1,20 rho=0.05,0.1 s=3,5 lr=0.03,0.1 weight_decay=0.0005

    radius or rms is the size of the noise."""
    settings_together: Literal["auto", "yes", "no"] = "auto"
    """Whether settings that share a program run at once; auto: if that is faster here, and their
    copies of the network are small enough."""
    out: Path | None = None
    """Directory for the results, new or empty. Default: runs/sweep-DATE-TIME."""
    resume: Path | None = None
    """Directory of a sweep to go on with, as it was started: it takes no other options."""
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
        config.check_batch(self.task.train_size, self.optimizer, self.settings())

    def settings(self) -> list[Setting]:
        """The settings that are tried."""
        return apply_grid(config.parse_methods(self.methods, self.recipe), self.grid)


def load_sweep(directory: Path) -> Sweep:
    """Reads what a sweep was started with.

    Args:
      directory: the directory of the sweep.

    Returns:
      The `Sweep` command, with `resume` set.

    Raises:
      ConfigError: if it is not the directory of a sweep.
    """
    kinds = {"task": config.Task, "optimizer": config.Optimizer}
    try:
        saved = json.loads((directory / "config.json").read_text())
        for name, kind in {**kinds, "budget": config.Budget, "runs": config.Runs}.items():
            saved[name] = kind(**saved[name])
        for name in ("methods", "grid"):
            saved[name] = tuple(saved[name])
        return Sweep(**saved, resume=directory)
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        msg = f"`--resume`: {directory} is not the directory of a sweep ({error})."
        raise config.ConfigError(msg) from error


def sweep(command: Sweep, directory: Path, console: Console) -> dict[str, Any]:
    """Trains every setting, or those that are not finished yet.

    Args:
      command: what to do.
      directory: where config.json, metrics.jsonl, settings.jsonl (a line for each finished
        setting), sweep.json and heatmap.png go; made when the data are loaded.
      console: where progress is shown.

    Returns:
      The content of sweep.json: the settings with what was measured on the validation part, the
      chosen one of each method, and whether the sweep was completed.
    """
    settings, log = command.settings(), directory / "metrics.jsonl"
    runner = Runner(command.task, command.optimizer, command.budget, command.runs, log, _PARTS)
    work = runner.work(settings)
    config.check_writable(directory)
    resolved = provenance.as_dict(command)
    if command.resume is None:
        provenance.write_json(directory / "config.json", resolved)
    finished = directory / "settings.jsonl"
    rows = {row["setting"]: row for row in _lines(finished)}
    _keep(finished, list(rows))
    _keep(log, list(rows))
    open_settings = [setting for setting in settings if setting.text not in rows]
    with Progress({setting.text: work[setting.text] for setting in open_settings}, console) as bars:
        for setting, trained in _train_all(command, runner, open_settings, bars):
            rows[setting.text] = row = _row(setting, trained, runner.metric)
            with finished.open("a") as lines:
                lines.write(json.dumps(row) + "\n")
    ordered = [rows[setting.text] for setting in settings if setting.text in rows]
    found = {
        "complete": len(ordered) == len(settings),
        "config": resolved,
        "versions": provenance.versions(),
        "metric": runner.metric,
        "settings_tried": choice.count(ordered),
        "chosen": choice.choose(ordered, runner.metric),
        "settings": ordered,
    }
    provenance.write_json(directory / "sweep.json", found)
    heatmap.heat_map(found).savefig(directory / "heatmap.png", dpi=150)
    return found


def _train_all(
    command: Sweep, runner: Runner, settings: Sequence[Setting], progress: Progress
) -> Iterator[tuple[Setting, Trained]]:
    """Trains settings, those that share a program with it; ends early if the user interrupts."""
    schedule = sharing.Schedule(command.optimizer, command.budget, runner.train_size)
    at_once = {"yes": True, "no": False}.get(command.settings_together)
    for group in sharing.share(settings, schedule):
        if not group.names:
            [setting] = group.settings
            trained = runner.train(setting, progress)
            if trained.state is None:
                return
            yield setting, trained
            continue
        if at_once is None:
            at_once = _faster_at_once(runner, command.optimizer)
        size = _most_together(runner, group.settings[0]) if at_once else 1
        if size == 1:
            programs = sharing.one_by_one(runner.network, group, schedule, _PARTS)
            for setting, program in zip(group.settings, programs, strict=True):
                trained = runner.train(setting, progress, program)
                if trained.state is None:
                    return
                yield setting, trained
            continue
        for some in _chunks(group, size):
            mapped = sharing.all_together(runner.network, some, schedule, _PARTS)
            several = runner.train_together(some.settings, progress, mapped)
            if not several:
                return
            yield from zip(some.settings, several, strict=True)


def _faster_at_once(runner: Runner, optimizer: config.Optimizer) -> bool:
    """Times four copies of the network as one program; more do not change the answer much."""
    seeds = len(runner.seeds)
    data = loop.select_seeds(runner.data, [row % seeds for row in range(max(4, seeds))])
    return together_is_faster(runner.network, data, optimizer.batch_size)


def _most_together(runner: Runner, setting: Setting) -> int:
    """How many settings fit: parameters, gradient, state and 2 s perturbed copies of each seed."""
    shapes = jax.eval_shape(lambda: runner.network.init(jax.random.key(0))[0])
    size: int = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))
    copies = 4 + 2 * int(setting.arguments.get("s", 1))
    return max(1, _BYTES_TOGETHER // (size * copies * len(runner.seeds)))


def _chunks(group: sharing.Group, size: int) -> Iterator[sharing.Group]:
    """Parts of a group of nearly the same size."""
    count = -(-len(group.settings) // size)
    for rows in np.array_split(np.arange(len(group.settings)), count):
        yield group._replace(settings=tuple(group.settings[row] for row in rows))


def _row(setting: Setting, trained: Trained, metric: str) -> dict[str, Any]:
    """What is kept of a finished setting."""
    assert trained.state is not None
    values = trained.curves[f"validation_{metric}"][:, -1]
    return {
        "method": setting.name,
        "setting": setting.text,
        f"validation_{metric}": [provenance.json_number(value) for value in values],
        "mean": provenance.json_number(np.mean(values)),
        "diverged": bool(np.any(trained.state.broken)),
        "epochs": trained.epochs,
        "seconds": round(trained.seconds, 3),
    }


def _lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file that a kill may have cut."""
    found: list[dict[str, Any]] = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


def _keep(path: Path, settings: Sequence[str]) -> None:
    """Drops what was written for settings that are not finished: they start anew."""
    if path.exists():
        kept = [line for line in _lines(path) if line["setting"] in settings]
        provenance.write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))
