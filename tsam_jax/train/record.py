"""Files of a run: JSON written whole, lines that survive a kill, versions, and the log."""

import contextlib
import fcntl
import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from tsam_jax.train import config
from tsam_jax.train.loop import Round
from tsam_jax.train.metrics import metric
from tsam_jax.train.trackers import Tracker

_PACKAGES = ("tsam_jax", "jax", "jaxlib", "optax", "flax", "numpy", "scikit-learn", "matfree")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that shape the numbers, and the device."""
    found = {"python": platform.python_version()}
    found |= {package: importlib.metadata.version(package) for package in _PACKAGES}
    device = jax.devices()[0]
    found["device"] = f"{jax.device_count()} x {device.platform} ({device.device_kind})"
    return found | {"cpu cores": str(os.cpu_count())}


def write_json(path: Path, data: Any) -> None:
    """Writes JSON as `write_whole` does; paths as texts."""
    text = json.dumps(data, indent=2, allow_nan=False, default=str) + "\n"
    write_whole(path, text.encode())


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file atomically: it is the old one or the new one.

    Of several processes the first one writes, here and below.
    """
    if jax.process_index():
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; raises ConfigError, which names the file, if it is damaged."""
    return _parsed(path.read_bytes(), str(path))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Reads a JSON-lines file, without an incomplete last line.

    Raises:
      ConfigError: if another line is damaged.
    """
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    # the last one has no end
    return [_parsed(line, f"{path}, line {n}") for n, line in enumerate(lines[:-1], 1)]


def _parsed(text: bytes, where: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(text, parse_constant=_refused)
        config.require(isinstance(found, dict), "it is no JSON object", ValueError)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, NaN, too deep
        reason = config.shown(str(error).partition("\n")[0], 200)
        msg = f"{where} is damaged ({reason}). Nothing was changed."
        raise config.ConfigError(msg) from error
    return found


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Writes a JSON-lines file as `write_whole` does."""
    write_whole(path, "".join(map(_line, lines)).encode())


def add_line(path: Path, line: Mapping[str, Any]) -> None:
    """Appends a line to a JSON-lines file that ends with a whole one, and syncs it to disk."""
    if not jax.process_index():
        with path.open("a") as file:
            file.write(_line(line))
            file.flush()
            os.fsync(file.fileno())


def _line(line: Mapping[str, Any]) -> str:
    return json.dumps(line, allow_nan=False) + "\n"


def check_same(path: Path, identity: Mapping[str, Any]) -> None:
    """Raises ConfigError if the directory of config.json or study.json has another run, or files.

    The message names what of the identity differs.
    """
    if not path.exists():
        config.check_new(path.parent)
        return
    there, own = read_json(path), json.loads(json.dumps(identity, default=str))
    differ = ", ".join(name for name, x in own.items() if there.get(name) != x)
    config.require(
        not differ,
        f"`--out`: {path.parent} has another run; {differ} differ. Repeat its options to resume"
        " it, or name a new directory.",
    )


@contextlib.contextmanager
def owned(directory: Path, name: str = "run") -> Iterator[None]:
    """Holds the lock of a directory until the process ends; raises ConfigError if it is held."""
    if jax.process_index():
        yield
        return
    with (directory / f".{name}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            msg = f"another process writes to {directory}: wait for it, or name another directory."
            raise config.ConfigError(msg) from error
        yield


def _refused(constant: str) -> Any:
    msg = f"{constant} is no JSON"
    raise ValueError(msg)


def json_number(x: Any) -> float | None:
    """Converts a number for JSON: None unless it is finite."""
    return float(x) if math.isfinite(x) else None


class Log:
    """metrics.jsonl of a run: a line an evaluation, whole or cut back to a checkpoint.

    The `trackers` also get each line. Without a path lines are in memory only.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._written = read_lines(path) if path is not None else []
        self.trackers: Sequence[Tracker] = ()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What was measured: the same however often a run is resumed."""
        return [{k: x for k, x in line.items() if k != "timing"} for line in self._written]

    def best(self, name: str) -> dict[str, Any] | None:
        """The line of the best epoch on the validation part, of equals the first, or None."""
        key = f"validation_{name}"
        known = [line for line in self.lines if line.get(key) is not None]
        return max(known, key=lambda line: metric(name).better(line[key]), default=None)

    @property
    def seconds(self) -> float:
        """Training time of all lines."""
        return float(sum(x["timing"]["seconds"] for x in self._written if "timing" in x))

    def keep_until(self, epoch: int, ends: Sequence[int]) -> None:
        """Drops the lines after the epoch of the checkpoint that training resumes from.

        Raises:
          ConfigError: if a line at one of `ends` before it is missing, or there twice.
        """
        due = [end for end in ends if end <= epoch]
        there = [line.get("epoch") for line in self._written]
        if there[: len(due)] != due:
            what = "Nothing was changed. Restore the file, or start anew in another directory."
            msg = f"{self._path} does not have the epochs up to {epoch}, each once. {what}"
            raise config.ConfigError(msg)
        self._written = self._written[: len(due)]
        if self._path is not None:
            write_lines(self._path, self._written)

    def write(self, this: Round, gradients: float) -> None:
        """Adds what was measured, in the file with its "timing".

        `gradients` are those so far, loss evaluations included.
        """
        numbers = {name: json_number(x) for name, x in this.metrics.items()}
        speed = round(this.examples_per_second, 1)
        timing = {"seconds": round(this.seconds, 4), "examples_per_second": speed}
        line = {"epoch": this.epoch, "gradient_evaluations": round(gradients, 6), **numbers}
        self._written.append(line | {"timing": timing})
        if self._path is not None:
            add_line(self._path, self._written[-1])
        told = {name: x for name, x in (numbers | timing).items() if x is not None}
        for tracker in self.trackers:
            tracker(told, this.epoch)
