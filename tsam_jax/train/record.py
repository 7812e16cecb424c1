"""Files of a run: JSON written whole, lines that survive a kill, versions, and the log."""

import contextlib
import dataclasses
import fcntl
import importlib.metadata
import json
import math
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from tsam_jax.train import config
from tsam_jax.train.loop import Round
from tsam_jax.train.trackers import Tracker

_PACKAGES = ("tsam_jax", "jax", "jaxlib", "optax", "flax", "numpy", "scikit-learn", "matfree")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that shape the numbers, and the device."""
    found = {package: importlib.metadata.version(package) for package in _PACKAGES}
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        **found,
        "device": f"{jax.device_count()} x {device.platform} ({device.device_kind})",
        "cpu cores": str(os.cpu_count()),
    }


def write_json(path: Path, data: Any) -> None:
    """Writes JSON as `write_whole` does; dataclasses as dicts, paths as texts."""
    write_whole(path, json.dumps(data, indent=2, allow_nan=False, default=_plain) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Writes a file atomically: it is the old one or the new one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; raises ConfigError, which names the file, if it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refused)
    except (OSError, ValueError, RecursionError) as error:  # not UTF-8, not JSON, NaN, too deep
        reason = str(error).splitlines()[0][:200]
        msg = f"{path} cannot be read ({reason}). Nothing was changed."
        raise config.ConfigError(msg) from error
    if not isinstance(found, dict):
        msg = f"{path} must have a JSON object, got {type(found).__name__}. Nothing was changed."
        raise config.ConfigError(msg)
    return found


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Reads a JSON-lines file, without an incomplete last line.

    Raises:
      ConfigError: if another line is damaged.
    """
    found: list[dict[str, Any]] = []
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    for number, line in enumerate(lines[:-1], 1):  # the last one has no end
        try:
            found.append(json.loads(line, parse_constant=_refused))
        except (ValueError, RecursionError) as error:
            msg = f"{path}, line {number} is damaged ({str(error)[:100]}). Nothing was changed."
            raise config.ConfigError(msg) from error
        if not isinstance(found[-1], dict):
            msg = f"{path}, line {number} must be a JSON object. Nothing was changed."
            raise config.ConfigError(msg)
    return found


def add_line(path: Path, line: dict[str, Any]) -> None:
    """Appends a line and syncs it to disk; an incomplete last line is dropped."""
    if path.exists() and not path.read_bytes().endswith(b"\n"):
        write_whole(path, "".join(json.dumps(x) + "\n" for x in read_lines(path)))
    with path.open("a") as lines:
        lines.write(json.dumps(line, allow_nan=False) + "\n")
        lines.flush()
        os.fsync(lines.fileno())


def check_same(path: Path, identity: Mapping[str, Any]) -> None:
    """Raises ConfigError if a directory has another run, or other files.

    Args:
      path: config.json or study.json in it.
      identity: what the run is, by name.

    Raises:
      ConfigError: if it has; the message names what differs.
    """
    if not path.exists():
        config.check_new(path.parent)
        return
    there = read_json(path)
    own = json.loads(json.dumps(identity, default=_plain))
    differ = [name for name, x in own.items() if there.get(name) != x]
    if differ:
        msg = (
            f"`--out`: {path.parent} has another run; {', '.join(differ)} differ. Repeat its"
            " options to resume it, or name a new directory."
        )
        raise config.ConfigError(msg)


@contextlib.contextmanager
def owned(directory: Path, name: str = "run") -> Iterator[None]:
    """Holds the lock of a directory, which the system releases when the process ends.

    Raises:
      ConfigError: if another process holds it.
    """
    path = directory / f".{name}.lock"
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            msg = f"another process writes to {directory}: wait for it, or name another `--out`."
            raise config.ConfigError(msg) from error
        yield


def _refused(constant: str) -> Any:
    msg = f"{constant} is no JSON"
    raise ValueError(msg)


def _plain(x: Any) -> Any:
    return dataclasses.asdict(x) if dataclasses.is_dataclass(x) else str(x)  # type: ignore[arg-type]


def json_number(x: Any) -> float | None:
    """Converts a number for JSON: None unless it is finite."""
    return float(x) if math.isfinite(x) else None


class Log:
    """metrics.jsonl of a run: a line an evaluation, whole or cut back to a checkpoint.

    Attributes:
      lines: what was measured, the same however often a run is resumed.
      trackers: functions that also get each line.

    Args:
      path: the file; None to keep the lines in memory only.
      write: whether to write it; of several processes one does.
    """

    def __init__(self, path: Path | None, *, write: bool = True) -> None:
        self._path = path if write else None
        self.lines = read_lines(path) if path is not None else []
        self.trackers: Sequence[Tracker] = ()
        self._timings = [line.pop("timing", None) for line in self.lines]
        self._start, self._first = time.monotonic(), 0

    @property
    def last(self) -> dict[str, Any] | None:
        """The last line."""
        return self.lines[-1] if self.lines else None

    @property
    def seconds(self) -> float:
        """Training time of all lines."""
        return float(sum(timing["seconds"] for timing in self._timings if timing))

    def keep_until(self, epoch: int, ends: Sequence[int]) -> None:
        """Drops the lines after the checkpoint that training resumes from.

        Args:
          epoch: that of the checkpoint.
          ends: the epochs at which the run is measured.

        Raises:
          ConfigError: if a line before it is missing, or there twice.
        """
        there = [line.get("epoch") for line in self.lines]
        due = [end for end in ends if end <= epoch]
        if there[: len(due)] != due:
            msg = (
                f"{self._path} does not have the epochs up to {epoch}, each once. Nothing was"
                " changed. Restore the file, or start anew in another directory."
            )
            raise config.ConfigError(msg)
        kept = len(due)
        self.lines, self._timings = self.lines[:kept], self._timings[:kept]
        self._start, self._first = time.monotonic(), epoch
        if self._path is not None:
            write_whole(self._path, "".join(map(self._text, range(kept))))

    def write(self, this: Round, row: int, gradients: float, epochs: int) -> dict[str, Any]:
        """Adds a line.

        Args:
          this: what was measured.
          row: the row of this run in it.
          gradients: gradient evaluations so far, loss evaluations included.
          epochs: epochs planned, for the time left.

        Returns:
          The line; in the file it also has the "timing".
        """
        numbers = {name: json_number(x[row]) for name, x in this.metrics.items()}
        per_epoch = (time.monotonic() - self._start) / (this.epoch - self._first)
        timing = {
            "seconds": round(this.seconds, 4),
            "examples_per_second": round(this.examples_per_second, 1),
            "seconds_left": round(per_epoch * (epochs - this.epoch), 1),
        }
        line = {"epoch": this.epoch, "gradient_evaluations": round(gradients, 6), **numbers}
        self.lines.append(line)
        self._timings.append(timing)
        if self._path is not None:
            with self._path.open("a") as log:
                log.write(self._text(-1))
        told = {name: x for name, x in {**numbers, **timing}.items() if x is not None}
        for tracker in self.trackers:
            tracker(told, this.epoch)
        return line

    def sync(self) -> None:
        """Syncs the file to disk, before a checkpoint."""
        if self._path is not None:
            with self._path.open("r+") as log:
                os.fsync(log.fileno())

    def _text(self, place: int) -> str:
        timing = self._timings[place]
        return json.dumps(self.lines[place] | ({"timing": timing} if timing else {})) + "\n"
