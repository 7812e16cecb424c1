"""The report of a study: report.json, figures, and a page that stands alone."""

import base64
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from tsam_jax.analysis import style
from tsam_jax.train import plots, record, table
from tsam_jax.train.config import require
from tsam_jax.train.table import Line, Row, Study


def read_study(directory: Path) -> tuple[Study, list[Row]]:
    """Reads study.json and the rows of all shards.

    Returns:
      The study, and its rows; of several with the same setting and seed the last one.

    Raises:
      ConfigError: if the directory has no study.
    """
    there = (directory / "study.json").is_file()
    require(there, f"{directory} is not the directory of a study: it has no study.json.")
    files = sorted(directory.glob("rows*.jsonl"))
    rows = {(row["setting"], row["seed"]): row for x in files for row in record.read_lines(x)}
    return record.read_json(directory / "study.json"), list(rows.values())


def write_report(directory: Path) -> Path:
    """Writes report.json, the figures and report.html, each as a whole, of a study so far.

    Returns:
      The path of report.html, which needs no other file.
    """
    study, rows = read_study(directory)
    statistics = {"summary": table.summary(study, rows)}
    statistics["differences"] = table.differences(study, rows)
    plain = {name: [_plain(line) for line in lines] for name, lines in statistics.items()}
    record.write_json(directory / "report.json", {"study": study, "rows": rows, **plain})
    # the most convincing one comes first
    methods = [[row for row in rows if row["method"] == x] for x in {r["method"] for r in rows}]
    grid = study["kind"] == "sweep" and any(map(table.varied, methods))
    drawings = {"heatmap": plots.heat_map} if grid else {}
    if any(row["flatness"] for row in rows):
        drawings["sharpness"] = plots.sharpness
    drawings["learning_curves"] = plots.learning_curves
    figures, failures = {}, problems(study, rows)
    for name, draw in drawings.items():
        try:
            figure = draw(study, rows)
            record.write_whole(directory / f"{name}.png", style.image(figure, "png"))
            figures[name] = base64.b64encode(style.image(figure, "svg")).decode()
        except Exception as error:  # whatever it is, the report must not be lost
            failures.append((f"{name}.png", f"not drawn: {type(error).__name__}: {error}"))
    pages = jinja2.PackageLoader("tsam_jax.train", "")
    environment = jinja2.Environment(
        loader=pages, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("page.html.jinja").render(
        statistics,
        study=study,
        rows=rows,
        table=table,
        figures=figures,
        problems=failures,
        looks=plots.looks(study, rows),
        commands=commands(study, rows),
    )
    record.write_whole(directory / "report.html", page.encode())
    return directory / "report.html"


def problems(study: Study, rows: Sequence[Row]) -> list[tuple[str, str]]:
    """What is missing, diverged or failed, as (setting, words)."""
    found = []
    for setting, own in table.by_setting(study, rows).items():
        done = {row["seed"] for row in own}
        missing = ", ".join(str(seed) for seed in study["seeds"] if seed not in done)
        words = [f"{missing} not finished"] if missing else []
        for row in own:
            if row["diverged"]:
                words.append(f"{row['seed']} diverged at {row['diverged']}")
            if row["flatness_error"]:
                words.append(f"{row['seed']}: flatness not measured: {row['flatness_error']}")
        found += [(setting, f"seed {text}") for text in words]
    return found


def commands(study: Study, rows: Sequence[Row]) -> list[str]:
    """The commands after a sweep: train the best setting of all, compare the best of each method.

    They have the flags of the sweep; there are none for another study, or if nothing is finished.
    """
    if not rows or study["kind"] != "sweep":
        return []
    chosen = table.choose(rows, study["metric"]).values()
    best = table.ranked(rows, study["metric"])[0][0]["setting"]
    recipe, flags = [study["recipe"]] if study["recipe"] else [], study["flags"]
    seeds = [] if "--seeds" in flags else ["--seeds", str(len(study["seeds"]))]
    return [
        shlex.join(["tsam-jax", "train", *recipe, "--method", best, *flags]),
        shlex.join(["tsam-jax", "compare", *recipe, "--methods", *chosen, *flags, *seeds]),
    ]


def _plain(line: Line) -> dict[str, Any]:
    numbers = {name: [*map(record.json_number, x)] for name, x in line.estimates.items()}
    return line._asdict() | {"estimates": numbers}
