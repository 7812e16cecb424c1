"""Progress of training: a live bar in a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column

from tsam_jax.train.metrics import metric

_SECONDS_BETWEEN_LINES = 5.0
_MOST_LINES = 10  # of settings that train together, to fit the screen


class Progress:
    """Shows the training of several settings; a context manager.

    `work` is label of each setting -> gradient evaluations it takes, all seeds together. A console
    that is a terminal gets a live bar, another one a line every few seconds.
    """

    def __init__(self, work: Mapping[str, float], console: Console) -> None:
        self.console, self._live = console, console.is_terminal
        self._start, self._last_line = time.monotonic(), -_SECONDS_BETWEEN_LINES
        self._seconds = self._computed = 0.0  # of the rounds, without compilation
        text = TextColumn("{task.description}", markup=False, table_column=Column())  # wrapped
        self._bars = Bars(BarColumn(bar_width=16), text, console=console, disable=not self._live)
        self._all = self._bars.add_task("", total=sum(work.values()))

    def __enter__(self) -> Self:
        """Starts the display."""
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stops the display; its last state stays visible."""
        self._bars.stop()

    def note(self, label: str, status: str) -> None:
        """Shows a phase of a setting: compiling, measuring flatness."""
        self._show([f"{label}  {status}"])

    def resume(self, gradients: float) -> None:
        """Counts gradient evaluations of an earlier session as done."""
        self._bars.advance(self._all, gradients)

    def advance(self, job: Any, this: Any, done: int) -> None:
        """Shows a round, `loop.Round`, of a `run.Job` that had done some epochs before."""
        count, now = len(job.runs), time.monotonic()
        spent = (this.epoch - done) * job.price * count
        self._seconds += this.seconds
        self._computed += spent
        self.resume(spent)
        late = now - self._last_line >= _SECONDS_BETWEEN_LINES
        if not (self._live or late or this.epoch == job.ends[-1]):
            return
        self._last_line, lines = now, []
        for label in dict.fromkeys(run.label for run in job.runs):
            rows = [row for row, run in enumerate(job.runs) if run.label == label]
            lines.append(f"{label}  {self._status(job, this, rows)}")
        *others, last = lines[:_MOST_LINES]
        speed = f"{this.examples_per_second * count:,.0f} examples/s"
        self._show([*others, f"{last}  {speed}  left {self._left()}"])

    def _status(self, job: Any, this: Any, rows: list[int]) -> str:
        """Seeds, epoch, loss and metric of the rows of one setting."""
        seeds = [job.runs[row].seed for row in rows]
        means = {name: float(np.mean(x[rows])) for name, x in this.metrics.items()}
        part = "validation" if f"validation_{job.metric}" in means else "train"
        value = metric(job.metric).shown(means[f"{part}_{job.metric}"], digits=1)
        who = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]}-{seeds[-1]}"
        shown = f"{who}  epoch {this.epoch}/{job.ends[-1]}  loss {means['train_loss']:.3f}"
        shown += f"  {part.replace('validation', 'val')} {value}"
        if "step_effective_sample_size" in means:
            shown += f"  eff. samples {means['step_effective_sample_size']:.2f}"
        return shown

    def _left(self) -> str:
        left = self._bars.tasks[self._all].remaining or 0.0
        seconds = self._seconds * left / self._computed if self._computed else 0
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"

    def _show(self, lines: Sequence[str]) -> None:
        if self._live:
            self._bars.update(self._all, description="\n".join(lines))
        for line in () if self._live else lines:
            text = f"[{time.monotonic() - self._start:5.0f} s] {line}"
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)
