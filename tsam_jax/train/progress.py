"""What the user sees while training runs: live bars in a terminal, plain lines elsewhere."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import rich.progress
from rich.console import Console
from rich.table import Column

_SECONDS_BETWEEN_LINES = 5.0


@dataclasses.dataclass
class _Work:
    """Gradient evaluations of one label, over all its seeds."""

    total: float
    done: float = 0.0


class Progress:
    """Reports the training of several settings; a context manager.

    Args:
      work: label of each setting -> gradient evaluations it will take, all seeds together.
      console: where to write; live bars if it is a terminal, else a line now and then.
    """

    def __init__(self, work: Mapping[str, float], console: Console) -> None:
        self._console = console
        self._work = {label: _Work(total) for label, total in work.items()}
        self._start = time.monotonic()
        self._last_line = -_SECONDS_BETWEEN_LINES
        self._bars = _make_bars(console) if console.is_terminal else None
        self._tasks: dict[str, rich.progress.TaskID] = {}
        if self._bars:
            for label, total in work.items():
                self._tasks[label] = self._bars.add_task(
                    _shorten(label), total=total, status="waiting"
                )
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
        """Says what a setting is busy with: compiling, measuring sharpness."""
        if self._bars:
            self._bars.update(self._tasks[label], status=status)
        else:
            self._line(label, status)

    def advance(
        self,
        label: str,
        *,
        seeds: Sequence[int],
        epoch: int,
        epochs: int,
        gradients: float,
        loss: float,
        accuracy: float,
    ) -> None:
        """Reports a round of training: `gradients` were spent since the last report."""
        work = self._work[label]
        work.done = min(work.done + gradients, work.total)
        which = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]}-{seeds[-1]}"
        status = f"{which}  epoch {epoch}/{epochs}  loss {loss:.3f}  val {100 * accuracy:.1f} %"
        if self._bars:
            self._bars.update(self._tasks[label], completed=work.done, status=status)
            done = sum(work.done for work in self._work.values())
            self._bars.update(self._all, completed=done, status=f"{self._time_left()} left")
            return
        now = time.monotonic()
        if epoch == epochs or now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            self._line(label, f"{status}  left {self._time_left()}")

    def _time_left(self) -> str:
        done = sum(work.done for work in self._work.values())
        total = sum(work.total for work in self._work.values())
        seconds = (time.monotonic() - self._start) * (total - done) / done if done else 0
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"

    def _line(self, label: str, text: str) -> None:
        elapsed = time.monotonic() - self._start
        line = f"[{elapsed:5.0f} s] {label}  {text}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _make_bars(console: Console) -> rich.progress.Progress:
    def text(field: str, style: str) -> rich.progress.TextColumn:
        column = Column(no_wrap=True)
        return rich.progress.TextColumn(field, style=style, markup=False, table_column=column)

    return rich.progress.Progress(
        text("{task.description}", "bold"),
        rich.progress.BarColumn(bar_width=16),
        text("{task.fields[status]}", "none"),
        console=console,
    )


def _shorten(label: str, width: int = 24) -> str:
    return label if len(label) <= width else label[: width - 1] + "…"
