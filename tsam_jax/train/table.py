"""Statistics over the seeds of a study, what they say in words, and its tables for the terminal.

A study is the content of study.json. A row is a line of rows.jsonl: a finished setting and seed.
"""

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from rich import box, table
from rich.console import Group
from rich.text import Text
from scipy import special

from tsam_jax.analysis import style
from tsam_jax.train.metrics import metric

Study = dict[str, Any]
Row = dict[str, Any]
_COSTS = {
    "count": {"G": 1e9, "M": 1e6, "k": 1e3, "": 1.0},
    "time": {" h": 3600.0, " min": 60.0, " s": 1.0},
}


class Column(NamedTuple):
    """A column of numbers, the keys to them in a row, and names of a lower and a higher one."""

    name: str
    heading: str
    meaning: str
    path: tuple[str | int, ...]
    unit: str = ""
    sides: Sequence[str] = ()  # without them differences are not taken


class Line(NamedTuple):
    """A setting with its seeds, and column name -> mean and half width, NaN where unknown."""

    setting: str
    seeds: list[int]
    diverged: list[int]
    estimates: dict[str, tuple[float, float]]

    def cells(self, columns: Sequence[Column], sign: str = "") -> list[tuple[str, str]]:
        """The numbers and the half widths of their intervals, as texts."""
        found = [_texts(*self.estimates[c.name], c.unit, sign) for c in columns]
        every, some = len(self.seeds), len(self.diverged)
        if some:
            found[0] = ("diverged", "") if some == every else (f"{some} of {every}", "diverged")
        return found


class Results:
    """The results of a study so far.

    Attributes:
      sweep: whether the study searches for settings.
      runs: setting -> its rows in the order of the seeds, for every setting of the study.
      columns: the columns of `summary`; `compared`, those of `differences`.
      summary: the estimates of every setting, without those of diverged ones. A sweep's have the
        best first, by the mean over seeds of the validation metric at the last epoch, and of equals
        the first of the study; settings with a diverged seed follow, those without a run are last.
      differences: every setting minus the first, over the seeds that both finished without
        diverging.
      chosen: the best setting of each method of a sweep.
      looks: setting -> its line in figures, which show the `chosen` settings of a sweep.
    """

    def __init__(self, study: Study, rows: Sequence[Row]) -> None:
        self.study, self.rows, self.sweep = study, rows, study["kind"] == "sweep"
        self.names, self.columns = names(study, rows), _columns(study, rows)
        self.compared = [column for column in self.columns if column.sides]
        ordered = sorted(rows, key=lambda row: row["seed"])
        self.runs = {x: [row for row in ordered if row["setting"] == x] for x in study["settings"]}

        lines = [_line(text, own, self.columns) for text, own in self.runs.items()]
        key, better = self.columns[0].name, metric(study["metric"]).better
        ranked = sorted(lines, key=lambda x: (not x.seeds, -better(x.estimates[key][0])))
        best = {style.method_name(x.setting): x.setting for x in reversed(ranked) if x.seeds}
        self.summary = ranked if self.sweep else lines
        self.chosen = sorted(best.values(), key=study["settings"].index) if self.sweep else []
        self.looks = style.looks(self.chosen or [text for text, own in self.runs.items() if own])

        (_, first), *others = self.runs.items()
        usual, self.differences = {row["seed"]: row for row in first if not row["diverged"]}, []
        for text, own in others:
            kept = [row for row in own if row["seed"] in usual and not row["diverged"]]
            minus = _numbers([usual[row["seed"]] for row in kept], self.compared)
            self.differences.append(_line(text, kept, self.compared, minus))

    def verdict(self) -> list[str]:
        """What the study found, in sentences, from the differences to its first setting."""
        short, found, base = self.names, [], self.names[self.study["settings"][0]]
        if not self.rows:
            return ["No run is finished."]
        if self.sweep or len(short) == 1:
            best, column = self.summary[0], self.columns[0]
            words = _words(*best.cells([column])[0], column.unit * (not best.diverged))
            which = f", the best of {len(short)} settings" * (len(short) > 1)
            return [f"{short[best.setting]}{which}: {column.meaning} {words}."]
        for column in self.compared:
            known = [x for x in self.differences if not math.isnan(x.estimates[column.name][0])]
            if known and column.name.endswith((f"_{self.study['metric']}", "top_eigenvalue")):
                words = ", ".join(f"{short[x.setting]} {_difference(x, column)}" for x in known)
                subject = f"{column.meaning[0].upper()}{column.meaning[1:]}"
                found.append(f"{subject}, compared with {base}: {words}.")
        if lost := [short[line.setting] for line in self.differences if not line.seeds]:
            found.append(f"No seed finished both with {base} and with {' or '.join(lost)}.")
        return found


def mean_and_interval(values: Sequence[float] | np.ndarray, /) -> tuple[Any, Any]:
    """Mean over seeds, the last axis, and half the width of its 95 % confidence interval.

    mean +- q s / sqrt(n),  with s the unbiased standard deviation and q the 97.5 % quantile of
    Student's t with n - 1 degrees of freedom (4.30 for 3 seeds, not 1.96).

    NaN for no seed, and the half width for one; NaNs are not skipped.

    Source: Student (W. S. Gosset), "The probable error of a mean", Biometrika 6(1), 1908.
    """
    x, n = np.asarray(values, float), np.float64(np.shape(values)[-1])
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
        mean = x.sum(axis=-1) / n
        variance = ((x.T - mean) ** 2).sum(axis=0) / (n - 1)
        return mean, special.stdtrit(n - 1, 0.975) * np.sqrt(variance / n)


def value_of(row: Row, *path: str | int) -> float:
    """The number at the end of a path into a row; NaN if it is null or was not measured."""
    try:
        return float(functools.reduce(operator.getitem, path, row))  # type: ignore[arg-type]
    except (KeyError, TypeError):
        return math.nan


def names(study: Study, rows: Sequence[Row]) -> dict[str, str]:
    """Setting -> a short name: its method and, if it has several, what differs or a number.

    Example:
      >>> names({"settings": ["erm()", "sam(rho=0.1)"]}, [])
      {'erm()': 'ERM', 'sam(rho=0.1)': 'SAM'}
    """
    found = {text: style.method_name(text) for text in study["settings"]}
    arguments = {row["setting"]: row["arguments"] for row in rows}
    for method in set(found.values()):
        own = [text for text, name in found.items() if name == method]
        differ = varied([arguments[text] for text in own if text in arguments])
        for place, text in enumerate(own if len(own) > 1 else (), 1):
            given = arguments.get(text, {})
            long = " ".join([method, *(f"{k}={given[k]}" for k in differ if k in given)])
            found[text] = long if text in arguments and len(long) <= 22 else f"{method} {place}"
    return found


def varied(given: Sequence[dict[str, str]]) -> list[str]:
    """The arguments in which settings of a method differ, those with the most values first."""
    names = dict.fromkeys(name for arguments in given for name in arguments)
    counts = {name: len({arguments.get(name) for arguments in given}) for name in names}
    return sorted((name for name in names if counts[name] > 1), key=lambda name: -counts[name])


def render(results: Results) -> Group:
    """The verdict, a table of at most 80 columns, and the settings in full."""
    every = len(results.study["seeds"])
    lines, counted = results.summary, any(len(x.seeds) < every for x in results.summary)
    words, settings = table.Table.grid(padding=(0, 1, 0, 0)), table.Table.grid(padding=(0, 2, 0, 0))
    for sentence in results.verdict():
        words.add_row("•", Text(sentence))
    # Texts, not strings: a name may hold brackets, which rich would read as markup.
    body = [["method", *["seeds"] * counted, *(column.heading for column in results.columns)]]
    for line in lines:
        name = results.names[line.setting]
        settings.add_row(Text(name), Text(line.setting, overflow="fold"))
        cells = ["\n".join(cell).strip() for cell in line.cells(results.columns)]
        count = [f"{len(line.seeds)} of {every}"] * counted
        body.append([name + "\nchosen" * (line.setting in results.chosen), *count, *cells])
    widths = [2 + max(map(len, "\n".join(x).split("\n"))) for x in zip(*body, strict=True)]
    kept = int(np.sum(np.cumsum(widths) < 80))
    main = table.Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, leading=1)
    for heading in body[0][:kept]:
        main.add_column(Text(heading), justify="right" if main.columns else "left", no_wrap=True)
    for row in body[1:]:
        main.add_row(*map(Text, row[:kept]))
    caption = f"±: 95 % interval over seeds ({every}). " * (every > 1)
    caption += "Gradients (a loss is 1/3) and time are per seed."
    caption += " report.html has more columns." * (kept < len(widths))
    caption += " Settings with a diverged seed have no means." * any(x.diverged for x in lines)
    main.caption, main.caption_justify, main.caption_style = Text(caption), "left", ""
    return Group(words, main, settings)


def _columns(study: Study, rows: Sequence[Row]) -> list[Column]:
    """The columns of a study, the most important ones first; flatness only if it was measured."""
    found, part = [], "validation" if study["kind"] == "sweep" else study["parts"][-1]
    last = "final", "", part.replace("validation", "valid."), "last epoch"
    early = "best", "early_", "early\nstop", f"best epoch by validation {study['metric']}"
    for name in dict.fromkeys([*study["metrics"], "loss"]):
        short, unit = "acc." if name == "accuracy" else name, "%" * metric(name).percent
        sides = sorted(("better", "worse"), reverse=metric(name).higher_is_better)
        times = [last, early] if name != "loss" or study["metric"] == "loss" else [last]
        for kind, prefix, head, when in times:
            key, what = f"{part}_{name}", f"{part} {name} at the {when}"
            heading = f"{head}\n{short} {unit}".strip()
            found.append(Column(prefix + key, heading, what, (kind, key), unit, sides))
    key, what = "gradient_evaluations", "gradient evaluations per seed"
    found.append(Column(key, "grads\nspent", what, (key,), "count"))
    found.append(Column("seconds", "time", "training time per seed", ("seconds",), "time"))
    if flatness := next((row["flatness"] for row in rows if row["flatness"]), None):
        key, what, sides = "top_eigenvalue", "largest Hessian eigenvalue", ["flatter", "sharper"]
        found.append(Column(key, "top\nHess.\neig.", what, ("flatness", key), "", sides))
        middle = len(flatness["noise_rms"]) // 2
        size = f"{flatness['noise_rms'][middle]:g} rms per weight"
        for key, heading in (("mean", "mean\nloss\nnearby"), ("variance", "var.\nnearby")):
            what = f"{key} of the training loss under noise of {size}"
            found.append(Column(f"nearby_{key}", heading, what, ("flatness", key, middle)))
    return found


def _numbers(rows: Sequence[Row], columns: Sequence[Column]) -> np.ndarray:
    """Shape (columns, rows)."""
    return np.array([[value_of(row, *column.path) for row in rows] for column in columns])


def _line(setting: str, rows: Sequence[Row], columns: Sequence[Column], minus: Any = 0.0) -> Line:
    """The estimates of a setting, less those of the same seeds; if one diverged, only the costs."""
    numbers = _numbers(rows, columns) - minus
    diverged = [row["seed"] for row in rows if row["diverged"]]
    numbers[[bool(diverged) and column.unit not in _COSTS for column in columns]] = np.nan
    estimates = zip(*np.array(mean_and_interval(numbers)).tolist(), strict=True)
    by_name = dict(zip([column.name for column in columns], estimates, strict=True))
    return Line(setting, [row["seed"] for row in rows], diverged, by_name)


def _difference(line: Line, column: Column) -> str:
    """A difference with its interval, and what it means."""
    mean, half = line.estimates[column.name]
    side = "no clear difference" if abs(mean) <= np.nan_to_num(half) else column.sides[mean > 0]
    words = _words(*_texts(mean, half, column.unit, "+", 2), "points" * (column.unit == "%"))
    return f"{words} ({side}{', one seed' * math.isnan(half)})"


def _words(value: str, spread: str, unit: str) -> str:
    """A number with its interval in a sentence."""
    return " ".join(filter(None, [value, spread.replace("±", "± "), unit]))


def _texts(mean: float, half: float, unit: str, sign: str, digits: int = 3) -> tuple[str, str]:
    """A number, a percentage to one digit less after the point, and its half width."""
    if math.isnan(mean):
        return "-", ""
    for suffix, size in _COSTS.get(unit, {}).items():
        if mean >= 0.9995 * size or size == 1:
            return f"{mean / size:.3g}{suffix}", ""
    scale, shown = (100, f".{digits - 1}f") if unit == "%" else (1, f"#.{digits}g")
    spread = f"±{scale * half:{shown if unit == '%' else '#.2g'}}".rstrip(".")
    return f"{scale * mean:{sign}{shown}}".rstrip("."), spread.replace("±nan", "")
