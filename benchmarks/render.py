"""Tables and plots from the results: `python -m benchmarks render`; see README.md.

A Markdown file of the project takes a table between `<!-- benchmarks:TABLE-BACKEND -->` and
`<!-- end -->`, so that the numbers which it quotes are those of the committed JSON.
"""

import dataclasses
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.tables import TABLES
from benchmarks.targets import PARTS_OF_TARGETS, targets

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"<!-- benchmarks:([a-z-]+)-([a-z]+) -->\n(.*?)<!-- end -->", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Writes the tables into the project's Markdown files, and the plots beside the JSON."""

    results: Path = record.RESULTS
    check: bool = False
    """Write nothing; exit with an error if a file is not what would be written."""
    plots: bool = True
    """They need matplotlib."""


def run(settings: Settings) -> None:
    stale = []
    for page in pages():
        text = page.read_text()
        new = rendered(text, settings.results, page.parent)
        if new != text:
            stale.append(page.relative_to(ROOT))
            if not settings.check:
                page.write_text(new)
    record.say(
        f"{'Stale' if settings.check else 'Written'}: {', '.join(map(str, stale)) or 'none'}"
    )
    if settings.check and stale:
        raise SystemExit(1)
    if settings.plots and not settings.check:
        from benchmarks import plots  # matplotlib is optional

        for path in plots.draw_all(settings.results):
            record.say(f"Drawn: {path}")


def pages() -> list[Path]:
    """Returns the project's Markdown files that have tables."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    paths = (ROOT / line for line in sorted(done.stdout.splitlines()))
    return [path for path in paths if path.exists() and BLOCK.search(path.read_text())]


def rendered(text: str, results: Path = record.RESULTS, folder: Path = ROOT) -> str:
    """Returns the text with its tables made anew; `folder` is that of the page, for its links."""

    def block(match: re.Match[str]) -> str:
        name, backend = match.group(1), match.group(2)
        opening = f"<!-- benchmarks:{name}-{backend} -->"
        return f"{opening}\n{table(name, backend, results, folder)}\n<!-- end -->"

    return BLOCK.sub(block, text)


def table(name: str, backend: str, results: Path = record.RESULTS, folder: Path = ROOT) -> str:
    """Returns one table, and under it where its numbers come from."""
    if name == "targets":
        parts = [record.read(part, backend, results) for part in PARTS_OF_TARGETS]
        found = {warning for x in parts if x is not None for warning in warnings_of(x)}
        warning = f" Preliminary: {' and '.join(sorted(found))}." if found else ""
        return f"{targets(results, backend)}\n\n*Medians, from the tables below.{warning}*"
    if name not in TABLES:
        msg = f"A table is named targets, {', '.join(TABLES)}, got {name!r}."
        raise ValueError(msg)
    part, make = TABLES[name]
    found = record.read(part, backend, results)
    if found is None:
        return f"*Not measured on this backend: `python -m benchmarks {part}`.*"
    path = record.path_of(part, backend, results)
    return f"{make(found)}\n\n*{source(found, path, folder)}*"


def source(found: dict[str, Any], path: Path, folder: Path = ROOT) -> str:
    """Where numbers come from, and a warning if they are not to be relied on."""
    where = found["environment"]
    inside = path.is_relative_to(ROOT / "benchmarks")
    link = f"[{path.name}]({os.path.relpath(path, folder)})" if inside else path.name
    name = where["processor"] if where["backend"] == "cpu" else where["device_kind"]
    versions = where["versions"]
    shown = ("jax", "torch") if found["part"] == "torch" else ("jax",)
    parts = [link, f"{name}, {where['cores']} cores", where["date"]]
    parts += [f"{package} {versions[package]}" for package in shown if package in versions]
    commit = f"commit {(where['commit'] or 'unknown')[:9]}"
    parts.append(commit if where["clean_tree"] else f"{commit} with changes")
    if where["busy_elsewhere"] is not None:
        parts.append(f"others took {where['busy_elsewhere']:.0%} of the cores")
    warnings = warnings_of(found)
    warning = f" Preliminary: {' and '.join(warnings)}." if warnings else ""
    return f"{'; '.join(parts)}.{warning}"


def warnings_of(found: dict[str, Any]) -> list[str]:
    """Returns why not to rely on the numbers."""
    where = found["environment"]
    warnings = ["a quick run"] if found["settings"]["quick"] else []
    if (where["busy_elsewhere"] or 0.0) > 0.1:
        warnings.append("a busy machine")
    if "stopped" in found:
        warnings.append(found["stopped"])
    return warnings


def all_tables(results: Path, backend: str) -> str:
    names = [name for name, (part, _) in TABLES.items() if record.read(part, backend, results)]
    parts = [f"## {name}\n\n{table(name, backend, results)}" for name in [*names, "targets"]]
    return "\n\n".join(parts)
