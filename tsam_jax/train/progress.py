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
    """Shows the training of some runs; a context manager.

    `work` is the number of their gradient evaluations. A console that is a terminal gets a live
    bar, another one a line every few seconds.
    """

    def __init__(self, work: float, console: Console) -> None:
        self.console, self._live = console, console.is_terminal
        self._start, self._last_line = time.monotonic(), -_SECONDS_BETWEEN_LINES
        self._seconds = self._computed = 0.0  # of the rounds, without compilation
        text = TextColumn("{task.description}", markup=False, table_column=Column())  # wrapped
        self._bars = Bars(BarColumn(bar_width=16), text, console=console, disable=not self._live)
        self._all = self._bars.add_task("", total=work)

    def __enter__(self) -> Self:
        """Starts the display."""
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stops the display; its last state stays visible."""
        self._bars.stop()

    def note(self, label: str, status: str) -> None:
        """Shows a phase of a setting: compiling, measuring flatness."""
        self._show(f"{label}  {status}")

    def resume(self, gradients: float) -> None:
        """Counts gradient evaluations of an earlier session as done."""
        self._bars.advance(self._all, gradients)

    def advance(self, run: Any, this: Any, done: int) -> None:
        """Shows a round, `loop.Round`, of a `run.Run` that had done some epochs before."""
        now, spent = time.monotonic(), (this.epoch - done) * run.price
        self._seconds += this.seconds
        self._computed += spent
        self.resume(spent)
        late = now - self._last_line >= _SECONDS_BETWEEN_LINES
        if not (self._live or late or this.epoch == run.ends[-1]):
            return
        self._last_line, found = now, this.metrics
        part = "validation" if f"validation_{run.metric}" in found else "train"
        value = metric(run.metric).shown(found[f"{part}_{run.metric}"], digits=1)
        words = [f"{run.label}  seed {run.seed}  epoch {this.epoch}/{run.ends[-1]}"]
        words += [f"loss {found['train_loss']:.3f}", f"{part.replace('validation', 'val')} {value}"]
        if "step_effective_sample_size" in found:
            words.append(f"eff. samples {found['step_effective_sample_size']:.2f}")
        words += [f"{this.examples_per_second:,.0f} examples/s", f"left {self._left()}"]
        self._show("  ".join(words))

    def _left(self) -> str:
        left = self._bars.tasks[self._all].remaining or 0.0
        seconds = self._seconds * left / self._computed if self._computed else 0
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"

    def _show(self, line: str) -> None:
        if self._live:
            self._bars.update(self._all, description=line)
        else:
            text = f"[{time.monotonic() - self._start:5.0f} s] {line}"
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)
