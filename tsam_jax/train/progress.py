"""Progress of training: live bars in a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column

from tsam_jax.train.metrics import metric

_SECONDS_BETWEEN_LINES = 5.0
_NARROW = 110  # columns below which bars and words are short
_MOST_BARS = 10  # with more, settings that wait or are done are hidden, to fit the screen


class Progress:
    """Shows the training of several settings; a context manager.

    Args:
      work: label of each setting -> gradient evaluations it takes, all seeds together.
      console: where to write; live bars if it is a terminal, else a line every few seconds.
    """

    def __init__(self, work: Mapping[str, float], console: Console) -> None:
        self.console = console
        self._start, self._last_line = time.monotonic(), -_SECONDS_BETWEEN_LINES
        self._seconds = self._computed = 0.0  # of the rounds, without compilation
        self._live, self._narrow = console.is_terminal, console.width < _NARROW
        self._many = len(work) > _MOST_BARS
        self._bars = Bars(
            _text("{task.description}", "bold"),
            BarColumn(bar_width=8 if self._narrow else 16),
            _text("{task.fields[status]}", "none"),
            console=console,
            disable=not self._live,
        )
        width = 16 if self._narrow else 24
        shown: dict[str, Any] = {"visible": not self._many, "status": "waiting"}
        self._tasks = {
            label: self._bars.add_task(_shorten(label, width), total=total, **shown)
            for label, total in work.items()
        }
        self._all = self._bars.add_task("all", total=sum(work.values()), status="")

    def __enter__(self) -> Self:
        """Starts the display."""
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stops the display; its last state stays visible."""
        self._bars.stop()

    def note(self, label: str, status: str) -> None:
        """Shows a phase of a setting: compiling, measuring flatness."""
        if self._live:
            self._bars.update(self._tasks[label], status=status, visible=True)
        else:
            self._line(label, status)

    def resume(self, label: str, gradients: float) -> None:
        """Counts gradient evaluations of an earlier session as done."""
        task = self._bars.tasks[self._tasks[label]]
        done = min(task.completed + gradients, task.total or 0.0)
        self._bars.update(task.id, completed=done)
        everything = sum(self._bars.tasks[one].completed for one in self._tasks.values())
        self._bars.update(self._all, completed=everything)

    def advance(self, job: Any, this: Any, done: int) -> None:
        """Shows a round of training.

        Args:
          job: the `run.Job`.
          this: the `loop.Round`.
          done: epochs before the round.
        """
        spent = (this.epoch - done) * job.price
        self._seconds += this.seconds
        self._computed += spent * len(job.runs)
        speed = f"{this.examples_per_second * len(job.runs):,.0f} examples/s"
        for label in dict.fromkeys(run.label for run in job.runs):
            rows = [row for row, run in enumerate(job.runs) if run.label == label]
            self.resume(label, spent * len(rows))
            status = self._status(job, this, rows)
            now = time.monotonic()
            if self._live:
                task = self._bars.tasks[self._tasks[label]]
                visible = not self._many or not task.finished
                self._bars.update(task.id, status=status, visible=visible)
                self._bars.update(self._all, status=f"{self._left()} left  {speed}")
            elif this.epoch == job.ends[-1] or now - self._last_line >= _SECONDS_BETWEEN_LINES:
                self._last_line = now
                self._line(label, f"{status}  {speed}  left {self._left()}")

    def _status(self, job: Any, this: Any, rows: list[int]) -> str:
        """Seeds, epoch, loss and metric of the rows of one setting."""
        seeds = [job.runs[row].seed for row in rows]
        means = {name: float(np.mean(x[rows])) for name, x in this.metrics.items()}
        part = "validation" if f"validation_{job.metric}" in means else "train"
        value = metric(job.metric).shown(means[f"{part}_{job.metric}"], digits=1)
        shown = [
            f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]}-{seeds[-1]}",
            f"epoch {this.epoch}/{job.ends[-1]}",
            f"loss {means['train_loss']:.3f}",
            f"{part.replace('validation', 'val')} {value}",
        ]
        if "step_effective_sample_size" in means:
            words = "eff." if self._live and self._narrow else "eff. samples"
            shown.append(f"{words} {means['step_effective_sample_size']:.2f}")
        return "  ".join(shown)

    def _left(self) -> str:
        left = self._bars.tasks[self._all].remaining or 0.0
        seconds = self._seconds * left / self._computed if self._computed else 0
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"

    def _line(self, label: str, text: str) -> None:
        elapsed = time.monotonic() - self._start
        line = f"[{elapsed:5.0f} s] {label}  {text}"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _text(field: str, style: str) -> TextColumn:
    return TextColumn(field, style=style, markup=False, table_column=Column(no_wrap=True))


def _shorten(label: str, width: int) -> str:
    return label if len(label) <= width else label[: width - 1] + "…"
