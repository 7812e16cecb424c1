"""The command line: dispatches to `tsam_jax.commands`."""

import contextlib
import dataclasses
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

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
        import tyro
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
            again, rest = _resumed(name, rest)
            command = tyro.cli(
                known[name],
                prog=f"tsam-jax {name}",
                args=_checked(rest, known[name]),
                config=(tyro.conf.OmitArgPrefixes,),
            )
            if hasattr(command, "words"):
                out = command.out if again is None else again
                command = dataclasses.replace(command, words=(name, *rest), out=out).with_recipe()
            return int(command.run(console))
    except config.ConfigError as error:
        say(errors, f"tsam-jax: error: {error}")
        return 2
    except OSError as error:  # a full disk, a closed pipe, a directory that was removed
        reason = f"{error.strerror}: {error.filename}" if error.filename else str(error)
        logging.disable()  # orbax's threads end later, with tracebacks of their own
        with contextlib.suppress(OSError):
            errors.print(f"tsam-jax: error: {reason}. What was saved before can be resumed.")
        return 1
    except KeyboardInterrupt:
        errors.print("Interrupted.")
        return INTERRUPTED


def _resumed(name: str, words: list[str]) -> tuple[Path | None, list[str]]:
    """The directory to resume and the words that it was started with; None and `words` if none."""
    from tsam_jax.train.config import ConfigError, require

    option = [word for word in words if word.partition("=")[0] == "--resume"]
    if not option:
        return None, words
    _, joint, value = option[0].partition("=")
    value = value or words[-1]
    require(
        len(words) <= 2 - len(joint) and value != "--resume",
        "`--resume` continues a run as it was started: leave out the other options.",
    )
    from tsam_jax.train.record import read_json

    directory = Path(value)
    for file in ("config.json", "study.json"):
        if (directory / file).is_file():
            saved = read_json(directory / file).get("words")
            if isinstance(saved, list) and [str(x) for x in saved[:1]] == [name]:
                return directory, [str(x) for x in saved[1:]]
    msg = f"`--resume`: {directory} is not the directory of a `tsam-jax {name}`."
    raise ConfigError(msg)


def _checked(words: list[str], command: type) -> list[str]:
    """The words of a command, with the option `command.first` before a first word without one."""
    from tsam_jax.train.config import require

    options = [word.partition("=")[0] for word in words]
    first = getattr(command, "first", None)  # any dataclass with `run` is a command
    for option, reason in getattr(command, "refused", {}).items():
        require(option not in options, f"`{option}` {reason}")
    if not words or words[0].startswith("-") or first is None:
        return words
    option = "--dataset" if first == "--recipe" and ":" in words[0] else str(first)
    require(
        option not in options,
        f"`{option}` is given more than once: as the first word and as an option.",
    )
    return [option, *words]


if __name__ == "__main__":
    sys.exit(main())
