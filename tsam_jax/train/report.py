"""The report of a study: report.json, figures, and a page that stands alone."""

import base64
import json
import math
import os
import shlex
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from tsam_jax.analysis import style
from tsam_jax.train import plots, record, table
from tsam_jax.train.config import ConfigError
from tsam_jax.train.table import Line, Row, Study

_TITLES = {"compare": "Comparison of methods", "sweep": "Search for settings", "study": "Study"}
_CAPTIONS = {
    "sharpness": (
        "Training loss under random noise on the final parameters: mean rise E[L(θ+ε)] - L(θ) and"
        " variance Var[L(θ+ε)], mean and range of the seeds. Lower is flatter."
    ),
    "heatmap": (
        "Mean of the validation metric over the seeds, at the last epoch. The two axes are the"
        " arguments with the most values; a cell has the best value over all other arguments. The"
        " frame marks the chosen setting."
    ),
    "learning_curves": (
        "Learning curves over gradient evaluations per seed, mean and range of the seeds; in a"
        " sweep, of the best setting of each method. Training curves are on the labels trained on:"
        " with noisy labels, a high training accuracy means memorised noise."
    ),
}


def read_study(directory: Path) -> tuple[Study, list[Row]]:
    """Reads study.json and the rows of all shards.

    Args:
      directory: directory of a study, finished or not.

    Returns:
      The study, and its rows; of several with the same setting and seed the last one.

    Raises:
      ConfigError: if the directory has no study.
    """
    if not (directory / "study.json").is_file():
        msg = f"{directory} is not the directory of a study: it has no study.json."
        raise ConfigError(msg)
    study = json.loads((directory / "study.json").read_text())
    lines = [
        row for path in sorted(directory.glob("rows*.jsonl")) for row in record.read_lines(path)
    ]
    return study, list({(row["setting"], row["seed"]): row for row in lines}.values())


def write_report(directory: Path) -> Path:
    """Writes report.json, the figures and report.html; each file is replaced as a whole.

    Args:
      directory: directory of a study, finished or not.

    Returns:
      The path of report.html, which needs no other file.
    """
    study, rows = read_study(directory)
    lines = {"summary": table.summary(study, rows), "differences": table.differences(study, rows)}
    statistics = {name: [_plain(line) for line in these] for name, these in lines.items()}
    record.write_json(directory / "report.json", {"study": study, "rows": rows, **statistics})
    drawings = {"learning_curves": plots.learning_curves}  # the most convincing one comes first
    if any(row["flatness"] for row in rows):
        drawings = {"sharpness": plots.sharpness, **drawings}
    if study["kind"] == "sweep":
        drawings = {"heatmap": plots.heat_map, **drawings}
    figures, failures = [], []
    for name, draw in drawings.items():
        try:
            figure = draw(study, rows)
            _replace(directory / f"{name}.png", style.image(figure, "png"))
            drawn = base64.b64encode(style.image(figure, "svg")).decode()
        except Exception as error:  # whatever it is, the report must not be lost
            failures.append((f"{name}.png", f"not drawn: {type(error).__name__}: {error}"))
            continue
        figures.append((drawn, _CAPTIONS[name]))
    page = _page(study, rows, figures=figures, problems=problems(study, rows) + failures, **lines)
    _replace(directory / "report.html", page.encode())
    return directory / "report.html"


def problems(study: Study, rows: Sequence[Row]) -> list[tuple[str, str]]:
    """What is missing, diverged or failed, as (setting, words)."""
    found = []
    for setting, own in table.by_setting(study, rows).items():
        done = {row["seed"] for row in own}
        missing = [str(seed) for seed in study["seeds"] if seed not in done]
        if missing:
            found.append((setting, f"seed {', '.join(missing)} not finished"))
        for row in own:
            if row["diverged"]:
                found.append((setting, f"seed {row['seed']} diverged at {row['diverged']}"))
            if row["flatness_error"]:
                words = f"seed {row['seed']}: flatness not measured: {row['flatness_error']}"
                found.append((setting, words))
    return found


def commands(study: Study, rows: Sequence[Row]) -> list[str]:
    """The commands to go on with: train the best setting of all, compare the best of each method.

    Args:
      study: a sweep.
      rows: its finished settings and seeds.

    Returns:
      The commands, with the flags of the sweep; none if nothing is finished.
    """
    chosen = list(table.choose(rows, study["metric"]).values())
    if not chosen:
        return []
    best = table.ranked(rows, study["metric"])[0][0]["setting"]
    recipe, flags = [study["recipe"]] if study["recipe"] else [], study["flags"]
    seeds = [] if "--seeds" in flags else ["--seeds", str(len(study["seeds"]))]
    return [
        shlex.join(["tsam-jax", "train", *recipe, "--method", best, *flags]),
        shlex.join(["tsam-jax", "compare", *recipe, "--methods", *chosen, *flags, *seeds]),
    ]


def _page(study: Study, rows: Sequence[Row], **content: Any) -> str:
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    source = resources.files("tsam_jax.train").joinpath("page.html.jinja").read_text("utf-8")
    sweep = study["kind"] == "sweep"
    return environment.from_string(source).render(
        content,
        study=study,
        title=f"{_TITLES[study['kind']]} on {study['title_name']}",
        noise=f"{100 * study['label_noise']:.3g}\N{NO-BREAK SPACE}%" * bool(study["label_noise"]),
        verdict=table.verdict(study, rows),
        columns=table.columns(study, rows),
        compared=table.compared(study, rows),
        cells=table.cells,
        names=table.names(study, rows),
        looks=plots.looks(study, rows),
        chosen=list(table.choose(rows, study["metric"]).values()) if sweep else [],
        commands=commands(study, rows) if sweep else [],
        runs={row["setting"]: row for row in rows},
        asked=[row for row in study["resolved"] if row[2] not in {"default", "setting"}],
    )


def _plain(line: Line) -> dict[str, Any]:
    pairs = line.estimates.items()
    numbers = {name: [x if math.isfinite(x) else None for x in pair] for name, pair in pairs}
    return {**line._asdict(), "estimates": numbers}


def _replace(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
