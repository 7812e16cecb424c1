"""Tables of the results pages, from their records: python notebooks/_site/records.py

Writes them between the comments `<!-- results: FOLDER COLUMN ... -->` and `<!-- end -->` of a page.
The FOLDER of benchmarks/results has a report.json of `tsam-jax compare`. Numbers are means over the
seeds, with 95 % intervals (Student's t).
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tsam_jax.train.table import mean_and_interval, value_of
from tsam_jax.train.table import names as names_of

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "notebooks" / "results.md", *RESULTS.glob("*/README.md"))
BLOCK = re.compile(r"(<!-- results: (\S+) (.*?) -->)\n.*?<!-- end -->", re.DOTALL)
SCHEDULE = re.compile(r"linear_schedule\(([\d.]+), ([\d.]+), \d+\)")
MIDDLE = 3  # of the sizes of noise, as in reports
ARROW = r"\1→\2"


class Column(NamedTuple):
    """A heading, the way to a number in a row, its factor and its digits."""

    heading: str
    path: tuple[str | int, ...]
    factor: float = 1.0
    digits: str = ".1f"


COLUMNS = {
    "test": Column("test accuracy %", ("final", "test_accuracy"), 100),
    "early": Column("early stop %", ("best", "test_accuracy"), 100),
    "loss": Column("test loss", ("final", "test_loss"), 1, ".3f"),
    "matthews": Column("test Matthews %", ("final", "test_matthews"), 100),
    "ess": Column("effective sample size", ("curve", "step_effective_sample_size"), 1, ".2f"),
    "eigenvalue": Column("largest eigenvalue", ("flatness", "top_eigenvalue"), 1, ".2f"),
    "nearby": Column("mean loss nearby", ("flatness", "mean", MIDDLE), 1, ".2f"),
    "variance": Column("its variance", ("flatness", "variance", MIDDLE), 1, ".1e"),
    "seconds": Column("seconds a seed", ("seconds",), 1, ".1f"),
    "cost": Column("gradients a seed", ("gradient_evaluations",), 1, ",.0f"),
    "epochs": Column("epochs", ("epochs",), 1, ".0f"),
}
"""A name with a number, `test-2`, is the difference from the second setting within seeds."""


def groups(report: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Setting -> its rows in the order of the seeds."""
    ordered = sorted(report["rows"], key=lambda row: row["seed"])
    return {x: [r for r in ordered if r["setting"] == x] for x in report["study"]["settings"]}


def values(rows: Sequence[dict[str, Any]], column: Column) -> np.ndarray:
    """A number for each row: NaN if it has none, the mean over the epochs of a curve."""
    if column.path[0] == "curve":
        return np.array([np.mean(row["curve"].get(column.path[1], np.nan)) for row in rows])
    return column.factor * np.array([value_of(row, *column.path) for row in rows])


def cell(found: np.ndarray, digits: str, sign: str = "") -> str:
    mean, half = mean_and_interval(found)
    if np.isnan(mean):
        return "-"
    shown = f"{mean:{sign}{digits}}" + f" ± {half:{digits}}" * (float(f"{half:{digits}}") > 0)
    return shown.replace("-0.0 ", "+0.0 ")


def name(row: dict[str, Any], report: dict[str, Any]) -> str:
    """A setting, of many of a method without what they share; a schedule as an arrow."""
    own = {x["setting"]: x["arguments"] for x in report["rows"] if x["method"] == row["method"]}
    shared = [set(x.items()) for x in own.values()] if len(own) > 2 else [set()]
    shown = dict(x for x in row["arguments"].items() if x not in set.intersection(*shared))
    shown.pop("strategy", None)
    arguments = ", ".join(f"{k}={SCHEDULE.sub(ARROW, v)}" for k, v in shown.items())
    return f"`{row['method']}({arguments})`"


def lines(report: dict[str, Any], names: Sequence[str]) -> Iterator[list[str]]:
    own, short = list(groups(report).values()), names_of(report["study"], report["rows"])
    headings, made = ["setting"], [[name(rows[0], report)] for rows in own]
    for text in names:
        key, _, number = text.partition("-")
        column, base = COLUMNS[key], own[int(number) - 1] if number else []
        if base:
            called = short[base[0]["setting"]]
            called = name(base[0], report) if re.search(r" \d+$", called) else called
            headings.append(re.sub("( accuracy)? %$", "", column.heading) + f" - {called}")
        else:
            headings.append(column.heading)
        for line, rows in zip(made, own, strict=True):
            less = values(base, column) if base else 0
            shown = cell(values(rows, column) - less, column.digits, "+" if base else "")
            line.append("" if rows is base else shown)
    yield from (headings, ["---"] * len(headings), *made)


def rendered(text: str) -> str:
    """Returns the text of a page with its tables made anew."""

    def table(block: re.Match[str]) -> str:
        report = json.loads((RESULTS / block[2] / "report.json").read_text())
        made = "\n".join(f"| {' | '.join(x)} |" for x in lines(report, block[3].split()))
        made = made.replace(" --- ", "---")
        return f"{block[1]}\n{made}\n\n<!-- end -->"

    return BLOCK.sub(table, text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(rendered(page.read_text()))
