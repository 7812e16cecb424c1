"""Progress of training: a live bar in a terminal, plain lines elsewhere."""

import time
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column

from tsam_jax.train.metrics import metric

_SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Shows the training of runs that take `work` gradient evaluations; a context manager."""

    def __init__(self, work: float, console: Console) -> None:
        self.console, self._start, self._next_line = console, time.monotonic(), 0.0
        self._seconds = self._computed = 0.0  # of the rounds, without compilation
        text = TextColumn("{task.description}", markup=False, table_column=Column())  # wrapped
        bar = BarColumn(bar_width=16)
        self._bars = Bars(bar, text, console=console, disable=not console.is_terminal)
        self._all = self._bars.add_task("", total=work)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def note(self, label: str, status: str) -> None:
        """Shows what happens to a setting, such as its compilation."""
        if self.console.is_terminal:
            self._bars.update(self._all, description=f"{label}  {status}")
        else:
            line = f"[{time.monotonic() - self._start:5.0f} s] {label}  {status}"
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def resume(self, gradients: float) -> None:
        """Counts gradient evaluations of an earlier session as done."""
        self._bars.advance(self._all, gradients)

    def advance(self, run: Any, this: Any, done: int) -> None:
        """Shows a round, `loop.Round`, of a `run.Run` that had done some epochs before."""
        now, spent = time.monotonic(), (this.epoch - done) * run.price
        self._seconds += this.seconds
        self._computed += spent
        self.resume(spent)
        if not (self.console.is_terminal or now >= self._next_line or this.epoch == run.ends[-1]):
            return
        self._next_line, found = now + _SECONDS_BETWEEN_LINES, this.metrics
        part = "validation" if f"validation_{run.metric}" in found else "train"
        value = metric(run.metric).shown(found[f"{part}_{run.metric}"], digits=1)
        words = [f"seed {run.seed}  epoch {this.epoch}/{run.ends[-1]}"]
        words += [f"loss {found['train_loss']:.3f}", f"{part.replace('validation', 'val')} {value}"]
        if "step_effective_sample_size" in found:
            words.append(f"eff. samples {found['step_effective_sample_size']:.2f}")
        words += [f"{this.examples_per_second:,.0f} examples/s", f"left {self._left()}"]
        self.note(run.label, "  ".join(words))

    def _left(self) -> str:
        left = self._bars.tasks[self._all].remaining or 0.0
        seconds = self._seconds * left / self._computed if self._computed else 0
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"
