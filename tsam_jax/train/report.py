"""The report of a study: report.json, figures, and a page that stands alone."""

import base64
import shlex
from pathlib import Path
from typing import Any

import jinja2

from tsam_jax.analysis import style
from tsam_jax.train import plots, record
from tsam_jax.train.config import require
from tsam_jax.train.table import Line, Results

_PAGES = jinja2.Environment(loader=jinja2.PackageLoader("tsam_jax.train", ""), autoescape=True)


def write_report(directory: Path) -> Results:
    """Writes report.json, the figures and report.html, each as a whole, of a study so far.

    Returns:
      Its results: of the rows of all shards the last one of each setting and seed.

    Raises:
      ConfigError: if the directory has no study.
    """
    path = directory / "study.json"
    require(path.is_file(), f"{directory} is not the directory of a study: it has no {path.name}.")
    files = sorted(directory.glob("rows*.jsonl"))
    rows = {(row["setting"], row["seed"]): row for x in files for row in record.read_lines(x)}
    results, figures = Results(record.read_json(path), list(rows.values())), {}
    failures = problems(results)
    found = {"study": results.study, "rows": results.rows}
    found |= {x: [*map(_plain, getattr(results, x))] for x in ("summary", "differences")}
    record.write_json(directory / "report.json", found)
    # name -> whether it is drawn, and how; the most convincing one comes first
    drawings = {
        "heatmap": (results.sweep and plots.grids(results), plots.heat_map),
        "sharpness": (any(row["flatness"] for row in results.rows), plots.sharpness),
        "learning_curves": (True, plots.learning_curves),
    }
    for name, draw in ((name, draw) for name, (wanted, draw) in drawings.items() if wanted):
        try:
            figure = draw(results)
            record.write_whole(directory / f"{name}.png", style.image(figure, "png"))
            figures[name] = base64.b64encode(style.image(figure, "svg")).decode()
        except Exception as error:  # whatever it is, the report must not be lost
            failures.append((f"{name}.png", f"not drawn: {type(error).__name__}: {error}"))
    page = _PAGES.get_template("page.html.jinja").render(
        results=results, figures=figures, problems=failures, commands=commands(results)
    )
    record.write_whole(directory / "report.html", page.encode())
    return results


def problems(results: Results) -> list[tuple[str, str]]:
    """What is missing, diverged or failed, as (setting, words)."""
    found = []
    for setting, own in results.runs.items():
        missing = [str(x) for x in results.study["seeds"] if x not in {r["seed"] for r in own}]
        words = [f"{', '.join(missing)} not finished"] * bool(missing)
        for row in own:
            seed, diverged, error = row["seed"], row["diverged"], row["flatness_error"]
            words += [f"{seed} diverged at {diverged}"] * bool(diverged)
            words += [f"{seed}: flatness not measured: {error}"] * bool(error)
        found += [(setting, f"seed {text}") for text in words]
    return found


def commands(results: Results) -> list[str]:
    """The commands after a sweep: train the best setting of all, compare the best of each method.

    They have the flags of the sweep; there are none for another study, or if nothing is finished.
    """
    study, flags = results.study, results.study["flags"]
    recipe, seeds = [study["recipe"]] * bool(study["recipe"]), str(len(study["seeds"]))
    train = ["train", *recipe, "--method", results.summary[0].setting, *flags]
    compare = ["compare", *recipe, "--methods", *results.chosen, *flags, "--seeds", seeds]
    return [shlex.join(["tsam-jax", *x]) for x in (train, compare) if results.chosen]


def _plain(line: Line) -> dict[str, Any]:
    numbers = {name: [*map(record.json_number, x)] for name, x in line.estimates.items()}
    return line._asdict() | {"estimates": numbers}
