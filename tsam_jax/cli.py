"""The command line: `tsam-jax compare`, `methods`, `sweep` and `train`."""

import dataclasses
import datetime as dt
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from tsam_jax.train import config
from tsam_jax.train.catalogue import methods_table
from tsam_jax.train.compare import Compare, compare
from tsam_jax.train.report import render_table, write_report
from tsam_jax.train.settings import SettingError
from tsam_jax.train.single import Train, load_command, train
from tsam_jax.train.sweep import Sweep, compare_command, render, sweep

_DESCRIPTION = "Tilted Sharpness-Aware Minimization: train, compare and choose settings."
_INTERRUPTED = 130  # what a shell expects after Ctrl-C


@dataclasses.dataclass(frozen=True)
class Methods:
    """List every method and wrapper: what it computes, what it costs, its knobs, its source."""


_COMMANDS: dict[str, Callable[..., Any]] = {
    "compare": Compare,
    "methods": Methods,
    "sweep": Sweep,
    "train": Train,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
      arguments: what stands behind `tsam-jax`; default: from the process.

    Returns:
      0; 2 after a mistake in the options; 130 if the user interrupted the run.
    """
    console, errors = Console(), Console(stderr=True)
    try:
        command = tyro.extras.subcommand_cli_from_dict(
            _COMMANDS,
            prog="tsam-jax",
            description=_DESCRIPTION,
            args=None if arguments is None else list(arguments),
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
        )
        if isinstance(command, Methods):
            console.print(methods_table())
            return 0
        if isinstance(command, Compare):
            return _compare(command, console)
        return _sweep(command, console) if isinstance(command, Sweep) else _train(command, console)
    except (config.ConfigError, SettingError) as error:
        errors.print(f"tsam-jax: error: {error}", markup=False, highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        errors.print("Interrupted.")
        return _INTERRUPTED


def _compare(command: Compare, console: Console) -> int:
    directory = _new_directory(command.out, "compare")
    comparison = compare(command, directory, console)
    write_report(comparison, directory)
    console.print(render_table(comparison))
    _say(console, f"Report: {directory / 'report.html'}")
    return 0 if comparison.complete else _INTERRUPTED


def _sweep(command: Sweep, console: Console) -> int:
    directory = _new_directory(command.out, "sweep")
    found = sweep(command, directory, console)
    console.print(render(found))
    _say(console, f"Results: {directory / 'sweep.json'}")
    _say(console, f"Compare: {compare_command(found)}")
    return 0 if found["complete"] else _INTERRUPTED


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
        if f"{name}_accuracy" in metrics:
            accuracy, loss = metrics[f"{name}_accuracy"], metrics[f"{name}_loss"]
            _say(console, f"{name}: accuracy {100 * accuracy:.2f} %, loss {loss}")
    _say(console, f"Run: {directory}")
    return 0 if result["complete"] else _INTERRUPTED


def _new_directory(out: Path | None, command: str) -> Path:
    if out is None:
        now = dt.datetime.now().astimezone()
        out = Path("runs") / f"{command}-{now:%Y%m%d-%H%M%S}"
    return config.make_run_directory(out)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
