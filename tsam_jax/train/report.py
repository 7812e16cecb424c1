"""The report of a comparison: a table for the terminal, and a directory of files.

The columns of the table are defined once, in `COLUMNS`: terminal and page show the same cells.
"""

import io
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from rich import box
from rich.table import Table
from rich.text import Text

from tsam_jax.train import plots
from tsam_jax.train._page import render_page
from tsam_jax.train.results import Comparison
from tsam_jax.train.summary import Estimate, SummaryRow, stated_noise_rms, summary_rows

_DPI = 160
_UNKNOWN = "-"
_LABEL_WIDTH = 18  # what is left of 80 columns


class Cell(NamedTuple):
    """A number and the half width of its interval, as texts; the latter may be empty."""

    value: str
    spread: str = ""


class Column(NamedTuple):
    """A column of numbers.

    Attributes:
      heading: short words, one below the other in the terminal.
      meaning: what stands in it, for the legend.
      cell: makes the cell of a row.
    """

    heading: tuple[str, ...]
    meaning: str
    cell: Callable[[SummaryRow], Cell]


COLUMNS = (
    Column(
        ("test", "acc.", "%"),
        "test accuracy at the last epoch",
        lambda row: _percent(row.test_accuracy),
    ),
    Column(
        ("early", "stop", "%"),
        "test accuracy at the epoch of best validation accuracy",
        lambda row: _percent(row.early_stopped_accuracy),
    ),
    Column(("test", "loss"), "test loss at the last epoch", lambda row: _number(row.test_loss)),
    Column(
        ("mean", "loss", "nearby"),
        "mean of the training loss under {noise}",
        lambda row: _number(row.neighbourhood_mean),
    ),
    Column(
        ("var.", "nearby"),
        "variance of the training loss under {noise}",
        lambda row: _number(row.neighbourhood_variance),
    ),
    Column(
        ("top", "Hess.", "eig."),
        "largest eigenvalue of the Hessian of the training loss",
        lambda row: _number(row.top_eigenvalue),
    ),
    Column(
        ("grads", "spent"),
        "mini-batch gradients spent per seed",
        lambda row: Cell(_count(row.gradient_evaluations)),
    ),
    Column(("time",), "training time per seed", lambda row: Cell(_duration(row.wall_seconds))),
)


def render_table(comparison: Comparison, /) -> Table:
    """The summary as a table of at most 80 columns.

    Args:
      comparison: the results, complete or not.

    Returns:
      A table for a rich console; in a terminal of 80 columns long labels are folded. The caption
      explains the columns. Nothing rests on colour.

    Example:
      >>> from tsam_jax.train.results import Comparison
      >>> nothing = Comparison(task={}, config={}, versions={}, complete=True, methods=())
      >>> render_table(nothing).row_count
      0
    """
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        leading=1,
        caption=_caption(comparison),
        caption_justify="left",
        caption_style="",
    )
    # Texts, not strings: a label may hold brackets, which rich would read as markup.
    table.add_column(Text("method"), overflow="fold", min_width=12, vertical="top")
    for column in COLUMNS:
        table.add_column(Text("\n".join(column.heading)), justify="right", no_wrap=True)
    for row in summary_rows(comparison):
        cells = ["\n".join(filter(None, column.cell(row))) for column in COLUMNS]
        table.add_row(*map(Text, (_folded(row.label), *cells)))
    return table


def write_report(comparison: Comparison, directory: Path, /) -> Path:
    """Writes report.json, learning_curves.png, sharpness.png and report.html.

    The page is self-contained: it may be moved or sent without the other files. Each file is
    replaced as a whole, so that an interruption leaves the former one; the data come first.

    Args:
      comparison: the results, complete or not.
      directory: where; made if it does not exist.

    Returns:
      The path of report.html.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    data = json.dumps(comparison.to_json_dict(), allow_nan=False)
    _replace(directory / "report.json", data.encode())
    figures = {
        "learning_curves": _png(plots.learning_curves(comparison)),
        "sharpness": _png(plots.sharpness(comparison)),
    }
    for name, image in figures.items():
        _replace(directory / f"{name}.png", image)
    noise = _noise(comparison)
    page = render_page(
        comparison,
        columns=[(column.heading, column.meaning.format(noise=noise)) for column in COLUMNS],
        rows=[
            (row.label, [column.cell(row) for column in COLUMNS])
            for row in summary_rows(comparison)
        ],
        figures=figures,
    )
    _replace(directory / "report.html", page.encode())
    return directory / "report.html"


def _noise(comparison: Comparison) -> str:
    rms = stated_noise_rms(comparison)
    return "noise" if rms is None else f"noise of {rms:g} rms per coordinate"


def _caption(comparison: Comparison) -> Text:
    sentences = [
        "Early stop: at the epoch of best validation accuracy.",
        f"Nearby: training loss under {_noise(comparison)}.",
        "Gradients and time are per seed.",
    ]
    if any(len(method.seeds) > 1 for method in comparison.methods):
        sentences.append("±: 95% interval over seeds.")
    return Text(" ".join(sentences))


def _folded(label: str) -> str:
    """Breaks a label at spaces and after brackets, where a reader would."""
    lines = [""]
    for word in filter(None, re.findall(r"[^ (]*(?:[ (]|$)", label)):
        if lines[-1] and len(lines[-1] + word.rstrip()) > _LABEL_WIDTH:
            lines.append("")
        lines[-1] += word
    return "\n".join(line.rstrip() for line in lines)


def _percent(estimate: Estimate) -> Cell:
    return _cell(100 * estimate.mean, 100 * estimate.half_width, ".2f", ".2f")


def _number(estimate: Estimate) -> Cell:
    return _cell(estimate.mean, estimate.half_width, "#.3g", "#.2g")


def _cell(mean: float, half_width: float, mean_format: str, spread_format: str) -> Cell:
    value = _UNKNOWN if math.isnan(mean) else f"{mean:{mean_format}}".rstrip(".")
    spread = "" if math.isnan(half_width) else f"±{half_width:{spread_format}}".rstrip(".")
    return Cell(value, spread)


def _count(number: int) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if number >= size:
            return f"{number / (1e3 if unit == 'k' else size):.3g}{unit}"
    return str(number)


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return _UNKNOWN
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
