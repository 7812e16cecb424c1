"""`tsam-jax analyze`: how flat trained networks are, side by side."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from rich import box
from rich.table import Table

from tsam_jax import analysis
from tsam_jax.analysis import figures
from tsam_jax.train import config, provenance
from tsam_jax.train.trained import load_several


@dataclasses.dataclass(frozen=True)
class Analyze:
    """Measure how flat trained networks are: a table, JSON and figures."""

    checkpoints: tyro.conf.Positional[tuple[Path, ...]]
    """Directories of runs, RUN/best for the best epoch by validation."""
    examples: int = 1000
    """Training examples of the loss, the first ones, with the labels trained on; a multiple of 250
    is used."""
    samples: int = 50
    """Draws of the noise at each size."""
    t: float = 20.0
    """Tilt of the tilted loss and of t-sharpness."""
    rho: float = 0.1
    """Radius of the worst case."""
    eigenvalues: int = 5
    """Largest eigenvalues of the Hessian."""
    seed: int = 0
    """Seed of the noise and the probes, the same for all networks."""
    out: Path | None = None
    """Directory of the results, new or empty. Default: runs/analyze-DATE-TIME."""

    def __post_init__(self) -> None:
        """Checks the values."""
        for name in ("examples", "samples", "eigenvalues"):
            if getattr(self, name) < 1:
                msg = f"`--{name}` must be >= 1, got {getattr(self, name)}."
                raise config.ConfigError(msg)
        if self.t < 0 or self.rho <= 0:
            msg = f"`--t` must be >= 0 and `--rho` > 0, got {self.t} and {self.rho}."
            raise config.ConfigError(msg)


def analyze(command: Analyze, directory: Path) -> dict[str, Any]:
    """Measures the networks, and writes analysis.json, sharpness.png and spectra.png.

    Args:
      command: what to measure.
      directory: where to write; made when the networks are loaded.

    Returns:
      The content of analysis.json: "models", name -> what `analysis.report` says of it; "loss", of
      what loss that is; "versions".

    Raises:
      ConfigError: if a checkpoint is missing or damaged.
    """
    networks = load_several(command.checkpoints, command.examples)
    config.check_writable(directory)
    key = jax.random.key(command.seed)
    models = analysis.report(
        {name: (one.loss, one.params) for name, one in networks.items()},
        key,
        t=command.t,
        rho=command.rho,
        num_samples=command.samples,
        num_eigenvalues=command.eigenvalues,
    )
    density = jax.jit(analysis.spectral_density, static_argnums=0)
    spectra = {
        name: density(one.loss, one.params, jax.random.fold_in(key, 1))
        for name, one in networks.items()
    }
    _sharpness(models).savefig(directory / "sharpness.png")
    figures.spectra(spectra).savefig(directory / "spectra.png")
    count = {one.examples for one in networks.values()}
    found = {
        "models": models,
        "loss": "of the first {} training examples, with the labels trained on, in evaluation mode"
        " (BatchNorm by its running statistics)".format(" or ".join(map(str, sorted(count)))),
        "versions": provenance.versions(),
    }
    provenance.write_json(directory / "analysis.json", found)
    return found


def _sharpness(models: dict[str, dict[str, Any]]) -> Any:
    """The figure of the loss over the size of the noise."""
    fields = ("mean", "standard_error", "variance", "variance_standard_error")
    stored = ("mean", "mean_se", "variance", "variance_se")
    curves = {
        name: analysis.NeighbourhoodLoss(**{
            field: jnp.asarray(row[of], float) for field, of in zip(fields, stored, strict=True)
        })
        for name, row in models.items()
    }
    sizes = next(iter(models.values()))["rms"]
    losses = {name: row["loss"] for name, row in models.items()}
    return figures.sharpness_against_size(curves, sizes, losses)


def render(found: dict[str, Any]) -> Table:
    """The table of the measures, a column for each network.

    Args:
      found: what `analyze` returned.

    Returns:
      The table.
    """
    models = found["models"]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("training loss", overflow="fold")
    for name in models:
        table.add_column(name, justify="right", overflow="fold")
    first = next(iter(models.values()))
    middle = len(first["rms"]) // 2
    size = f"{first['rms'][middle]:g}"
    lines = {
        "at the parameters": lambda row: _number(row["loss"]),
        f"mean under noise of {size} a coordinate": lambda row: _with_error(row, "mean", middle),
        "its variance": lambda row: _with_error(row, "variance", middle),
        f"tilted, t = {first['tilt']:g}": lambda row: _with_error(row, "tilted_loss", middle),
        "its t-sharpness": lambda row: _with_error(row, "t_sharpness", middle),
        f"worst rise within {first['rho']:g}": lambda row: _number(row["worst_case_sharpness"]),
        "largest eigenvalues of the Hessian": lambda row: "\n".join(
            map(_number, row["top_eigenvalues"])
        ),
        "its trace": lambda row: f"{_number(row['trace'])} ± {_number(row['trace_se'])}",
    }
    for line, value in lines.items():
        table.add_row(line, *map(value, models.values()))
    return table


def _with_error(row: dict[str, Any], field: str, place: int) -> str:
    return f"{_number(row[field][place])} ± {_number(row[f'{field}_se'][place])}"


def _number(x: float | None) -> str:
    return "not finite" if x is None else f"{x:.3g}"
