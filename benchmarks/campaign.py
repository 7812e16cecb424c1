"""The command line: lists of measurements in order of worth, run until the time is spent.

A row is written when a measurement ends, and what has a row is not measured again: any part of a
list is of use, and the next call goes on from there.
"""

import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks import against_torch, record, tables

PARTS = ("step", "torch", "sam", "memory", "devices")
ON_GPU = ("resnet18", "wrn16-8", "vit-b16", "bert-base")
SMALL: dict[str, Any] = {"models": ("small-resnet",), "batches": (8,), "seconds": 3.0}
MODELS = ("plain-mlp", "vit-thin", "resnet14", "wrn10-2", "bert-6x384", "resnet18")
METHODS = ("sam", "tsam-streamed", "tsam-unrolled")

Cell = tuple[str, dict[str, Any]]  # a part, and the labels that tell a measurement apart in it


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

    def cells(self) -> Iterator[Cell]:
        """Yields what to measure, in order."""
        if self.part == "gpu":
            yield from self._on_gpu()
        elif self.part == "all":
            for part in PARTS:
                yield from replace(self, part=part).cells()
        else:
            few = {"memory": 3, "devices": 1}.get(self.part) if self.models == MODELS else None
            lists: dict[str, Any] = {"model": self.models[:few], "batch": self.batches}
            if self.part not in {"sam", "devices"}:
                lists["dtype"] = self.dtypes
            if self.part not in {"sam", "memory"}:
                lists["s"] = self.samples
            for values in itertools.product(*lists.values()):
                for more in self._variants():
                    yield self.part, dict(zip(lists, values, strict=True)) | more

    def _variants(self) -> list[dict[str, Any]]:
        if self.part == "step":
            return [{"methods": list(self.methods)}]
        if self.part == "devices":
            return [{"devices": n} for n in ((2,) if self.small else (1, 2, 4, 8))]
        steps = [(1, "gradient"), (1, "sam"), (1, "tsam-streamed"), (16, "tsam-streamed")]
        steps += [(3, "tsam-unrolled")]
        return [{"s": s, "method": x} for s, x in steps] if self.part == "memory" else [{}]

    def _on_gpu(self) -> Iterator[Cell]:
        """Steps against gradients and PyTorch, memory in s, then the evidence's training runs."""
        pairs = [(64, "float32"), (64, "bfloat16"), (512, "bfloat16"), (512, "float32")]
        models = self.models if self.small else ON_GPU
        kinds = (*METHODS, "tsam-vectorized", "tsam-jax.random")
        for (batch, dtype), model, part in itertools.product(pairs, models, PARTS[:2]):
            what = {"models": (model,), "dtypes": (dtype,), "methods": kinds, "part": part}
            yield from replace(self, batches=(8 if self.small else batch,), **what).cells()
        yield from replace(
            self, part="memory", models=(models[0], models[-2 % len(models)])
        ).cells()
        for i, study in itertools.product(range(1, 6), studies(self.data)):
            yield "train", {"study": study, "shard": f"{i}/5"}


def studies(data: Path) -> dict[str, str]:
    """The studies of the evidence, by name; a shard is one of five seeds."""
    images = (
        f"--dataset npz:{data}/cifar10_jpeg.npz --model resnet18 --augmentation crop-flip"
        " --epochs 30 --evaluations 30 --batch-size 128 --base sgd --lr 0.1 --momentum 0.9"
        " --weight-decay 5e-4 --schedule cosine --precision bfloat16 --label-noise"
    )
    text = (
        f"--data-dir {data}/glue --pretrained {data}/all-MiniLM-L6-v2 --max-length 64 --epochs 5"
        " --evaluations 5 --batch-size 32 --base adamw --lr 5e-5 --schedule linear --dataset glue:"
    )
    found = {f"cifar10-resnet18-wrong{x}": f"{images} {x}" for x in (0, 0.4)}
    found |= {f"minilm-{x}": f"{text}{x}" for x in ("RTE", "MRPC", "CoLA", "STS-B", "SST-2")}
    methods = "erm sam(rho=0.1) rsam(rho=0.1,gamma=0.1) tsam(t=5,rho=0.1,s=3)"
    return {name: f"{words} --seeds 5 --methods {methods}" for name, words in found.items()}


REHEARSAL = "--dataset digits --epochs 1 --evaluations 1 --seeds 5 --methods erm"


def parse(arguments: list[str]) -> Settings:
    settings = tyro.cli(Settings, args=arguments, prog="python -m benchmarks")
    folder = record.ROOT / "runs" / "benchmarks" if settings.small else record.RESULTS
    less = SMALL if settings.small else {}
    return replace(settings, results=settings.results or folder, **less)


def main(settings: Settings) -> None:
    if settings.part == "render":
        tables.render()
        return
    end, here = time.monotonic() + 60 * settings.minutes, record.provenance()
    machine = record.ask("record", {}, timeout=300)
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
        spent = round(time.monotonic() - start)
        print(f"  {row['outcome']}, {spent} s", flush=True)
        busy = round(max(others, 0.0) / total, 3) if total else None
        about = {"small": settings.small, "busy_elsewhere": busy, "took_seconds": spent}
        records.add({"labels": labels, **row, **about, **here})


def measure(part: str, labels: dict[str, Any], left: float, settings: Settings) -> record.Row:
    """Returns what was measured, and at least the outcome; `left` are seconds."""
    if part == "train":
        words = REHEARSAL if settings.small else studies(settings.data)[labels["study"]]
        return train(words.split(), labels, left, settings.results / "studies")
    timeout = min(2 * settings.seconds + 120, left + 60)
    told = {**labels, "part": part, "seconds": settings.seconds, "timeout": timeout}
    if part == "torch":
        return against_torch.compare(told)
    env = {}
    if part == "devices":
        virtual = f"--xla_force_host_platform_device_count={labels['devices']}"
        env = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": virtual}
    row = record.ask("steps", told, timeout=timeout, **env)
    cut_off = row["outcome"] == "failed: took too long" and timeout > left
    return {**row, "outcome": "unfinished"} if cut_off else row


# A shell's job in the background ignores Ctrl-C, and so would a study that it started.
STUDY = """import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)
from tsam_jax.cli import main; sys.exit(main())"""


def train(words: list[str], labels: dict[str, Any], left: float, folder: Path) -> record.Row:
    """Runs a shard of a study, or resumes it; ends it as by Ctrl-C when the time is spent."""
    directory, shard = folder / labels["study"], labels["shard"]
    options = ["study", *words, "--shard", shard, "--out", str(directory)]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "errors.log").open("w+") as log:
        process = subprocess.Popen([sys.executable, "-c", STUDY, *options], stderr=log)
        for patience in (max(left, 1), 60):  # for the end of an epoch, and its checkpoint
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
        process.kill()
        outcome = {0: "measured", 1: "measured"}.get(process.wait(), "unfinished")  # 1: diverged
        log.seek(0)
        if process.returncode == 2:  # a mistake in the command, or data that are not there
            outcome = f"failed: {log.read().strip()[-300:]}"
    path = directory / f"rows-{shard.replace('/', '-of-')}.jsonl"
    rows = [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []
    kept = ("setting", "seed", "epochs", "gradient_evaluations", "seconds", "final", "best")
    rows = [{key: row[key] for key in kept} for row in rows]
    return {"outcome": outcome, "words": words, "rows": rows}
