"""Statistics over the seeds of a study, and its tables for the terminal.

A study is the content of study.json. A row is a line of rows.jsonl: a finished setting and seed.
"""

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text
from scipy import special

from tsam_jax.train.metrics import metric

Study = dict[str, Any]
Row = dict[str, Any]
_COSTS = {
    "count": {"G": 1e9, "M": 1e6, "k": 1e3, "": 1.0},
    "time": {" h": 3600.0, " min": 60.0, " s": 1.0},
}


class Column(NamedTuple):
    """A column of numbers: its heading, its meaning, and the keys that lead to it in a row."""

    name: str
    heading: str
    meaning: str
    path: tuple[str | int, ...]
    unit: str = ""


class Line(NamedTuple):
    """A setting with its seeds, and column name -> mean and half width, NaN where unknown."""

    setting: str
    seeds: list[int]
    diverged: list[int]
    estimates: dict[str, tuple[float, float]]


def mean_and_interval(values: Sequence[float] | np.ndarray, /) -> tuple[float, float]:
    """Mean over seeds, and half the width of its 95 % confidence interval.

    mean +- q s / sqrt(n),  with s the unbiased standard deviation and q the 97.5 % quantile of
    Student's t with n - 1 degrees of freedom (4.30 for 3 seeds, not 1.96).

    Returns:
      The mean, NaN for no seed, and the half width, NaN for one. NaNs are not skipped.

    Source: Student (W. S. Gosset), "The probable error of a mean", Biometrika 6(1), 1908.
    """
    if len(values) < 2:
        return (float(values[0]) if len(values) else math.nan), math.nan
    quantile = special.stdtrit(len(values) - 1, 0.975)
    half_width = quantile * np.std(values, ddof=1) / math.sqrt(len(values))
    return float(np.mean(values)), float(half_width)


def columns(study: Study, rows: Sequence[Row]) -> list[Column]:
    """The columns of a study, the most important ones first; flatness only if it was measured."""
    part, selects, found = study["parts"][-1], study["metric"], []
    for name in dict.fromkeys([*study["metrics"], "loss"]):
        key, unit = f"{part}_{name}", "%" * metric(name).percent
        short = f"{'acc.' if name == 'accuracy' else name} {unit}".strip()
        last = f"{part.replace('validation', 'valid.')}\n{short}"
        found.append(Column(key, last, f"{part} {name} at the last epoch", ("final", key), unit))
        if name != "loss" or selects == "loss":
            when = f"{part} {name} at the epoch of best validation {selects}"
            found.append(Column(f"early_{key}", f"early\nstop\n{short}", when, ("best", key), unit))
    cost, meaning = "gradient_evaluations", "gradient evaluations per seed"
    found.append(Column(cost, "grads\nspent", meaning, (cost,), "count"))
    found.append(Column("seconds", "time", "training time per seed", ("seconds",), "time"))
    if flatness := next((row["flatness"] for row in rows if row["flatness"]), None):
        middle = len(flatness["noise_rms"]) // 2
        size = f"{flatness['noise_rms'][middle]:g} rms per coordinate"
        for key, heading in (("mean", "mean\nloss\nnearby"), ("variance", "var.\nnearby")):
            meaning = f"{key} of the training loss under noise of {size}"
            found.append(Column(f"nearby_{key}", heading, meaning, ("flatness", key, middle)))
        top, meaning = "top_eigenvalue", "largest Hessian eigenvalue of the training loss"
        found.append(Column(top, "top\nHess.\neig.", meaning, ("flatness", top)))
    return found


def compared(study: Study, rows: Sequence[Row]) -> list[Column]:
    """The columns of which `differences` are taken: the metrics."""
    return [c for c in columns(study, rows) if c.path[0] in {"final", "best"}]


def value_of(row: Row, *path: str | int) -> float:
    """The number at the end of a path into a row; NaN if it is null or was not measured."""
    try:
        return float(functools.reduce(operator.getitem, path, row))  # type: ignore[arg-type]
    except (KeyError, TypeError):
        return math.nan


def by_setting(study: Study, rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Setting -> its rows in the order of the seeds, for every setting of the study."""
    ordered = sorted(rows, key=lambda row: row["seed"])
    return {text: [r for r in ordered if r["setting"] == text] for text in study["settings"]}


def summary(study: Study, rows: Sequence[Row]) -> list[Line]:
    """The estimates of every setting; where a seed diverged, only those of the cost."""
    shown = columns(study, rows)
    return [_line(text, own, shown, {}) for text, own in by_setting(study, rows).items()]


def differences(study: Study, rows: Sequence[Row]) -> list[Line]:
    """Every setting minus the first one, over the seeds that both finished without diverging."""
    (_, first), *others = by_setting(study, [row for row in rows if not row["diverged"]]).items()
    usual, shown = {row["seed"]: row for row in first}, compared(study, rows)
    return [_line(text, [r for r in x if r["seed"] in usual], shown, usual) for text, x in others]


def cells(line: Line, shown: Sequence[Column], sign: str = "") -> list[tuple[str, str]]:
    """The numbers of a line and the half widths of their intervals, as texts."""
    found = [_cell(*line.estimates[c.name], c.unit, sign) for c in shown]
    every, some = len(line.seeds), len(line.diverged)
    if some:
        found[0] = ("diverged", "") if some == every else (f"{some} of {every}", "diverged")
    return found


def validated(rows: Sequence[Row], name: str) -> float:
    """The mean over seeds of a validation metric at the last epoch; NaN if a seed diverged."""
    values = [value_of(row, "final", f"validation_{name}") for row in rows]
    return math.nan if any(row["diverged"] for row in rows) else float(np.mean(values))


def ranked(rows: Sequence[Row], name: str) -> list[list[Row]]:
    """The rows of each setting, best first by `validated`; settings with a diverged seed last."""
    groups: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        groups.setdefault(row["setting"], []).append(row)
    return sorted(groups.values(), key=lambda own: -metric(name).better(validated(own, name)))


def choose(rows: Sequence[Row], name: str) -> dict[str, str]:
    """Method -> its best setting by `validated`; of equals the first."""
    best = {own[0]["method"]: own[0]["setting"] for own in reversed(ranked(rows, name))}
    return {row["method"]: best[row["method"]] for row in rows}


def varied(rows: Sequence[Row]) -> list[str]:
    """The arguments in which settings of a method differ, those with the most values first."""
    names = dict.fromkeys(name for row in rows for name in row["arguments"])
    counts = {name: len({row["arguments"].get(name) for row in rows}) for name in names}
    return sorted((name for name in names if counts[name] > 1), key=lambda name: -counts[name])


def render(study: Study, rows: Sequence[Row]) -> Table:
    """The summary, at most 80 columns wide; columns that do not fit are in the page alone."""
    caption = "±: 95 % interval over seeds. Gradients (a loss counts 1/3) and time are per seed."
    caption += " Settings with a diverged seed have no means." * any(r["diverged"] for r in rows)
    return _table(study, columns(study, rows), summary(study, rows), "seeds", caption)


def render_differences(study: Study, rows: Sequence[Row]) -> Table:
    """The differences to the first setting, at most 80 columns wide."""
    caption = f"Minus {study['settings'][0]}, within seeds that did not diverge; ±: 95 % interval."
    return _table(study, compared(study, rows), differences(study, rows), "pairs", caption)


def render_choice(study: Study, rows: Sequence[Row]) -> Table:
    """The settings of a sweep, best first within each method, with what differs between them."""
    name, table = study["metric"], Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", no_wrap=True)
    table.add_column("what differs", overflow="fold")
    table.add_column(f"validation\n{name}", justify="right", no_wrap=True)
    table.add_column("seeds", justify="right", overflow="fold")
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        names = varied(own)
        for place, group in enumerate(ranked(own, name)):
            differ = " ".join(f"{k}={x}" for k, x in group[0]["arguments"].items() if k in names)
            mean, *seeds = (metric(name).shown(validated(x, name), 1) for x in (group, *zip(group)))
            mean = "diverged" if mean == "-" else mean
            texts = (method * (place == 0), differ or "-", mean, " ".join(seeds).replace(" %", ""))
            table.add_row(*(Text(text, "" if place else "bold") for text in texts))
        table.add_section()
    return table


def _line(setting: str, rows: Sequence[Row], shown: Sequence[Column], minus: Row) -> Line:
    """The estimates of a setting, minus the rows by seed in `minus` unless it is empty."""
    diverged, estimates = [row["seed"] for row in rows if row["diverged"]], {}
    for column in shown:
        values = np.array([value_of(row, *column.path) for row in rows])
        if minus:
            values -= [value_of(minus[row["seed"]], *column.path) for row in rows]
        known = values if column.unit in _COSTS or not diverged else values[:0]
        estimates[column.name] = mean_and_interval(known)
    return Line(setting, [row["seed"] for row in rows], diverged, estimates)


def _cell(mean: float, half_width: float, unit: str, sign: str) -> tuple[str, str]:
    if math.isnan(mean):
        return "-", ""
    for suffix, size in _COSTS.get(unit, {}).items():
        if mean >= 0.9995 * size or size == 1:
            return f"{mean / size:.3g}{suffix}", ""
    scale, digits, few = (100, ".2f", ".2f") if unit == "%" else (1, "#.3g", "#.2g")
    spread = "" if math.isnan(half_width) else f"±{scale * half_width:{few}}".rstrip(".")
    return f"{scale * mean:{sign}{digits}}".rstrip("."), spread


def _table(study: Study, shown: list[Column], lines: list[Line], count: str, caption: str) -> Table:
    sign = "+" if count == "pairs" else ""
    texts = [["\n".join(cell).strip() for cell in cells(line, shown, sign)] for line in lines]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, leading=1)
    # Texts, not strings: a label may hold brackets, which rich would read as markup.
    table.add_column("method", overflow="fold", min_width=18)
    room = 60  # of 80, beside the labels
    for column, *below in zip(shown, *texts, strict=True):
        room -= 2 + max(len(x) for text in (column.heading, *below) for x in text.split("\n"))
        if room >= 0:
            table.add_column(Text(column.heading), justify="right", no_wrap=True)
    caption += " report.html has more columns." * (room < 0)
    table.caption, table.caption_justify, table.caption_style = Text(caption), "left", ""
    for line, row in zip(lines, texts, strict=True):
        label = f"{line.setting}\n({len(line.seeds)} of {len(study['seeds'])} {count})"
        table.add_row(*map(Text, (label, *row[: len(table.columns) - 1])))
    return table
