"""What a step should cost, and whether it does: the rows of the table `targets`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import record
from benchmarks.tables import MISSING, markdown, ratio

PARTS_OF_TARGETS = ("step", "torch", "memory", "compile", "sam")

Found = list[tuple[str, float | None]]  # of what, and how much


class Target(NamedTuple):
    what: str
    most: float
    found: Found


def targets(results: Path, backend: str) -> str:
    """Returns the table of targets, and what was measured on this backend."""
    rows = []
    for what, most, found in all_of(results, backend):
        for of, value in found or [("", None)]:
            met = MISSING if value is None else "yes" if round(value, 2) <= most else "**no**"
            rows.append([what, of, f"{most:.2f}", ratio(value), met])
    return markdown(["target", "of", "at most", "measured", "met"], rows)


def all_of(results: Path, backend: str) -> Iterator[Target]:
    step, torch, memory, compilation, sam = (
        record.read(part, backend, results) or {} for part in PARTS_OF_TARGETS
    )
    gradients = "TSAM step, over its 2s gradients"
    auto = list(steps_of_auto(step))
    if backend == "cpu":
        dense = [(name, x) for name, x in auto if "mlp" in name]
        others = [(name, x) for name, x in auto if "mlp" not in name]
        yield Target(gradients, 1.0, others)
        yield Target(gradients, 1.5, dense)
        yield Target("the same step over eager PyTorch's", 1.0, torch_ratios(torch))
    else:
        yield Target(gradients, 1.03, auto)
        small, large = (torch_ratios(torch, lambda b, f=f: (b < 512) == f) for f in (True, False))
        yield Target("the same step over eager PyTorch's", 0.5, small)
        yield Target("the same step over eager PyTorch's", 0.8, large)
    ratios = memory.get("ratios", [])
    kind = "planned_bytes" if backend == "cpu" else "peak_bytes"
    for key, what, most in (
        ("16_over_1", "memory, streamed, s = 16 over s = 1", 1.1),
        ("16_over_sam_and_copy", "memory, streamed, s = 16 over SAM and a copy", 1.0),
    ):
        yield Target(what, most, [(f"`{x['model']}`", x.get(f"{kind}_{key}")) for x in ratios])
    for strategy, most in (("streamed", 1.5), ("unrolled", 4.0)):
        chosen = [
            (f"`{x['model']}`", x["compile_seconds_over_sam"])
            for x in compilation.get("measurements", [])
            if x.get("auto") and x["strategy"] == strategy
        ]
        yield Target(f'compile time of "auto", s = 5, {strategy}, over SAM', most, chosen)
    ours = [
        (f"`{x['model']}`, {x['by']}", x["over_optax"][1])
        for x in sam.get("measurements", [])
        if not x["by"].startswith("optax")
    ]
    yield Target("SAM step over optax.contrib.sam", 1.0, ours)
    slower = [
        (f"{named(cell)}, s = {x['s']}", x["auto_over_best"])
        for cell in step.get("cells", [])
        for x in cell.get("auto", [])
        if x["auto_over_best"] is not None and len(x["compared"]) > 1
    ]
    worst = [max(slower, key=lambda x: x[1])] if slower else []
    yield Target('"auto" over the fastest strategy, worst case', 1.1, worst)


def named(cell: dict[str, Any]) -> str:
    return f"`{cell['model']}`, {cell['batch']}, {cell['dtype']}"


def steps_of_auto(step: dict[str, Any]) -> Found:
    """The ratios of the steps at s = 3 by the strategy that "auto" picks."""
    return [
        (f"{named(cell)}, s = 3", x["ratio_quartiles"][1])
        for cell in step.get("cells", [])
        for auto in cell.get("auto", [])
        for x in cell["measurements"]
        if (x["method"], x["s"], x["strategy"]) == ("tsam", auto["s"], auto["auto"])
        and auto["s"] == 3
        and x["ratio_quartiles"]
    ]


def torch_ratios(torch: dict[str, Any], batch: Any = lambda _: True) -> Found:
    return [
        (named(x), x["ratio_quartiles"][1])
        for x in torch.get("measurements", [])
        if x["outcome"] == "measured" and batch(x["batch"])
    ]
