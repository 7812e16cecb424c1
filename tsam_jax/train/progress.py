"""What the user sees while training runs: live bars in a terminal, plain lines elsewhere."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import rich.progress
from rich.console import Console
from rich.table import Column

_SECONDS_BETWEEN_LINES = 5.0
_NARROW = 110  # columns below which bars and words are short
_MOST_BARS = 10  # more would not fit on the screen: then those that wait or are done have none


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
        """Says what a setting is busy with: compiling, measuring sharpness."""
        if self._bars:
            self._bars.update(self._tasks[label], status=status, visible=True)
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
        metrics: Mapping[str, float],
        score: str,
        examples_per_second: float,
    ) -> None:
        """Reports a round of training: `gradients` were spent since the last report.

        Args:
          label: the setting.
          seeds: which of them.
          epoch: epochs done.
          epochs: epochs planned.
          gradients: gradient evaluations since the last report.
          metrics: what was measured; the training loss, `score` and, if they are there, the
            effective samples are shown.
          score: name of the number that the best epoch is chosen by, "validation_accuracy" say.
          examples_per_second: how fast it goes.
        """
        work = self._work[label]
        work.done = min(work.done + gradients, work.total)
        which = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]}-{seeds[-1]}"
        shown = [which, f"epoch {epoch}/{epochs}", f"loss {metrics['train_loss']:.3f}"]
        value = metrics[score]
        percent = score.endswith("accuracy")
        shown.append(f"val {100 * value:.1f} %" if percent else f"val {value:.4g}")
        if "step_effective_sample_size" in metrics:
            words = "eff." if self._bars and self._narrow else "eff. samples"
            shown.append(f"{words} {metrics['step_effective_sample_size']:.2f}")
        status, speed = "  ".join(shown), f"{examples_per_second:,.0f} examples/s"
        if self._bars:
            open_still = not self._many or work.done < work.total
            self._bars.update(
                self._tasks[label], completed=work.done, status=status, visible=open_still
            )
            done = sum(work.done for work in self._work.values())
            left = f"{self._time_left()} left  {speed}"
            self._bars.update(self._all, completed=done, status=left)
            return
        now = time.monotonic()
        if epoch == epochs or now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            self._line(label, f"{status}  {speed}  left {self._time_left()}")

    def _time_left(self) -> str:
        done = sum(work.done for work in self._work.values())
        total = sum(work.total for work in self._work.values())
        seconds = (time.monotonic() - self._start) * (total - done) / done if done else 0
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"

    def _line(self, label: str, text: str) -> None:
        elapsed = time.monotonic() - self._start
        line = f"[{elapsed:5.0f} s] {label}  {text}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


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
