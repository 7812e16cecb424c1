"""Statistics over the seeds of a study, what they say in words, and its tables for the terminal.

A study is the content of study.json. A row is a line of rows.jsonl: a finished setting and seed.
"""

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from rich import box
from rich.console import Group
from rich.table import Table
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

    NaN for no seed, and the half width for one; NaNs are not skipped.

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
            when = f"{part} {name} at the best epoch by validation {selects}"
            found.append(Column(f"early_{key}", f"early\nstop\n{short}", when, ("best", key), unit))
    cost, meaning = "gradient_evaluations", "gradient evaluations per seed"
    found.append(Column(cost, "grads\nspent", meaning, (cost,), "count"))
    found.append(Column("seconds", "time", "training time per seed", ("seconds",), "time"))
    if flatness := next((row["flatness"] for row in rows if row["flatness"]), None):
        middle = len(flatness["noise_rms"]) // 2
        size = f"{flatness['noise_rms'][middle]:g} rms per weight"
        top, meaning = "top_eigenvalue", "largest Hessian eigenvalue"
        found.append(Column(top, "top\nHess.\neig.", meaning, ("flatness", top)))
        for key, heading in (("mean", "mean\nloss\nnearby"), ("variance", "var.\nnearby")):
            meaning = f"{key} of the training loss under noise of {size}"
            found.append(Column(f"nearby_{key}", heading, meaning, ("flatness", key, middle)))
    return found


def compared(study: Study, rows: Sequence[Row]) -> list[Column]:
    """The columns of which `differences` are taken: the metrics, and the largest eigenvalue."""
    shown = columns(study, rows)
    return [c for c in shown if c.path[0] in {"final", "best"} or c.name == "top_eigenvalue"]


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
        differ = varied([row for row in rows if row["setting"] in own])
        for place, text in enumerate(own if len(own) > 1 else (), 1):
            given = arguments.get(text, {})
            long = " ".join([method, *(f"{k}={given[k]}" for k in differ if k in given)])
            short = text in arguments and len(long) <= 22
            found[text] = long if short else f"{method} {place}"
    return found


def summary(study: Study, rows: Sequence[Row]) -> list[Line]:
    """The estimates of every setting, without those of diverged ones; a sweep's best first."""
    found, groups, shown = [], by_setting(study, rows), columns(study, rows)
    best = [own[0]["setting"] for own in ranked(rows, study["metric"])]
    for text in dict.fromkeys([*best, *groups]) if study["kind"] == "sweep" else groups:
        own = groups[text]
        diverged = [row["seed"] for row in own if row["diverged"]]
        known = {c.name: own if c.unit in _COSTS or not diverged else [] for c in shown}
        values = {c.name: [value_of(row, *c.path) for row in known[c.name]] for c in shown}
        estimates = {name: mean_and_interval(x) for name, x in values.items()}
        found.append(Line(text, [row["seed"] for row in own], diverged, estimates))
    return found


def differences(study: Study, rows: Sequence[Row]) -> list[Line]:
    """Every setting minus the first one, over the seeds that both finished without diverging."""
    found, shown = [], compared(study, rows)
    first, *others = by_setting(study, [row for row in rows if not row["diverged"]]).items()
    usual = {row["seed"]: row for row in first[1]}
    for text, own in others:
        pairs = [(row, usual[row["seed"]]) for row in own if row["seed"] in usual]
        both = {c.name: [[value_of(x, *c.path) for x in pair] for pair in pairs] for c in shown}
        estimates = {name: mean_and_interval([x - y for x, y in v]) for name, v in both.items()}
        found.append(Line(text, [row["seed"] for row, _ in pairs], [], estimates))
    return found


def verdict(study: Study, rows: Sequence[Row]) -> list[str]:
    """What a study found, in sentences, from the differences to its first setting within seeds."""
    short, name = names(study, rows), study["metric"]
    if not rows:
        return ["No run is finished."]
    if study["kind"] == "sweep" or len(short) == 1:
        best, column = ranked(rows, name)[0][0]["setting"], columns(study, rows)[0]
        [line] = [line for line in summary(study, rows) if line.setting == best]
        value, spread = cells(line, [column])[0]
        words = [value, spread.replace("±", "± "), column.unit * (not line.diverged)]
        which = f", the best of {len(short)} settings" * (len(short) > 1)
        return [f"{short[best]}{which}: {column.meaning} {' '.join(filter(None, words))}."]
    base, lines, found = short[study["settings"][0]], differences(study, rows), []
    for column in compared(study, rows):
        known = [line for line in lines if not math.isnan(line.estimates[column.name][0])]
        if known and column.name.endswith((f"_{name}", "top_eigenvalue")):
            words = [f"{short[line.setting]} {_difference(line, column)}" for line in known]
            subject = column.meaning[0].upper() + column.meaning[1:]
            found.append(f"{subject}, compared with {base}: {', '.join(words)}.")
    if lost := [short[line.setting] for line in lines if not line.seeds]:
        found.append(f"No seed finished both with {base} and with {' or '.join(lost)}.")
    return found


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


def render(study: Study, rows: Sequence[Row]) -> Group:
    """The verdict, a table of at most 80 columns, and the settings in full."""
    short, shown, lines = names(study, rows), columns(study, rows), summary(study, rows)
    words, settings = Table.grid(padding=(0, 1, 0, 0)), Table.grid(padding=(0, 2, 0, 0))
    for sentence in verdict(study, rows):
        words.add_row("•", Text(sentence))
    for line in lines:
        settings.add_row(Text(short[line.setting]), Text(line.setting, overflow="fold"))
    chosen = choose(rows, study["metric"]).values() if study["kind"] == "sweep" else ()
    labels = [short[line.setting] + "\nchosen" * (line.setting in chosen) for line in lines]
    counts = [f"{len(line.seeds)} of {len(study['seeds'])}" for line in lines]
    texts = [["\n".join(cell).strip() for cell in cells(line, shown)] for line in lines]
    body = [["method", *labels]]
    if any(len(line.seeds) < len(study["seeds"]) for line in lines):
        body.append(["seeds", *counts])
    body += [[c.heading, *below] for c, *below in zip(shown, *texts, strict=True)]
    widths = [2 + max(len(x) for text in own for x in text.split("\n")) for own in body]
    kept = [own for own, end in zip(body, np.cumsum(widths), strict=True) if end < 80]
    caption = f"±: 95 % interval over seeds ({len(study['seeds'])}). Gradients (a loss is 1/3) and"
    caption += " time are per seed." + " report.html has more columns." * (len(kept) < len(body))
    caption += " Settings with a diverged seed have no means." * any(r["diverged"] for r in rows)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, leading=1)
    table.caption, table.caption_justify, table.caption_style = Text(caption), "left", ""
    # Texts, not strings: a name may hold brackets, which rich would read as markup.
    for heading, *_ in kept:
        table.add_column(Text(heading), justify="right" if table.columns else "left", no_wrap=True)
    for row in zip(*(own[1:] for own in kept), strict=True):
        table.add_row(*map(Text, row))
    return Group(words, table, settings)


def _difference(line: Line, column: Column) -> str:
    """A difference with its interval, and what it means."""
    mean, half = line.estimates[column.name]
    flat = column.name == "top_eigenvalue"
    better = -mean if flat else metric(str(column.path[-1])).better(mean)
    side = (("sharper", "flatter") if flat else ("worse", "better"))[better > 0]
    side = "no clear difference" if abs(mean) <= np.nan_to_num(half) else side
    side += ", one seed" * math.isnan(half)
    k, digits, unit = (100, ".1f", " points") if column.unit == "%" else (1, ".2g", "")
    spread = f" ± {k * half:{digits}}".replace(" ± nan", "")
    return f"{k * mean:+{digits}}{spread}{unit} ({side})"


def _cell(mean: float, half_width: float, unit: str, sign: str) -> tuple[str, str]:
    if math.isnan(mean):
        return "-", ""
    for suffix, size in _COSTS.get(unit, {}).items():
        if mean >= 0.9995 * size or size == 1:
            return f"{mean / size:.3g}{suffix}", ""
    scale, digits, few = (100, ".2f", ".2f") if unit == "%" else (1, "#.3g", "#.2g")
    spread = "" if math.isnan(half_width) else f"±{scale * half_width:{few}}".rstrip(".")
    return f"{scale * mean:{sign}{digits}}".rstrip("."), spread
