"""`tsam-jax analyze`: how flat trained networks are, side by side."""

import dataclasses
from pathlib import Path
from typing import Any

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from tsam_jax.commands import Command, help_, new_directory, say
from tsam_jax.train import config


@dataclasses.dataclass(frozen=True)
class Analyze(Command):
    """Measure how flat trained networks are."""

    checkpoints: tyro.conf.Positional[tuple[Path, ...]]
    """Directories of runs; RUN/best for the best epoch on the validation part."""
    examples: int = config.option(
        1000, "Training examples of the loss, the first ones; rounded down to 250s.", low=1
    )
    samples: int = config.option(50, "Noise draws at each size.", low=1)
    t: float = config.option(20.0, "Tilt of the tilted loss and of t-sharpness.", low=0)
    rho: float = config.option(0.1, "Radius of the worst case.", above=0)
    eigenvalues: int = config.option(5, "Largest Hessian eigenvalues to compute.", low=1)
    seed: int = config.option(0, "Seed of noise and probes, the same for all networks.", low=0)
    out: Path | None = help_("Directory of the results. Default: runs/analyze-DATE-TIME.")

    def run(self, console: Console) -> int:
        """Measures the networks, and writes analysis.json, sharpness.png and spectra.png."""
        import jax

        from tsam_jax import analysis
        from tsam_jax.analysis import figures, style
        from tsam_jax.train import record, restore

        directory = new_directory(self.out, "analyze")
        networks = restore.load_several(self.checkpoints, self.examples)
        config.check_writable(directory)
        key = jax.random.key(self.seed)
        models: dict[str, Any] = {}
        spectra = {}
        density = jax.jit(analysis.spectral_density, static_argnums=0)
        for place, (name, one) in enumerate(networks.items(), 1):
            say(console, f"[{place}/{len(networks)}] {name}: sharpness and Hessian")
            models |= analysis.report(
                {name: (one.loss, one.params)},
                key,
                t=self.t,
                rho=self.rho,
                num_samples=self.samples,
                num_eigenvalues=self.eigenvalues,
            )
            say(console, f"[{place}/{len(networks)}] {name}: spectrum")
            spectra[name] = density(one.loss, one.params, jax.random.fold_in(key, 1))
        for plot, drawn in (
            ("sharpness", _sharpness(models)),
            ("spectra", figures.spectra(spectra)),
        ):
            (directory / f"{plot}.png").write_bytes(style.image(drawn, "png"))
        count = sorted({one.examples for one in networks.values()})
        found = {
            "models": models,
            "loss": f"of the first {' or '.join(map(str, count))} training examples, with the"
            " labels trained on, in evaluation mode (BatchNorm by its running statistics)",
            "versions": record.versions(),
        }
        record.write_json(directory / "analysis.json", found)
        console.print(render(found))
        say(console, f"Plots: {directory / 'sharpness.png'}, spectra.png beside it")
        return 0


def _sharpness(models: dict[str, dict[str, Any]]) -> Any:
    """The plot of the loss over the size of the noise."""
    import jax.numpy as jnp

    from tsam_jax import analysis
    from tsam_jax.analysis import figures

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
    """The table of the measures, a column for each network."""
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
