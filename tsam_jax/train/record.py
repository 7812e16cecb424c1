"""Files of a run: JSON written whole, lines that survive a kill, versions, and the log."""

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import time
from collections.abc import Mapping, Sequence
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
    """Writes a file so that it is either the old one or the new one, never half of it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    draft.write_text(text)
    draft.replace(path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSON-lines file, without the one that a kill cut off."""
    found: list[dict[str, Any]] = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


def add_line(path: Path, line: dict[str, Any]) -> None:
    """Adds a line in one write, after a line that a kill cut off."""
    text = path.read_text() if path.exists() else ""
    if text and not text.endswith("\n"):
        write_whole(path, "".join(json.dumps(x) + "\n" for x in read_lines(path)))
    with path.open("a") as lines:
        lines.write(json.dumps(line, allow_nan=False) + "\n")


def check_same(path: Path, identity: Mapping[str, Any]) -> None:
    """Refuses a directory that has another run, or files of something else.

    Args:
      path: config.json or study.json in it.
      identity: what the run is, by name.

    Raises:
      ConfigError: if it has; the message names what differs.
    """
    if not path.exists():
        config.check_new(path.parent)
        return
    there = json.loads(path.read_text())
    own = json.loads(json.dumps(identity, default=_plain))
    differ = [name for name, x in own.items() if there.get(name) != x]
    if differ:
        msg = (
            f"`--out`: {path.parent} has another run; {', '.join(differ)} differ. Repeat its"
            " options to resume it, or name a new directory."
        )
        raise config.ConfigError(msg)


def _plain(x: Any) -> Any:
    return dataclasses.asdict(x) if dataclasses.is_dataclass(x) else str(x)  # type: ignore[arg-type]


def json_number(x: Any) -> float | None:
    """A number as JSON has it: null for what is not finite."""
    return float(x) if math.isfinite(x) else None


class Log:
    """metrics.jsonl of a run: a line an evaluation, whole or cut back to a checkpoint.

    Attributes:
      lines: what was measured, the same however often a run is resumed.
      trackers: who else gets what is written.

    Args:
      path: the file; None to keep the lines in memory alone.
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

    def keep_until(self, epoch: int) -> None:
        """Drops what was logged after the checkpoint that training resumes from."""
        kept = sum(line["epoch"] <= epoch for line in self.lines)
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
            tracker.write(told, this.epoch)
        return line

    def _text(self, place: int) -> str:
        timing = self._timings[place]
        return json.dumps(self.lines[place] | ({"timing": timing} if timing else {})) + "\n"
