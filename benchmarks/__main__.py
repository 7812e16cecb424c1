"""The command line: a list of measurements in order of worth, run until the time is spent.

A row is written when one ends. The next call skips what has a row, so any part of a list is of use.
"""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks import record, steps, tables

PARTS = ("step", "torch", "sam", "memory", "devices")
ON_GPU = ("resnet18", "wrn16-8", "vit-b16", "bert-base")
SMALL: dict[str, Any] = {"models": ("small-resnet",), "batches": (8,), "seconds": 3.0}
MODELS = ("plain-mlp", "vit-thin", "resnet14", "wrn10-2", "bert-6x384", "resnet18")
METHODS = ("sam", "tsam-streamed", "tsam-unrolled")


@dataclass(frozen=True)
class Settings:
    """Measure what a step costs, into JSON files. Options that a part lacks have no effect."""

    part: tyro.conf.Positional[Literal["all", *PARTS, "gpu", "render"]] = "all"
    """all: the parts in turn; gpu: the campaign for a GPU; render: the tables of the pages."""
    models: tuple[str, ...] = MODELS
    """Names of `tsam_jax.models` and of benchmarks/models.py."""
    batches: tuple[int, ...] = (64,)
    """Examples per batch."""
    dtypes: tuple[str, ...] = ("float32",)
    """Precision of the computation: float32, bfloat16."""
    samples: tuple[int, ...] = (3,)
    """Numbers of samples s."""
    methods: tuple[str, ...] = METHODS
    """Of `step`: names of `tsam_jax.methods`; tsam-KIND with a strategy or jax.random."""
    seconds: float = 60.0
    """Time per measurement, roughly."""
    minutes: float = 600.0
    """Time in all; the next call does what is left."""
    data: Path = Path("data")
    """Of `gpu`: folder with cifar10_jpeg.npz, glue and all-MiniLM-L6-v2."""
    small: bool = False
    """A rehearsal with a small model."""
    again: bool = False
    """Measure again what has a row."""
    results: Path | None = None
    """Folder of the JSON files. Default: benchmarks/results, or runs/benchmarks if small."""

    def cells(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields what to measure, in order: part, and labels that tell it apart in its part."""
        if self.part in {"all", "gpu"}:
            every = (replace(self, part=part).cells() for part in PARTS)
            yield from self._on_gpu() if self.part == "gpu" else itertools.chain(*every)
            return
        few = {"memory": 3, "devices": 1}.get(self.part) if self.models == MODELS else None
        lists: dict[str, Any] = {"model": self.models[:few], "batch": self.batches}
        lists |= {} if self.part in {"sam", "devices"} else {"dtype": self.dtypes}
        lists |= {} if self.part in {"sam", "memory", "devices"} else {"s": self.samples}
        more: list[dict[str, Any]] = [{}]
        if self.part == "step":
            more = [{"methods": list(self.methods)}]
        elif self.part == "devices":
            more = [{"s": 8, "devices": n} for n in ((2,) if self.small else (1, 2, 4, 8))]
        elif self.part == "memory":
            kinds = ("gradient", "sam", "tsam-streamed", "tsam-streamed", "tsam-unrolled")
            more = [{"s": s, "method": x} for s, x in zip((1, 1, 1, 16, 3), kinds, strict=True)]
        for *values, last in itertools.product(*lists.values(), more):
            yield self.part, dict(zip(lists, values, strict=True)) | last

    def _on_gpu(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Steps against gradients and PyTorch, memory in s, then the evidence's training runs."""
        pairs = [(64, "float32"), (64, "bfloat16"), (512, "bfloat16"), (512, "float32")]
        models = self.models if self.small else ON_GPU
        kinds = (*METHODS, "tsam-vectorized", "tsam-jax.random")
        for (batch, dtype), model, part in itertools.product(pairs, models, PARTS[:2]):
            what = {"models": (model,), "dtypes": (dtype,), "methods": kinds, "part": part}
            yield from replace(self, batches=(8 if self.small else batch,), **what).cells()
        yield from replace(self, part="memory", models=models[:: max(len(models) - 1, 1)]).cells()
        for i, study in itertools.product((1,) if self.small else range(1, 6), studies(self.data)):
            yield "train", {"study": study, "shard": f"{i}/5"}


def studies(data: Path) -> dict[str, str]:
    """The studies of the evidence, by name; a shard is one of five seeds."""
    images = f"--dataset npz:{data}/cifar10_jpeg.npz --model resnet18 --augmentation crop-flip"
    images += f" --evaluations 30 --precision bfloat16 {methods(30, 0.05, 0.006)}"
    text = f"--data-dir {data}/glue --pretrained {data}/all-MiniLM-L6-v2 --max-length 64"
    text += f" --evaluations 5 {methods(5, 0.01, 0.001)} --dataset glue:"
    found = {f"cifar10-resnet18-wrong{x}": f"{images} --label-noise {x}" for x in (0, 0.4, 0.2)}
    tasks = ("RTE", "MRPC", "CoLA", "STS-B", "SST-2 --train-size 5000")
    found |= {f"minilm-{x.split()[0]}": text + x for x in tasks}
    noisy = ((name, x) for x in (0.4, 0.2) for name in ("minilm-MRPC", "minilm-SST-2"))
    return found | {f"{name}-wrong{x}": f"{found[name]} --label-noise {x}" for name, x in noisy}


def methods(epochs: int, rho: float, rms: float) -> str:
    """All methods with equal epochs, then ERM and SAM with as many gradients as TSAM."""
    erm, sam, rsam = "erm(", f"sam(rho={rho},", f"rsam(rho={rho},gamma={rho / 5:g},"
    tilted = f"rho={2 * rho:g},s=3,noise=sphere(rms={rms}),"
    equal = [(erm, 1), (sam, 2), (rsam, 2), *((f"tsam(t={t},{tilted}", 6) for t in (5, 0, 20, 100))]
    words = [f"{start}budget={cost * epochs})" for start, cost in [*equal, (erm, 6), (sam, 6)]]
    return f"--seeds 5 --methods {' '.join(words)}"


REHEARSAL = "--dataset digits --epochs 1 --evaluations 1 --seeds 5 --methods erm"


def parse(arguments: list[str]) -> Settings:
    own = tyro.cli(Settings, args=arguments, prog="python -m benchmarks")
    folder = record.ROOT / "runs" / "benchmarks" if own.small else record.RESULTS
    return replace(own, results=own.results or folder, **(SMALL if own.small else {}))


def main(settings: Settings) -> None:
    if settings.part == "render":
        tables.render()
        return
    end, here = time.monotonic() + 60 * settings.minutes, record.provenance()
    machine = record.ask("record", {}, 300)
    if (outcome := machine.pop("outcome")) != "measured":
        raise SystemExit(outcome)
    todo = list(settings.cells())
    for i, (part, labels) in enumerate(todo):
        records = record.Records(part, machine, settings.results)
        start = time.monotonic()
        # A study goes on where it was stopped; others are not begun without time to end.
        enough = 30 if part == "train" else min(settings.seconds, 20 * settings.minutes)
        if end - start < enough or (not settings.again and records.done(labels, here)):
            continue
        named = " ".join(str(x) for x in labels.values() if not isinstance(x, list))
        print(f"{i + 1} of {len(todo)}: {part} {named}", flush=True)
        before = record.cpu_seconds()
        row = measure(part, labels, end - start, settings)
        total, others = (b - a for a, b in zip(before, record.cpu_seconds(), strict=True))
        busy, spent = others / max(total, 1e-9), round(time.monotonic() - start)
        print(f"  {row['outcome']}, {spent} s", flush=True)
        about = {"small": settings.small, "busy_elsewhere": round(busy, 3), "took_seconds": spent}
        records.add({"labels": labels, **row, **about, **here})


def measure(part: str, labels: dict[str, Any], left: float, settings: Settings) -> record.Row:
    """Returns what was measured, and at least the outcome; `left` are seconds."""
    if part == "train":
        words = REHEARSAL if settings.small else studies(settings.data)[labels["study"]]
        return train(words.split(), labels, left, settings.results / "studies")
    timeout = min(3 * settings.seconds + 180, left + 60)
    told = {**labels, "part": part, "seconds": settings.seconds, "timeout": timeout}
    virtual = f"--xla_force_host_platform_device_count={labels.get('devices')}"
    env = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": virtual} if part == "devices" else {}
    row = steps.torch(told) if part == "torch" else record.ask("steps", told, timeout, **env)
    cut_off = row["outcome"] == "failed: took too long" and timeout > left
    return row | {"outcome": "unfinished"} if cut_off else row


def train(words: list[str], labels: dict[str, Any], left: float, folder: Path) -> record.Row:
    """Runs a shard of a study, or resumes it; ends it as by Ctrl-C when the time is spent."""
    directory, shard = folder / labels["study"], labels["shard"]
    command = ["timeout", "--signal=INT", "--kill-after=60", f"{left:.0f}", sys.executable]
    command += ["-m", "tsam_jax.cli", "study", *words, "--shard", shard, "--out", str(directory)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    outcome = {0: "measured", 1: "measured"}.get(done.returncode, "unfinished")  # 1: diverged
    if done.returncode == 2:  # a mistake in the command, or data that are not there
        outcome = f"failed: {done.stderr.strip()[-300:]}"
    path = directory / f"rows-{shard.replace('/', '-of-')}.jsonl"
    rows = [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []
    kept = ("setting", "seed", "epochs", "gradient_evaluations", "seconds", "final", "best")
    rows = [{key: row[key] for key in kept} for row in rows]
    return {"outcome": outcome, "words": words, "rows": rows}


if __name__ == "__main__":
    main(parse(sys.argv[1:]))
