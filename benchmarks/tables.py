"""Markdown tables of the records: `python -m benchmarks render`.

A page takes a table between `<!-- benchmarks:TABLE-MACHINE -->` and `<!-- end -->`, MACHINE being
cpu, or gpu for all others: the numbers that it quotes are those of the committed JSON.
"""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from benchmarks.record import RESULTS, ROOT, Row

BLOCK = re.compile(r"<!-- benchmarks:([a-z]+)-(cpu|gpu) -->\n(.*?)<!-- end -->", re.DOTALL)
Lines = Iterator[dict[str, str]]  # a cell for each column


def number(x: float | None, digits: int = 3) -> str:
    """`digits` significant ones, without an exponent."""
    if x is None:
        return "-"
    rounded = float(f"{x:.{digits - 1}e}")
    return f"{rounded:,.0f}" if abs(rounded) >= 10 ** (digits - 1) else f"{rounded:.{digits}g}"


def ratio(x: float | None) -> str:
    return "-" if x is None else f"{x:.2f}" if x < 10 else f"{x:.0f}"


def spread(quartiles: Sequence[float] | None, most: float | None = None) -> str:
    """The median, bold where it is more than the target, the target, and the quartiles."""
    if not quartiles:
        return "-"
    low, middle, high = map(ratio, quartiles)
    if most is None:
        return f"{middle} ({low} to {high})"
    met = round(quartiles[1], 2) <= most
    return f"{middle if met else f'**{middle}**'} of {most:.1f} ({low} to {high})"


def megabytes(x: float | None) -> str:
    return number(x and x / 1e6)


def milliseconds(x: float | None) -> str:
    return number(x and 1e3 * x)


def step(row: Row) -> Lines:
    sam = next((x["compile_seconds"] for x in row["programs"] if x["method"] == "sam"), None)
    for x in row["programs"]:
        compiled = x["compile_seconds"]
        yield {
            "step": x["method"] + (' ("auto")' if x["method"] == row["auto"] else ""),
            "s": str(row["labels"]["s"]) if x["method"].startswith("tsam") else "",
            "ms": milliseconds(x["median"]) if x["seconds"] else x["outcome"],
            "over its gradients": spread(x["over_gradients"]),
            "compile, s": number(compiled, 2),
            "over SAM's": ratio(compiled / sam if compiled and sam else None),
            "planned MB": megabytes(x["total_bytes"]),
        }


def headline(row: Row) -> Lines:
    """SAM, and TSAM by "auto", in plain gradients: 2 and 2s are what their gradients cost."""
    of = {
        x["method"]: x["gradients"] * (x["over_gradients"] or [0] * 2)[1] for x in row["programs"]
    }
    yield {
        "a gradient": f"{milliseconds(row['programs'][0]['median'])} ms",
        "SAM": f"{number(of.get('sam'), 2)} gradients",
        f"TSAM, s = {row['labels']['s']}": f"{number(of.get(row['auto']), 2)} gradients",
    }


def torch(row: Row) -> Lines:
    model, medians = row["labels"]["model"], row["medians"]
    dense = any(x in model for x in ("mlp", "vit", "bert"))
    yield {
        "ours, ms": milliseconds(medians["step of ours"]),
        "PyTorch, ms": milliseconds(medians["step of torch"]),
        "step / PyTorch's": spread(row["step_over_torch"], 1.0 if dense else 1.2),
        "gradient / PyTorch's": spread(row["gradient_over_torch"], 1.3),
        "step / 2s gradients": spread(row["step_over_gradients"], 1.4 if "mlp" in model else 1.0),
        "PyTorch's": spread(row["torch_step_over_gradients"]),
        "gradients differ by": f"{row['gradient_difference']:.0e}",
        "updates by": f"{row['update_difference']:.0e}",
    }


def memory(row: Row) -> Lines:
    yield {
        "step": row["labels"]["method"],
        "s": str(row["labels"]["s"]),
        "planned MB": megabytes(row["planned_bytes"]),
        "in copies of the parameters": ratio(row["planned_bytes"] / row["parameter_bytes"]),
        "allocator's peak, MB": megabytes(row["peak_bytes"]),
    }


def sam(row: Row) -> Lines:
    for x in row["programs"]:
        yield {
            "by": x["by"],
            "ms": milliseconds(x["median"]),
            "over optax.contrib.sam": spread(x["over_optax"]),
            "updates differ by": f"{row['largest_difference']:.0e}",
        }


def devices(row: Row) -> Lines:
    for x in row["programs"]:
        yield {
            "over the devices": x["axis"],
            "devices": str(row["labels"]["devices"]),
            "GFLOP of each": number(x["flops"] / 1e9),
            "collectives": str(x["collectives"]),
            "MB in them": megabytes(x["collective_bytes"]),
            "planned MB of each": megabytes(x["total_bytes"]),
        }


def train(row: Row) -> Lines:
    for x in row["rows"]:
        tests = {k: v for k, v in x["final"].items() if k.startswith("test") and "loss" not in k}
        yield {
            "setting": f"`{x['setting']}`",
            "seed": str(x["seed"]),
            "epochs": str(x["epochs"]),
            "at the end": ", ".join(f"{k} {v:.4f}" for k, v in tests.items()),
            "seconds": number(x["seconds"]),
        }


TABLES: dict[str, Callable[[Row], Lines]] = {
    f.__name__: f for f in (step, headline, torch, memory, sam, devices, train)
}


def markdown(make: Callable[[Row], Lines], rows: list[Row]) -> str:
    """A line for each program of each row, or why a row has none."""
    lines: list[tuple[str, dict[str, str]]] = []
    done = [
        row
        for row in rows
        if row["outcome"] == "measured" or row.get("programs") or row.get("rows")
    ]
    for row in rows:
        labels = [str(x) for x in row["labels"].values() if not isinstance(x, list)][:3]
        name = ", ".join([f"`{labels[0]}`", *labels[1:]])
        lines += [(name, x) for x in (make(row) if row in done else [{"": row["outcome"]}])]
    columns = next((list(x) for _, x in lines if "" not in x), [""])
    cells = [[name, *(x.values()), *[""] * (len(columns) - len(x))] for name, x in lines]
    rule = ["---"] + ["---:"] * len(columns)
    return "\n".join(f"| {' | '.join(line)} |" for line in [["of", *columns], rule, *cells])


def table(kind: str, machine: str, results: Path = RESULTS, folder: Path = ROOT) -> str:
    """Returns one table for each record, and under it where its numbers come from."""
    part = "step" if kind == "headline" else kind
    paths = sorted(results.glob(f"{part}-*.json"))
    found = [
        (x, json.loads(x.read_text()))
        for x in paths
        if (x.stem.endswith("-cpu")) == (machine == "cpu")
    ]
    if not found:
        return f"*Not measured: `python -m benchmarks {part if machine == 'cpu' else 'gpu'}`.*"
    return "\n\n".join(
        f"{markdown(TABLES[kind], x['rows'])}\n\n*{source(x, path, folder)}*" for path, x in found
    )


def source(found: Row, path: Path, folder: Path = ROOT) -> str:
    """Where numbers come from, and a warning if they are not to be relied on."""
    where, rows = found["machine"], found["rows"]

    def all_of(values: Iterable[str]) -> str:
        return " and ".join(sorted(set(values)))

    kind = where["processor"] if where["backend"] == "cpu" else where["device_kind"]
    parts = [f"[{path.name}]({os.path.relpath(path, folder)})", f"{kind}, {where['cores']} cores"]
    parts.append(all_of(x["date"] for x in rows))
    packages = ("jax", "torch") if found["part"] == "torch" else ("jax",)
    parts += [f"{p} {all_of(x['versions'].get(p, 'none') for x in rows)}" for p in packages]
    commits = (x["commit"][:9] + " with changes" * (not x["clean_tree"]) for x in rows)
    busy = max(x["busy_elsewhere"] or 0.0 for x in rows)
    parts += [f"commit {all_of(commits)}", f"others took up to {busy:.0%} of the cores"]
    warnings = ["a small run"] * any(x["small"] for x in rows) + ["a busy machine"] * (busy > 0.1)
    return f"{'; '.join(parts)}.{f' Preliminary: {all_of(warnings)}.' if warnings else ''}"


def rendered(text: str, results: Path = RESULTS, folder: Path = ROOT) -> str:
    """Returns the text with its tables made anew; `folder` is that of the page, for its links."""

    def block(match: re.Match[str]) -> str:
        kind, machine = match.group(1), match.group(2)
        made = table(kind, machine, results, folder)
        return f"<!-- benchmarks:{kind}-{machine} -->\n{made}\n<!-- end -->"

    return BLOCK.sub(block, text)


def pages() -> list[Path]:
    """Returns the project's Markdown files that have tables."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    paths = (ROOT / line for line in sorted(done.stdout.splitlines()))
    return [path for path in paths if path.exists() and BLOCK.search(path.read_text())]


def render() -> None:
    """Writes the tables into the pages."""
    for page in pages():
        text = page.read_text()
        if (new := rendered(text, folder=page.parent)) != text:
            page.write_text(new)
            print(f"Written: {page.relative_to(ROOT)}")
