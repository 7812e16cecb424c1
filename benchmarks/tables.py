"""Markdown tables of the records, which pages take between comments; see README.md."""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.record import RESULTS, ROOT, Row

BLOCK = re.compile(r"(<!-- benchmarks:([a-z]+)-(cpu|gpu) -->)\n.*?<!-- end -->", re.DOTALL)
Lines = Iterator[dict[str, str]]  # a cell for each column


def number(x: float | None, scale: float = 1.0, digits: int = 3) -> str:
    """`digits` significant ones, without an exponent."""
    if x is None:
        return "-"
    rounded = float(f"{scale * x:.{digits - 1}e}")
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


MS, MB, GFLOP = 1e3, 1e-6, 1e-9


def step(row: Row) -> Lines:
    sam = next((x["compile_seconds"] for x in row["programs"] if x["method"] == "sam"), None)
    for x in row["programs"]:
        compiled = x["compile_seconds"]
        yield {
            "step": x["method"] + (' ("auto")' if x["method"] == row["auto"] else ""),
            "s": str(row["labels"]["s"]) if x["method"].startswith("tsam") else "",
            "ms": number(x["median"], MS) if x["seconds"] else x["outcome"],
            "over its gradients": spread(x["over_gradients"]),
            "compile, s": number(compiled, digits=2),
            "compile / SAM's": ratio(compiled / sam if compiled and sam else None),
            "planned MB": number(x["total_bytes"], MB),
        }


def headline(row: Row) -> Lines:
    """SAM, and TSAM by "auto", in plain gradients: 2 and 2s are what their gradients cost."""
    line = {"a gradient": f"{number(row['programs'][0]['median'], MS)} ms"}
    names = {"sam": "SAM", row["auto"]: f"TSAM, s = {row['labels']['s']}"}
    for x in row["programs"]:
        if x["method"] in names and x["over_gradients"]:
            cost = x["gradients"] * x["over_gradients"][1]
            line[names[x["method"]]] = f"{number(cost, digits=2)} gradients"
    yield line


def torch(row: Row) -> Lines:
    model, medians = row["labels"]["model"], row["medians"]
    dense = any(x in model for x in ("mlp", "vit", "bert"))
    yield {
        "ours, ms": number(medians["step of ours"], MS),
        "PyTorch, ms": number(medians["step of torch"], MS),
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
        "planned MB": number(row["planned_bytes"], MB),
        "in copies of the parameters": ratio(row["planned_bytes"] / row["parameter_bytes"]),
        "allocator's peak, MB": number(row["peak_bytes"], MB),
    }


def sam(row: Row) -> Lines:
    for x in row["programs"]:
        yield {
            "by": x["by"],
            "ms": number(x["median"], MS),
            "over optax.contrib.sam": spread(x["over_optax"]),
            "updates differ by": f"{row['difference']:.0e}",
        }


def devices(row: Row) -> Lines:
    for x in row["programs"]:
        yield {
            "over the devices": x["axis"],
            "devices": str(row["labels"]["devices"]),
            "GFLOP of each": number(x["flops"], GFLOP),
            "collectives": str(x["collectives"]),
            "planned MB of each": number(x["total_bytes"], MB),
        }


def train(row: Row) -> Lines:
    for x in row["rows"]:
        tests = (f"{k} {v:.4f}" for k, v in x["final"].items() if k.startswith("test"))
        line = {"setting": f"`{x['setting']}`", "seed": str(x["seed"]), "epochs": str(x["epochs"])}
        yield line | {"at the end": ", ".join(tests), "seconds": number(x["seconds"])}


TABLES = {f.__name__: f for f in (step, headline, torch, memory, sam, devices, train)}


def markdown(make: Callable[[Row], Lines], rows: list[Row]) -> str:
    """A line for each program of each row, or why a row has none."""
    lines: list[tuple[str, dict[str, str]]] = []
    done = [x for x in rows if x["outcome"] == "measured" or "programs" in x or x.get("rows")]
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
    paths = [path for path in paths if path.stem.endswith("-cpu") == (machine == "cpu")]
    found = [(path, json.loads(path.read_text())) for path in paths]
    if not found:
        return f"*Not measured: `python -m benchmarks {part if machine == 'cpu' else 'gpu'}`.*"
    texts = ((markdown(TABLES[kind], x["rows"]), source(x, path, folder)) for path, x in found)
    return "\n\n".join(f"{lines}\n\n*{where}*" for lines, where in texts)


def source(found: Row, path: Path, folder: Path = ROOT) -> str:
    """Where numbers come from, and a warning if they are not to be relied on."""
    where, rows = found["machine"], found["rows"]
    all_of = lambda values: " and ".join(sorted(set(values)))  # noqa: E731
    kind = where["processor"] if where["backend"] == "cpu" else where["device_kind"]
    packages = ("jax", "torch") if found["part"] == "torch" else ("jax",)
    parts = [f"[{path.name}]({os.path.relpath(path, folder)})", f"{kind}, {where['cores']} cores"]
    parts += [all_of(x["date"] for x in rows)]
    parts += [f"{p} {all_of(x['versions'].get(p, 'none') for x in rows)}" for p in packages]
    commits = (x["commit"][:9] + " with changes" * (not x["clean_tree"]) for x in rows)
    busy = max(x["busy_elsewhere"] for x in rows)
    parts += [f"commit {all_of(commits)}", f"others took up to {busy:.0%} of the cores"]
    warnings = ["a small run"] * any(x["small"] for x in rows) + ["a busy machine"] * (busy > 0.1)
    return f"{'; '.join(parts)}.{f' Preliminary: {all_of(warnings)}.' if warnings else ''}"


def rendered(text: str, results: Path = RESULTS, folder: Path = ROOT) -> str:
    """Returns the text with its tables made anew; `folder` is that of the page, for its links."""
    parts = BLOCK.split(text)
    for i in range(1, len(parts), 4):
        opening, kind, machine = parts[i : i + 3]
        made = table(kind, machine, results, folder)
        parts[i : i + 3] = [f"{opening}\n{made}", "", "\n<!-- end -->"]
    return "".join(parts)


def pages() -> list[Path]:
    """Returns the project's Markdown files that have tables."""
    found = subprocess.check_output(["git", "ls-files", "*.md"], cwd=ROOT, text=True).splitlines()
    return [ROOT / x for x in found if (ROOT / x).exists() and BLOCK.search((ROOT / x).read_text())]


def render() -> None:
    """Writes the tables into the pages."""
    for page in pages():
        page.write_text(rendered(page.read_text(), folder=page.parent))
