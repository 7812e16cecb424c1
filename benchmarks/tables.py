"""Results as Markdown tables: each takes the records of one part, and says what is in them."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

Record = dict[str, Any]
MISSING = "-"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(x: float | None, digits: int = 2) -> str:
    """`digits` significant ones, without an exponent."""
    if x is None:
        return MISSING
    rounded = float(f"{x:.{digits - 1}e}")
    return f"{rounded:,.0f}" if abs(rounded) >= 10 ** (digits - 1) else f"{rounded:.{digits}g}"


def ratio(x: float | None) -> str:
    return MISSING if x is None else f"{x:.2f}" if x < 10 else f"{x:.0f}"


def spread(quartiles: Sequence[float] | None) -> str:
    """The median, and the quartiles behind it."""
    if not quartiles:
        return MISSING
    low, middle, high = map(ratio, quartiles)
    return f"{middle} ({low} to {high})"


def milliseconds(row: Record) -> str:
    seconds = sorted(row.get("seconds") or ())
    if not seconds:
        return MISSING
    middle = (seconds[(len(seconds) - 1) // 2] + seconds[len(seconds) // 2]) / 2
    return number(1e3 * middle, 3)


def megabytes(x: float | None) -> str:
    return MISSING if x is None else number(x / 1e6, 3)


def cell_name(row: Record) -> str:
    return f"`{row['model']}`, {row['batch']}, {row['dtype']}"


def step(record: Record) -> str:
    """A row for each cell and s: the time of each strategy over that of as many gradients."""
    strategies = ("streamed", "unrolled", "vectorized")
    header = ["model, batch, dtype", "gradient, ms", "SAM", "s", *strategies]
    rows = []
    for cell in record["cells"]:
        if "failed" in cell:
            rows.append([cell_name(cell), cell["failed"], *[""] * 7])
            continue
        of = {(x["method"], x["s"], x["strategy"]): x for x in cell["measurements"]}
        samples = sorted({s for method, s, _ in of if method == "tsam"})
        sam = next((x for x in cell["measurements"] if x["method"] == "sam"), {})
        for s in samples:
            ratios = [of.get(("tsam", s, x), {}).get("ratio_quartiles") for x in strategies]
            if not any(ratios):
                continue
            auto = next(x for x in cell["auto"] if x["s"] == s)
            row = [cell_name(cell), milliseconds(cell["measurements"][0])]
            row += [spread(sam.get("ratio_quartiles")), str(s), *map(spread, ratios)]
            rows.append([*row, auto["auto"], ratio(auto["auto_over_best"])])
    return markdown([*header, '"auto" is', "and over the fastest"], rows)


def headline(record: Record) -> str:
    """A row for each model: a step of SAM, and of TSAM by "auto" with the first number of samples.

    In plain gradients: 2 for SAM and 2s for TSAM would be what their gradients cost.
    """
    s = record["settings"]["samples"][:1] or [3]
    header = ["model, batch, dtype", "a gradient", "SAM", f"TSAM, s = {s[0]}"]
    rows = []
    for cell in record["cells"]:
        auto = next((x["auto"] for x in cell.get("auto", ()) if x["s"] == s[0]), None)
        wanted = {"sam": ("sam", 1, "-"), "tsam": ("tsam", s[0], auto)}
        of = {(x["method"], x["s"], x["strategy"]): x for x in cell.get("measurements", ())}
        ratios = {name: of.get(key, {}).get("ratio_quartiles") for name, key in wanted.items()}
        if not all(ratios.values()):
            continue
        costs = (gradients * ratios[x][1] for x, gradients in (("sam", 2), ("tsam", 2 * s[0])))
        row = [cell_name(cell), f"{milliseconds(cell['measurements'][0])} ms"]
        rows.append([*row, *(f"{number(cost)} gradients" for cost in costs)])
    return markdown(header, rows)


def details(record: Record) -> str:
    """A row for each program of the part `step`."""
    header = ["model, batch, dtype", "step", "ms", "compile s", "CPU s", "planned MB"]
    header += ["over plain", "GFLOP", "MB moved", "TFLOP/s", "utilisation"]
    rows = []
    for cell in record["cells"]:
        for x in cell.get("measurements", ()):
            name = x["method"]
            name += f" s = {x['s']}, {x['strategy']}" if name == "tsam" else ""
            row = [cell_name(cell), name]
            if not x["seconds"]:
                rows.append([*row, x["outcome"], *[""] * 8])
                continue
            row += [milliseconds(x), number(x["compile_seconds"]), number(x["compile_cpu_seconds"])]
            row += [megabytes(x["total_bytes"]), ratio(x.get("memory_ratio"))]
            flops, moved = x["flops"], x["bytes_accessed"]
            row += [number(flops and flops / 1e9, 3), megabytes(moved), number(x["tflops"])]
            rows.append([*row, number(x["utilisation"])])
    return markdown(header, rows)


def torch(record: Record) -> str:
    header = ["model, batch, dtype", "parameters", "ours, ms", "PyTorch, ms", "its layout"]
    header += ["ours / PyTorch", "a plain gradient: ours / PyTorch", "updates differ by"]
    rows = []
    for x in record["measurements"]:
        if x["outcome"] != "measured":
            rows.append([cell_name(x), x["outcome"], *[""] * 6])
            continue
        ours, theirs = ({"seconds": x["seconds"][side]} for side in ("ours", "torch"))
        row = [cell_name(x), f"{x['parameters']:,}", milliseconds(ours), milliseconds(theirs)]
        difference = f"{x['update_difference']:.0e}"
        ratios = (spread(x[key]) for key in ("ratio_quartiles", "gradient_ratio_quartiles"))
        rows.append([*row, x["layout"], *ratios, difference])
    return markdown(header, rows)


def sam(record: Record) -> str:
    header = ["model, batch", "by", "ms", "over optax.contrib.sam", "updates differ by at most"]
    rows = []
    for x in record["measurements"]:
        row = [f"`{x['model']}`, {x['batch']}", x["by"], milliseconds(x), spread(x["over_optax"])]
        rows.append([*row, f"{x['largest_difference']:.0e}"])
    return markdown(header, rows)


def compilation(record: Record) -> str:
    header = ["model, s", "step", "seconds", "over SAM", "CPU seconds", "over SAM", "temp MB"]
    rows = []
    for x in record["measurements"]:
        name = f"tsam, {x['strategy']}" if x["method"] == "tsam" else x["method"]
        name += ' ("auto")' if x.get("auto") else ""
        row = [f"`{x['model']}`, {x['s']}", name, number(x["compile_seconds"])]
        row += [ratio(x["compile_seconds_over_sam"]), number(x["compile_cpu_seconds"])]
        rows.append([*row, ratio(x["compile_cpu_seconds_over_sam"]), megabytes(x["temp_bytes"])])
    return markdown(header, rows)


def memory(record: Record) -> str:
    header = ["model, batch, dtype", "step", "planned MB", "temp MB", "allocator's peak, MB"]
    header += ["process grew by, MB", "streamed, s = 16 over s = 1", "over SAM + a copy"]
    ratios = {x["model"]: x for x in record["ratios"]}
    rows = []
    for x in record["measurements"]:
        name = f"tsam s = {x['s']}, {x['strategy']}" if x["method"] == "tsam" else x["method"]
        row = [cell_name(x), name]
        if "failed" in x:
            rows.append([*row, x["failed"], *[""] * 5])
            continue
        keys = ("planned_bytes", "temp_bytes", "peak_bytes", "process_growth_bytes")
        row += [megabytes(x[key]) for key in keys]
        this = ratios[x["model"]] if (x["strategy"], x["s"]) == ("streamed", 16) else {}
        kind = "peak_bytes" if x["peak_bytes"] else "planned_bytes"
        row.append(ratio(this[f"{kind}_16_over_1"]) if this else "")
        rows.append([*row, ratio(this[f"{kind}_16_over_sam_and_copy"]) if this else ""])
    return markdown(header, rows)


def scaling_samples(record: Record) -> str:
    """A row for each s; a column for each model: the time, and the working memory."""
    found = [x for x in record["samples"] if x["method"] == "tsam"]
    models = list(dict.fromkeys(x["model"] for x in found))
    of = {(x["model"], x["s"]): x for x in found}
    header = ["s", *(f"`{m}`{what}" for m in models for what in ("", ", temp MB"))]
    rows = []
    for s in sorted({x["s"] for x in found}):
        row = [str(s)]
        for model in models:
            x = of[model, s]
            row += [spread(x["ratio_quartiles"]), megabytes(x["temp_bytes"])]
        rows.append(row)
    return markdown(header, rows)


def scaling_parameters(record: Record) -> str:
    header = ["parameters", "gradient, ms", "TSAM step, ms", "over its gradients", "temp MB"]
    header += ["in copies of the parameters"]
    rows = []
    found = record["parameters"]
    plain = {x["model"]: x for x in found if x.get("method") == "gradient"}
    for x in found:
        if x.get("method") == "gradient":
            continue
        if "parameters" not in x or not x["seconds"]:
            rows.append([f"{x['wanted']:,.0f}", x["outcome"], *[""] * 4])
            continue
        row = [f"{x['parameters']:,}", milliseconds(plain[x["model"]]), milliseconds(x)]
        copies = x["temp_bytes"] and x["temp_bytes"] / (4 * x["parameters"])
        row += [spread(x["ratio_quartiles"]), megabytes(x["temp_bytes"]), ratio(copies)]
        rows.append(row)
    return markdown(header, rows)


def devices(record: Record) -> str:
    header = ["model, s, batch", "over the devices", "devices", "GFLOP of each", "collectives"]
    header += ["MB in them", "planned MB of each", "ms"]
    rows = []
    for x in record["measurements"]:
        if "failed" in x:
            rows.append([f"`{x['model']}`", "", str(x["devices"]), x["failed"], *[""] * 4])
            continue
        row = [f"`{x['model']}`, {x['s']}, {x['batch']}", f"{x['axis']}", str(x["devices"])]
        row += [number(x["flops"] / 1e9, 3), str(x["collectives"])]
        row += [megabytes(x["collective_bytes"]), megabytes(x["total_bytes"]), milliseconds(x)]
        rows.append(row)
    return markdown(header, rows)


def dispatch(record: Record) -> str:
    header = ["model, batch", "method", "steps", "one dispatch each, ms a step"]
    header += ["all in one scan, ms a step", "scan / dispatches"]
    rows = []
    for x in record["measurements"]:
        row = [f"`{x['model']}`, {x['batch']}", x["method"], str(x["steps"])]
        row += [number(x[f"{form}_ms_a_step"], 3) for form in ("dispatched", "scanned")]
        rows.append([*row, spread(x["scanned_over_dispatched"])])
    return markdown(header, rows)


def methods(record: Record) -> str:
    header = ["method", "gradients a step", "counted", "loss values", "ms", "over a gradient"]
    header += ["over as many gradients"]
    rows = []
    for x in record["measurements"]:
        row = [f"`{x['method']}`", f"{x['gradients']:g}", f"{x.get('counted_gradients', 1):g}"]
        row += [f"{x.get('values', 0):g}", milliseconds(x), spread(x.get("over_plain"))]
        rows.append([*row, spread(x["ratio_quartiles"])])
    return markdown(header, rows)


def noise(record: Record) -> str:
    header = ["model", "noise", "over its gradients", "the same in CPU seconds"]
    header += ["CPU seconds to compile"]
    rows = [
        [
            f"`{x['model']}`",
            x["noise"],
            spread(x["ratio_quartiles"]),
            spread(x["cpu_ratio_quartiles"]),
            number(x["compile_cpu_seconds"]),
        ]
        for x in record["measurements"]
    ]
    return markdown(header, rows)


def convolution(record: Record) -> str:
    rows = [[name, spread(x)] for name, x in record["jax_over_tsam_jax"].items()]
    return markdown(["", "JAX's time over tsam_jax's"], rows)


def variance(record: Record) -> str:
    designs = ("antithetic", "orthogonal", "both")
    rows = [
        [problem, str(x["s"]), f"{x['tilt_times_spread']:g}"]
        + [f"{x['variance'][design]:.2f}" for design in designs]
        for problem, found in record["relative_to_plain"].items()
        for x in found
    ]
    return markdown(["loss", "s", "tilt times spread", *designs], rows)


# Name of a table -> the part that it is of, and what makes it.
TABLES: dict[str, tuple[str, Callable[[Record], str]]] = {
    "headline": ("step", headline),
    "step": ("step", step),
    "details": ("step", details),
    "torch": ("torch", torch),
    "sam": ("sam", sam),
    "compile": ("compile", compilation),
    "memory": ("memory", memory),
    "scaling-samples": ("scaling", scaling_samples),
    "scaling-parameters": ("scaling", scaling_parameters),
    "devices": ("devices", devices),
    "dispatch": ("dispatch", dispatch),
    "methods": ("methods", methods),
    "noise": ("noise", noise),
    "convolution": ("convolution", convolution),
    "variance": ("variance", variance),
}
