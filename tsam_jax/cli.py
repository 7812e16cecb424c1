"""The command line: dispatches to `tsam_jax.commands`."""

import contextlib
import dataclasses
import logging
import sys
import warnings
from collections.abc import Sequence
from typing import Any

_HELP = """usage: tsam-jax COMMAND [OPTIONS]

Tilted Sharpness-Aware Minimization: train, compare and choose settings.

commands:
{}

Options of a command: tsam-jax COMMAND --help"""
_NEEDED = "`tsam-jax` needs the extra `train`: pip install 'tsam_jax[train]' ({})."


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
      arguments: the words after `tsam-jax`; default: from the process.

    Returns:
      0; 1 if a loss was not finite; 2 after a mistake in the options; 130 after Ctrl-C.
    """
    try:
        from rich.console import Console

        from tsam_jax.commands import INTERRUPTED, commands, say
        from tsam_jax.train import config
    except ImportError as error:
        sys.stderr.write(f"tsam-jax: error: {_NEEDED.format(error)}\n")
        return 2
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal may not have every character
            stream.reconfigure(errors="replace")
    console, errors = Console(), Console(stderr=True)
    known = commands()
    if not words or words[0] in {"-h", "--help"}:
        lines = [
            f"  {name:<10} {str(kind.__doc__).splitlines()[0]}" for name, kind in known.items()
        ]
        say(console, _HELP.format("\n".join(lines)))
        return 0
    name, *rest = words
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: say(
                errors, f"tsam-jax: warning: {message}"
            )
            config.known(name, known, "command")
            command = _command(known[name], name, rest)
            return int(command.run(console))
    except config.ConfigError as error:
        say(errors, f"tsam-jax: error: {error}")
        return 2
    except OSError as error:  # a full disk, a closed pipe, a directory that was removed
        reason = f"{error.strerror}: {error.filename}" if error.filename else str(error)
        logging.disable()  # orbax's threads end later, with tracebacks of their own
        with contextlib.suppress(OSError):
            say(errors, f"tsam-jax: error: {reason}. What was saved before can be resumed.")
        return 1
    except KeyboardInterrupt:
        errors.print("Interrupted.")
        return INTERRUPTED


def _command(kind: Any, name: str, words: list[str]) -> Any:
    """The command that the words after its name make, or with `--resume` those it started with."""
    import tyro

    from tsam_jax.train.config import require

    registry, config = tyro.constructors.ConstructorRegistry(), (tyro.conf.OmitArgPrefixes,)
    registry.primitive_rule(_none)
    command = tyro.cli(kind, prog=f"tsam-jax {name}", args=words, config=config, registry=registry)
    if not hasattr(command, "words"):
        return command
    if command.resume is not None:
        return _resumed(command, name, words)
    first, task = command.recipe, command.task
    if ":" in (first or ""):  # a data set
        require("dataset" not in task, "`--dataset` is given more than once: also as first word.")
        first, task = None, {"dataset": first, **task}
    return dataclasses.replace(command, words=(name, *words), recipe=first, task=task)


def _resumed(command: Any, name: str, words: list[str]) -> Any:
    """The command that the directory of `--resume` was started with, without its shard."""
    from tsam_jax.train.config import require
    from tsam_jax.train.record import read_json

    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    require(
        given <= {"--resume", "--distributed"} and command.recipe is None,
        "`--resume` continues a run as it was started: leave out the other options.",
    )
    file = command.resume / "study.json"
    saved: Any = read_json(file).get("words") if file.is_file() else None
    require(
        isinstance(saved, list) and saved[:1] == [name],
        f"`--resume`: {command.resume} is not the directory of a `tsam-jax {name}`.",
    )
    again = _command(type(command), name, [str(word) for word in saved[1:]])
    changes = {"out": command.resume, "distributed": command.distributed}
    why = "`--resume` of a run of several processes needs the `--distributed` of each, as before."
    require(command.distributed or not again.distributed, why)
    return dataclasses.replace(again, **changes, **({"shard": None} if name != "train" else {}))


def _none(info: Any) -> Any:
    """The word of an option for None: "none"."""
    from tyro.constructors import PrimitiveConstructorSpec as Spec

    is_none = lambda x: x is None  # noqa: E731
    own = Spec(1, "none", lambda _: None, is_none, lambda _: ["none"], choices=("none",))
    return own if info.type is type(None) else None


if __name__ == "__main__":
    sys.exit(main())
