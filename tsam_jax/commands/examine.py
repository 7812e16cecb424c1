"""`tsam-jax evaluate`, `analyze` and `landscape`: trained networks from their checkpoints."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Column, Table
from tyro.conf import Positional

from tsam_jax.commands import OUT, Command, default_directory, say
from tsam_jax.train import config
from tsam_jax.train.config import option

_MEASURES = {
    "loss": "at the parameters",
    "mean": "mean under noise of {rms:g} a coordinate",
    "variance": "its variance",
    "tilted_loss": "tilted, t = {tilt:g}",
    "t_sharpness": "its t-sharpness",
    "worst_case_sharpness": "worst rise within {rho:g}",
    "top_eigenvalues": "largest eigenvalues of the Hessian",
    "trace": "its trace",
}
"""Name in `analysis.report` -> words in the table."""

_CURVE = ("mean", "variance", "mean_se", "variance_se")  # as in `analysis.NeighbourhoodLoss`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(Command):
    """Evaluate a checkpoint; nothing is written."""

    checkpoint: Positional[Path] = option(
        dataclasses.MISSING,
        "Directory of a run, for its newest checkpoint; RUN/best for its best epoch on the"
        " validation part; RUN/checkpoints/STEP for one of them.",
    )
    part: Literal["train", "validation", "test"] = option("test", "Part of the data set.")

    def run(self, console: Console) -> int:
        """Prints the metrics; returns 0."""
        from tsam_jax.train.metrics import metric
        from tsam_jax.train.restore import restore

        run, epoch, weights = restore(self.checkpoint, (self.part,))
        found = run.program.measure(weights, run.start(), run.data)
        own = {name: x for name, x in sorted(found.items()) if name.startswith(f"{self.part}_")}
        words = [f"{metric(name).name} {metric(name).shown(x)}" for name, x in own.items()]
        say(console, f"epoch {epoch:g}\n{self.part}: {', '.join(words)}")
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Examination(Command):
    """Options of the commands that examine trained networks, each by its method `examine`."""

    checkpoints: Positional[tuple[Path, ...]] = option(
        dataclasses.MISSING,
        "Directories of runs; RUN/best for the best epoch on the validation part.",
    )
    examples: int = option(
        1000, "Training examples of the loss, the first ones; rounded down to 250s.", low=1
    )
    seed: int = option(0, "Seed of noise, probes and directions, the same for all networks.", low=0)
    out: Path | None = option(None, OUT)

    trajectory, file = False, ""

    def run(self: Any, console: Console) -> int:
        """Examines the networks, and writes a JSON file and plots; returns 0."""
        from tsam_jax.analysis import style
        from tsam_jax.train import record, restore

        directory = self.out or default_directory(type(self).__name__.lower())
        config.check_new(directory)
        networks = restore.load_several(self.checkpoints, self.examples, trajectory=self.trajectory)
        config.check_writable(directory)
        found, plots = self.examine(networks, console)
        for name, figure in plots.items():
            (directory / f"{name}.png").write_bytes(style.image(figure, "png"))
        record.write_json(directory / f"{self.file}.json", found | {"versions": record.versions()})
        say(console, f"Plots: {', '.join(str(directory / f'{name}.png') for name in plots)}")
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Analyze(_Examination):
    """Measure how flat trained networks are."""

    samples: int = option(50, "Noise draws at each size.", low=1)
    t: float = option(20.0, "Tilt of the tilted loss and of t-sharpness.", low=0)
    rho: float = option(0.1, "Radius of the worst case.", above=0)
    eigenvalues: int = option(5, "Largest Hessian eigenvalues to compute.", low=1)

    file = "analysis"

    def examine(self, networks: dict[str, Any], console: Console) -> tuple[Any, Any]:
        """Measures the networks, and prints a table; returns all measures and two plots."""
        import jax

        from tsam_jax import analysis
        from tsam_jax.analysis import figures

        key = jax.random.key(self.seed)
        options: dict[str, Any] = {"num_samples": self.samples, "num_eigenvalues": self.eigenvalues}
        models, spectra = dict[str, Any](), dict[str, analysis.Spectrum]()
        density = jax.jit(analysis.spectral_density, static_argnums=0)
        for place, (name, one) in enumerate(networks.items(), 1):
            part, own = f"[{place}/{len(networks)}] {name}", {name: (one.loss, one.params)}
            say(console, f"{part}: sharpness and Hessian")
            models |= analysis.report(own, key, t=self.t, rho=self.rho, **options)
            say(console, f"{part}: spectrum")
            spectra[name] = density(one.loss, one.params, jax.random.fold_in(key, 1))
        curves = {k: analysis.NeighbourhoodLoss(*map(row.get, _CURVE)) for k, row in models.items()}
        losses, rms = {k: row["loss"] for k, row in models.items()}, models[name]["rms"]
        sharpness = figures.sharpness_against_size(curves, rms, losses)
        examples = " or ".join(map(str, sorted({one.examples for one in networks.values()})))
        loss = f"of the first {examples} training examples, with the labels trained on"
        loss += ", in evaluation mode (BatchNorm by its running statistics)"
        console.print(_table(models))
        plots = {"sharpness": sharpness, "spectra": figures.spectra(spectra)}
        return {"models": models, "loss": loss}, plots


@dataclasses.dataclass(frozen=True, kw_only=True)
class Landscape(_Examination):
    """Plot the training loss around one network, between two, through three, or along training."""

    trajectory: bool = config.switch(
        "Plot the plane nearest to the checkpoints that the runs kept, with the trajectory from the"
        " initial parameters (train with --keep-checkpoints 50 --checkpoint-every 1)."
    )
    directions: Literal["filter", "random", "eigenvectors"] = option(
        "filter",
        "Directions around one network: random with the norms of its filters, plainly random, or"
        " the top two eigenvectors of the Hessian.",
    )
    points: int = option(21, "Points along each direction.", low=2)
    reach: float = option(
        1.0,
        "Extent to each side: in norms of filters or parameters; plain for eigenvectors.",
        above=0,
    )

    file = "landscape"

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        count = len(self.checkpoints)
        config.require(1 <= count <= 3, f"`CHECKPOINTS` must be one to three, got {count}.")

    def examine(self, networks: dict[str, Any], _: Console) -> tuple[Any, Any]:
        """Returns the losses of the slice, and its plot."""
        import jax
        import numpy as np

        from tsam_jax.analysis import slices

        shapes = {str(jax.tree.map(np.shape, one.params)) for one in networks.values()}
        alike = "`CHECKPOINTS` must have parameters of the same shapes to be on one line or plane."
        config.require(len(shapes) == 1, alike)
        losses = {name: one.loss for name, one in networks.items()}
        options: dict[str, Any] = {"points": self.points}
        draw: Any = [slices.around, slices.between, slices.through][len(networks) - 1]
        if self.trajectory:
            draw = slices.along
        elif len(networks) == 1:
            options |= {"key": jax.random.key(self.seed), "directions": self.directions}
            options["reach"] = self.reach
        places = [one.trajectory if self.trajectory else one.params for one in networks.values()]
        figure, data = draw(losses, dict(zip(networks, places, strict=True)), **options)
        plain = jax.tree.map(lambda x: np.asarray(x).tolist(), data)
        loss = "of the first network's training examples, with the labels trained on"
        return {"networks": list(networks), "loss": loss, **plain}, {"landscape": figure}


def _table(models: dict[str, dict[str, Any]]) -> Table:
    """The table of the measures, a column for each network."""
    columns = [Column("training loss", overflow="fold")]
    columns += [Column(name, justify="right", overflow="fold") for name in models]
    table = Table(*columns, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    first = next(iter(models.values()))
    for name, words in _MEASURES.items():
        shown = words.format(**first | {"rms": _middle(first["rms"])})
        table.add_row(shown, *(_shown(row, name) for row in models.values()))
    return table


def _shown(row: dict[str, Any], name: str) -> str:
    """A measure with its standard error, at the middle size of the noise; or all eigenvalues."""
    values = row[name] if name == "top_eigenvalues" else [_middle(row[name])]
    shown = "\n".join("not finite" if x is None else f"{x:.3g}" for x in values)
    error = _middle(row.get(f"{name}_se"))
    return shown if error is None else f"{shown} ± {error:.3g}"


def _middle(x: Any) -> Any:
    return x[len(x) // 2] if isinstance(x, list) else x
