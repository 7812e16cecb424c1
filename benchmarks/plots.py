"""Plots of the results, beside the JSON: colours that the colour-blind tell apart."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.ticker

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks import record

Record = dict[str, Any]

# Okabe and Ito's.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
STRATEGIES = ("streamed", "unrolled", "vectorized")


def draw_all(results: Path) -> Iterator[Path]:
    """Draws each plot whose numbers are there; yields the files."""
    for name, (part, draw) in PLOTS.items():
        for path in sorted(results.glob(f"{part}-*.json")):
            backend = path.stem.removeprefix(f"{part}-")
            if (found := record.read(part, backend, results)) is None:
                continue
            figure = draw(found)
            where = found["environment"]
            device = where["processor"] if backend == "cpu" else where["device_kind"]
            figure.supxlabel(
                f"{device}, {where['cores']} cores, jax {where['versions']['jax']},"
                f" {where['date']}",
                fontsize=7,
                color="#555555",
            )
            target = results / f"{name}-{backend}.png"
            # No versions in the file: the same numbers make the same bytes.
            figure.savefig(target, dpi=150, metadata={"Software": None})
            plt.close(figure)
            yield target


def line_at_one(ax: Axes, label: str, *, horizontal: bool) -> None:
    draw = ax.axhline if horizontal else ax.axvline
    draw(1.0, color="#555555", linewidth=1, linestyle="--", zorder=0, label=label)


def with_quartiles(
    ax: Axes, xs: list, ratios: list, i: int, label: str, *, flat: bool = False
) -> None:
    """Draws medians and the span of the quartiles: upwards, or to the right if `flat`."""
    low, middle, high = zip(*ratios, strict=True)
    error = [[m - a for m, a in zip(middle, low, strict=True)]]
    error.append([b - m for m, b in zip(middle, high, strict=True)])
    style = {"color": COLOURS[i], "marker": MARKERS[i], "label": label, "capsize": 2}
    if flat:
        ax.errorbar(middle, xs, xerr=error, linestyle="", **style)
    else:
        ax.errorbar(xs, middle, yerr=error, **style)


def step(found: Record) -> plt.Figure:
    """A row for each model and s; a mark for each strategy."""
    rows: list[tuple[str, dict[str, list[float]]]] = []
    for cell in found["cells"]:
        tilted = [x for x in cell.get("measurements", ()) if x["method"] == "tsam"]
        for s in sorted({x["s"] for x in tilted}):
            ratios = {x["strategy"]: x["ratio_quartiles"] for x in tilted if x["s"] == s}
            if any(ratios.values()):
                name = f"{cell['model']}, {cell['batch']}, {cell['dtype']}"
                rows.append((f"{name}, s = {s}", ratios))
    figure, ax = plt.subplots(figsize=(7.5, 1.3 + 0.27 * len(rows)), layout="constrained")
    for i, strategy in enumerate(STRATEGIES):
        at = [(y, r[strategy]) for y, (_, r) in enumerate(rows) if r.get(strategy)]
        if at:
            ys = [y + 0.2 * (i - 1) for y, _ in at]
            with_quartiles(ax, ys, [r for _, r in at], i, strategy, flat=True)
    line_at_one(ax, "as many plain gradients", horizontal=False)
    ax.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=8)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    logarithmic(ax, "x")
    ax.set_xlabel("time of a TSAM step over its 2s plain gradients: median and quartiles")
    place_legend_above(ax)
    return figure


def logarithmic(ax: Axes, axis: str) -> None:
    """A logarithmic axis with ticks that one can read."""
    getattr(ax, f"set_{axis}scale")("log")
    at = getattr(ax, f"{axis}axis")
    at.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
    at.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    at.set_minor_formatter(mpl.ticker.NullFormatter())


def place_legend_above(ax: Axes, columns: int = 4) -> None:
    place = {"loc": "lower left", "bbox_to_anchor": (-0.1, 1), "borderpad": 0.2}
    ax.legend(fontsize=8, ncols=columns, frameon=False, columnspacing=1.2, **place)


def torch(found: Record) -> plt.Figure:
    rows = [x for x in found["measurements"] if x["outcome"] == "measured"]
    figure, ax = plt.subplots(figsize=(7.5, 1.5 + 0.35 * len(rows)), layout="constrained")
    for i, (key, name) in enumerate((
        ("ratio_quartiles", "ours, a step"),
        ("gradient_ratio_quartiles", "ours, a gradient"),
    )):
        places = [place + 0.2 * i for place in range(len(rows))]
        with_quartiles(ax, places, [x[key] for x in rows], i, name, flat=True)
    line_at_one(ax, "eager PyTorch", horizontal=False)
    names = [f"{x['model']}, {x['batch']}, {x['dtype']}" for x in rows]
    ax.set_yticks(range(len(rows)), names, fontsize=8)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlim(left=0)
    ax.set_xlabel("time of a training step, s = 3, and of a plain gradient, over PyTorch's")
    place_legend_above(ax)
    return figure


def scaling(found: Record) -> plt.Figure:
    figure, (time, memory, size) = plt.subplots(1, 3, figsize=(10.5, 3.6), layout="constrained")
    tilted = [x for x in found["samples"] if x["method"] == "tsam"]
    for i, model in enumerate(dict.fromkeys(x["model"] for x in tilted)):
        timed = [x for x in tilted if x["model"] == model and x["ratio_quartiles"]]
        if timed:
            ratios = [x["ratio_quartiles"] for x in timed]
            with_quartiles(time, [x["s"] for x in timed], ratios, i, model)
        planned = [x for x in tilted if x["model"] == model and x["temp_bytes"]]
        megabytes = [x["temp_bytes"] / 1e6 for x in planned]
        memory.plot(
            [x["s"] for x in planned], megabytes, color=COLOURS[i], marker=MARKERS[i], label=model
        )
    line_at_one(time, "2s plain gradients", horizontal=True)
    for ax in (time, memory):
        logarithmic(ax, "x")
        ax.xaxis.set_major_locator(mpl.ticker.LogLocator(base=2, numticks=8))
        ax.set_xlabel("samples s")
    time.set_ylim(bottom=0)
    time.set_ylabel("time over 2s plain gradients")
    time.legend(fontsize=7)
    logarithmic(memory, "y")
    low, high = memory.get_ylim()
    memory.set_ylim(low / 2, high * 2)
    memory.set_ylabel("working memory, MB")
    grown = [x for x in found["parameters"] if x.get("method") == "tsam" and x["ratio_quartiles"]]
    if grown:
        xs = [x["parameters"] for x in grown]
        with_quartiles(size, xs, [x["ratio_quartiles"] for x in grown], 0, "MLP, s = 3")
    line_at_one(size, "2s plain gradients", horizontal=True)
    size.set_xscale("log")
    size.set_ylim(bottom=0)
    size.set_xlabel("parameters")
    size.set_ylabel("time over 2s plain gradients")
    size.legend(fontsize=7)
    return figure


def memory(found: Record) -> plt.Figure:
    """A row for each model; a mark for each step, in copies of the parameters."""
    rows = [x for x in found["measurements"] if "failed" not in x]
    models = list(dict.fromkeys(x["model"] for x in rows))
    kinds: dict[str, list[Record]] = {}
    for x in rows:
        name = f"s = {x['s']}, {x['strategy']}" if x["method"] == "tsam" else x["method"]
        kinds.setdefault(name, []).append(x)
    figure, ax = plt.subplots(figsize=(7.5, 1.5 + 0.45 * len(models)), layout="constrained")
    for i, (kind, of) in enumerate(kinds.items()):
        copies = [x["planned_bytes"] / x["parameter_bytes"] for x in of]
        ys = [models.index(x["model"]) + 0.14 * (i - 2) for x in of]
        ax.plot(copies, ys, color=COLOURS[i], marker=MARKERS[i], linestyle="", label=kind)
    ax.set_yticks(range(len(models)), models, fontsize=8)
    ax.set_ylim(len(models) - 0.5, -0.5)
    ax.grid(axis="x", color="#dddddd", linewidth=0.5)
    logarithmic(ax, "x")
    ax.set_xlabel("planned memory, in copies of the parameters")
    place_legend_above(ax, columns=5)
    return figure


# Name of a plot -> the part that it is of, and what draws it.
PLOTS: dict[str, tuple[str, Callable[[Record], plt.Figure]]] = {
    "step": ("step", step),
    "torch": ("torch", torch),
    "scaling": ("scaling", scaling),
    "memory": ("memory", memory),
}
