"""The command line: `tsam-jax train`, `compare`, `sweep`, `analyze` and the others."""

import dataclasses
import datetime as dt
import itertools
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Union

import tyro
from rich.console import Console

from tsam_jax.train import analyze as analyses
from tsam_jax.train import config
from tsam_jax.train.analyze import Analyze, analyze
from tsam_jax.train.catalogue import methods_table
from tsam_jax.train.choice import commands, render
from tsam_jax.train.compare import Compare, compare
from tsam_jax.train.evaluate import Evaluate, evaluate
from tsam_jax.train.experiments import default_command, recipes_table
from tsam_jax.train.job import Diverged
from tsam_jax.train.landscape import Landscape, landscape
from tsam_jax.train.report import render_table, write_report
from tsam_jax.train.settings import SettingError
from tsam_jax.train.single import Train, load_command, train
from tsam_jax.train.sweep import Sweep, load_sweep, sweep
from tsam_jax.train.toy import Toy, toy

_DESCRIPTION = "Tilted Sharpness-Aware Minimization: train, compare and choose settings."
_INTERRUPTED = 130  # what a shell expects after Ctrl-C


@dataclasses.dataclass(frozen=True)
class Methods:
    """List every method and wrapper: what it computes, what it costs, its knobs, its source."""


@dataclasses.dataclass(frozen=True)
class Recipes:
    """List every recipe: what is learnt, and what its source reports."""


COMMANDS: dict[str, type[Any]] = {
    "analyze": Analyze,
    "compare": Compare,
    "evaluate": Evaluate,
    "landscape": Landscape,
    "methods": Methods,
    "recipes": Recipes,
    "sweep": Sweep,
    "toy": Toy,
    "train": Train,
}
_FIRST_WORD = {
    "compare": "--recipe",
    "evaluate": "--checkpoint",
    "sweep": "--recipe",
    "train": "--recipe",
}
"""What the first word after a command stands for."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
      arguments: what stands behind `tsam-jax`; default: from the process.

    Returns:
      0; 1 if training met a loss that is not finite; 2 after a mistake in the options; 130 if the
      user interrupted the run.
    """
    console, errors = Console(), Console(stderr=True)
    try:
        return _run(_parse(sys.argv[1:] if arguments is None else arguments), console)
    except (config.ConfigError, SettingError, Diverged) as error:
        errors.print(f"tsam-jax: error: {error}", markup=False, highlight=False, soft_wrap=True)
        return 1 if isinstance(error, Diverged) else 2
    except KeyboardInterrupt:
        errors.print("Interrupted.")
        return _INTERRUPTED


def _parse(arguments: Sequence[str]) -> Any:
    """Reads the options; their defaults are those of the recipe."""
    words = list(arguments)
    option = _FIRST_WORD.get(words[0]) if words else None
    if option and len(words) > 1 and not words[1].startswith("-"):
        words.insert(1, option)
    name = _option(words, option) if option == "--recipe" else None
    kinds = []
    for command, kind in COMMANDS.items():
        given: dict[str, Any] = {}
        if name is not None and command == words[0]:
            given["default"] = default_command(kind, name)
        kinds.append(Annotated[kind, tyro.conf.subcommand(command, **given)])
    union: Any = Union[tuple(kinds)]  # noqa: UP007 - of a list made here
    return tyro.cli(
        union,
        prog="tsam-jax",
        description=_DESCRIPTION,
        args=words,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
    )


def _option(words: Sequence[str], option: str) -> str | None:
    """The last value that an option is given, if it is."""
    values = [word.partition("=")[2] for word in words if word.startswith(f"{option}=")]
    values += [value for word, value in itertools.pairwise(words) if word == option]
    if len(values) > 1:
        msg = f"`{option}` is given more than once: {', '.join(values)}."
        raise config.ConfigError(msg)
    return values[0] if values else None


def _run(command: Any, console: Console) -> int:
    if isinstance(command, Methods | Recipes):
        console.print(methods_table() if isinstance(command, Methods) else recipes_table())
        return 0
    if isinstance(command, Evaluate):
        return _evaluate(command, console)
    if isinstance(command, Analyze):
        return _analyze(command, console)
    if isinstance(command, Landscape):
        _say(console, f"Figure: {landscape(command, _new_directory(command.out, 'landscape'))}")
        return 0
    if isinstance(command, Toy):
        path, caption = toy(command)
        _say(console, f"{caption}\nFigure: {path}")
        return 0
    if isinstance(command, Compare):
        return _compare(command, console)
    return _sweep(command, console) if isinstance(command, Sweep) else _train(command, console)


def _analyze(command: Analyze, console: Console) -> int:
    directory = _new_directory(command.out, "analyze")
    console.print(analyses.render(analyze(command, directory)))
    _say(console, f"Figures: {directory / 'sharpness.png'}, spectra.png beside it")
    return 0


def _evaluate(command: Evaluate, console: Console) -> int:
    found = evaluate(command)
    _say(console, f"epoch {found.pop('epoch'):g}")
    _say(console, _measured(command.part, found))
    return 0


def _measured(part: str, metrics: Mapping[str, Any]) -> str:
    """The loss and the metrics of a part in one line."""
    shown = [
        f"accuracy {100 * value:.2f} %" if name == "accuracy" else f"{name} {value:.4f}"
        for name, value in sorted(metrics.items())
        if value is not None
    ]
    return f"{part}: {', '.join(shown)}"


def _compare(command: Compare, console: Console) -> int:
    directory = _new_directory(command.out, "compare")
    comparison = compare(command, directory, console)
    write_report(comparison, directory)
    console.print(render_table(comparison))
    _say(console, f"Report: {directory / 'report.html'}")
    return 0 if comparison.complete else _INTERRUPTED


def _sweep(command: Sweep, console: Console) -> int:
    if command.resume is None:
        directory = _new_directory(command.out, "sweep")
    else:
        directory = command.resume
        if dataclasses.replace(command, resume=None) != default_command(Sweep, command.recipe):
            msg = "`--resume` goes on with a sweep as it was started: leave out the other options."
            raise config.ConfigError(msg)
        command = load_sweep(directory)
    found = sweep(command, directory, console)
    console.print(render(found))
    _say(console, f"Results: {directory / 'sweep.json'}, heatmap.png beside it")
    if not found["complete"]:
        again = shlex.join(["tsam-jax", "sweep", "--resume", str(directory)])
        _say(console, f"Interrupted; go on with: {again}")
        return _INTERRUPTED
    for line in commands(command, found):
        _say(console, f"Next: {line}")
    return 0


def _train(command: Train, console: Console) -> int:
    if command.resume is None:
        directory = _new_directory(command.out, "train")
    else:
        directory = command.resume
        if dataclasses.replace(command, resume=None) != Train():
            msg = "`--resume` goes on with a run as it was started: leave out the other options."
            raise config.ConfigError(msg)
        command = load_command(directory)
        config.check_writable(directory)
    result = train(command, directory, console)
    metrics = result["metrics"] or {}
    for name in ("validation", "test"):
        prefix = f"{name}_"
        own = {k.removeprefix(prefix): x for k, x in metrics.items() if k.startswith(prefix)}
        if own:
            _say(console, _measured(name, own))
    _say(console, f"Run: {directory}")
    return 0 if result["complete"] else _INTERRUPTED


def _new_directory(out: Path | None, command: str) -> Path:
    if out is None:
        now = dt.datetime.now().astimezone()
        out = Path("runs") / f"{command}-{now:%Y%m%d-%H%M%S}"
    config.check_new(out)
    return out


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
