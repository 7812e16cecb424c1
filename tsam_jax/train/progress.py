"""What the user sees while training runs: live bars in a terminal, plain lines elsewhere."""

import dataclasses
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np
import rich.progress
from rich.console import Console
from rich.table import Column

from tsam_jax.train.metrics import metric

_SECONDS_BETWEEN_LINES = 5.0
_NARROW = 110  # columns below which bars and words are short
_MOST_BARS = 10  # more would not fit on the screen: those that wait or are done have none, then


@dataclasses.dataclass
class _Work:
    """Gradient evaluations of one label, over all its seeds."""

    total: float
    done: float = 0.0


class Progress:
    """Shows the training of several settings; a context manager.

    Args:
      work: label of each setting -> gradient evaluations it takes, all seeds together.
      console: where to write; live bars if it is a terminal, else a line now and then.
    """

    def __init__(self, work: Mapping[str, float], console: Console) -> None:
        self.console = console
        self._work = {label: _Work(total) for label, total in work.items()}
        self._start = time.monotonic()
        self._last_line = -_SECONDS_BETWEEN_LINES
        self._seconds = self._computed = 0.0  # of the rounds, without compilation
        self._narrow, self._many = console.width < _NARROW, len(work) > _MOST_BARS
        self._bars = None
        if console.is_terminal:
            self._bars = _make_bars(console, width=8 if self._narrow else 16)
        self._tasks: dict[str, rich.progress.TaskID] = {}
        if self._bars:
            for label, total in work.items():
                name = _shorten(label, 16 if self._narrow else 24)
                shown: dict[str, Any] = {"visible": not self._many, "status": "waiting"}
                self._tasks[label] = self._bars.add_task(name, total=total, **shown)
            self._all = self._bars.add_task("all", total=sum(work.values()), status="")

    def __enter__(self) -> Self:
        """Starts the display."""
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stops the display; what it showed last stays."""
        if self._bars:
            self._bars.stop()

    def note(self, label: str, status: str) -> None:
        """Shows a phase of a setting: compiling, measuring sharpness."""
        if self._bars:
            self._bars.update(self._tasks[label], status=status, visible=True)
        else:
            self._line(label, status)

    def resume(self, label: str, gradients: float) -> None:
        """Counts gradient evaluations of an earlier session as done."""
        work = self._work[label]
        work.done = min(work.done + gradients, work.total)
        if self._bars:
            self._bars.update(self._tasks[label], completed=work.done)
            self._bars.update(self._all, completed=self._done)

    def advance(self, job: Any, this: Any, done: int) -> None:
        """Shows a round of training.

        Args:
          job: the `run.Job`.
          this: the `loop.Round`.
          done: epochs before the round.
        """
        own: dict[str, list[int]] = {}
        for row, run in enumerate(job.runs):
            own.setdefault(run.label, []).append(row)
        spent = (this.epoch - done) * job.price
        self._seconds += this.seconds
        self._computed += spent * len(job.runs)
        for label, rows in own.items():
            work = self._work[label]
            work.done = min(work.done + spent * len(rows), work.total)
            self._show(label, job, this, rows)

    def _show(self, label: str, job: Any, this: Any, rows: list[int]) -> None:
        seeds, epochs = [job.runs[row].seed for row in rows], job.ends[-1]
        which = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]}-{seeds[-1]}"
        means = {name: float(np.mean(x[rows])) for name, x in this.metrics.items()}
        part = "validation" if f"validation_{job.metric}" in means else "train"
        value = metric(job.metric).shown(means[f"{part}_{job.metric}"], digits=1)
        shown = [which, f"epoch {this.epoch}/{epochs}", f"loss {means['train_loss']:.3f}"]
        shown.append(f"{'val' if part == 'validation' else 'train'} {value}")
        if "step_effective_sample_size" in means:
            words = "eff." if self._bars and self._narrow else "eff. samples"
            shown.append(f"{words} {means['step_effective_sample_size']:.2f}")
        status = "  ".join(shown)
        speed = f"{this.examples_per_second * len(job.runs):,.0f} examples/s"
        work = self._work[label]
        if self._bars:
            open_still = not self._many or work.done < work.total
            self._bars.update(
                self._tasks[label], completed=work.done, status=status, visible=open_still
            )
            left = f"{self._left()} left  {speed}"
            self._bars.update(self._all, completed=self._done, status=left)
            return
        now = time.monotonic()
        if this.epoch == epochs or now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            self._line(label, f"{status}  {speed}  left {self._left()}")

    @property
    def _done(self) -> float:
        return sum(work.done for work in self._work.values())

    def _left(self) -> str:
        left = sum(work.total - work.done for work in self._work.values())
        seconds = self._seconds * left / self._computed if self._computed else 0
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"

    def _line(self, label: str, text: str) -> None:
        elapsed = time.monotonic() - self._start
        line = f"[{elapsed:5.0f} s] {label}  {text}"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _make_bars(console: Console, width: int) -> rich.progress.Progress:
    def text(field: str, style: str) -> rich.progress.TextColumn:
        column = Column(no_wrap=True)
        return rich.progress.TextColumn(field, style=style, markup=False, table_column=column)

    return rich.progress.Progress(
        text("{task.description}", "bold"),
        rich.progress.BarColumn(bar_width=width),
        text("{task.fields[status]}", "none"),
        console=console,
    )


def _shorten(label: str, width: int) -> str:
    return label if len(label) <= width else label[: width - 1] + "…"
