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

    `work` is label of each setting -> gradient evaluations it takes, all seeds together. A console
    that is a terminal gets live bars, another one a line every few seconds.
    """

    def __init__(self, work: Mapping[str, float], console: Console) -> None:
        self.console = console
        self._start, self._last_line = time.monotonic(), -_SECONDS_BETWEEN_LINES
        self._seconds = self._computed = 0.0  # of the rounds, without compilation
        self._live, self._narrow = console.is_terminal, console.width < _NARROW
        self._many = len(work) > _MOST_BARS
        self._bars = Bars(
            _column("{task.description}", "bold"),
            BarColumn(bar_width=8 if self._narrow else 16),
            _column("{task.fields[status]}", "none"),
            console=console,
            disable=not self._live,
        )
        width, self._tasks = 16 if self._narrow else 24, {}
        shown: dict[str, Any] = {"visible": not self._many, "status": "waiting"}
        for label, total in work.items():
            short = label if len(label) <= width else label[: width - 1] + "…"
            self._tasks[label] = self._bars.add_task(short, total=total, **shown)
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
        """Shows a round, `loop.Round`, of a `run.Job` that had done some epochs before."""
        spent, count = (this.epoch - done) * job.price, len(job.runs)
        self._seconds += this.seconds
        self._computed += spent * count
        speed = f"{this.examples_per_second * count:,.0f} examples/s"
        for label in dict.fromkeys(run.label for run in job.runs):
            rows = [row for row, run in enumerate(job.runs) if run.label == label]
            self.resume(label, spent * len(rows))
            status, now = self._status(job, this, rows), time.monotonic()
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
        who = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]}-{seeds[-1]}"
        shown = f"{who}  epoch {this.epoch}/{job.ends[-1]}  loss {means['train_loss']:.3f}"
        shown += f"  {part.replace('validation', 'val')} {value}"
        if "step_effective_sample_size" in means:
            words = "eff." if self._live and self._narrow else "eff. samples"
            shown += f"  {words} {means['step_effective_sample_size']:.2f}"
        return shown

    def _left(self) -> str:
        left = self._bars.tasks[self._all].remaining or 0.0
        seconds = self._seconds * left / self._computed if self._computed else 0
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"

    def _line(self, label: str, text: str) -> None:
        elapsed = time.monotonic() - self._start
        line = f"[{elapsed:5.0f} s] {label}  {text}"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _column(field: str, style: str) -> TextColumn:
    return TextColumn(field, style=style, markup=False, table_column=Column(no_wrap=True))
