"""metrics.jsonl: a line an epoch, whole or cut back to a checkpoint."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tsam_jax.train import provenance
from tsam_jax.train.loop import Round
from tsam_jax.train.trackers import Tracker


class Log:
    """The log of a run with one seed.

    Attributes:
      lines: what was measured, an entry an epoch; it is the same however often a run is resumed.
      trackers: who else is told what is written.

    Args:
      path: the file; None to keep the lines in memory alone.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.lines: list[dict[str, Any]] = []
        self.trackers: Sequence[Tracker] = ()
        self._timings: list[dict[str, Any] | None] = []
        self._start, self._first = time.monotonic(), 0
        text = path.read_text() if path is not None and path.exists() else ""
        for line in text.splitlines():
            try:
                self._append(json.loads(line))
            except json.JSONDecodeError:  # the run was killed while it wrote this one
                break

    @property
    def last(self) -> dict[str, Any] | None:
        """The last line."""
        return self.lines[-1] if self.lines else None

    def keep_until(self, epoch: int) -> None:
        """Drops what was logged after the checkpoint that training goes on from."""
        kept = sum(line["epoch"] <= epoch for line in self.lines)
        self.lines, self._timings = self.lines[:kept], self._timings[:kept]
        self._start, self._first = time.monotonic(), epoch
        if self._path is not None:
            provenance.write_whole(self._path, "".join(map(self._text, range(kept))))

    def write(self, this: Round, gradients: float, epochs: int) -> dict[str, Any]:
        """Adds a line.

        Args:
          this: what was measured.
          gradients: gradient evaluations spent so far.
          epochs: epochs planned, for the time that is left.

        Returns:
          The line; in the file it also has the "timing".
        """
        numbers = {name: provenance.json_number(x[0]) for name, x in this.metrics.items()}
        per_epoch = (time.monotonic() - self._start) / (this.epoch - self._first)
        timing = {
            "examples_per_second": round(this.examples_per_second, 1),
            "seconds_left": round(per_epoch * (epochs - this.epoch), 1),
        }
        head = {"epoch": this.epoch, "gradient_evaluations": gradients}
        self._append({**head, **numbers, "timing": timing})
        if self._path is not None:
            with self._path.open("a") as log:
                log.write(self._text(-1))
        told = {name: x for name, x in {**numbers, **timing}.items() if x is not None}
        for tracker in self.trackers:
            tracker.write(told, this.epoch)
        return self.lines[-1]

    def _append(self, line: dict[str, Any]) -> None:
        self._timings.append(line.pop("timing", None))
        self.lines.append(line)

    def _text(self, place: int) -> str:
        timing = self._timings[place]
        return json.dumps(self.lines[place] | ({"timing": timing} if timing else {})) + "\n"
