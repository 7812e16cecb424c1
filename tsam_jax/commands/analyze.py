"""`tsam-jax analyze`: how flat trained networks are, side by side."""

import dataclasses
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tsam_jax.commands import Examination, say
from tsam_jax.train.config import option


@dataclasses.dataclass(frozen=True, kw_only=True)
class Analyze(Examination):
    """Measure how flat trained networks are."""

    samples: int = option(50, "Noise draws at each size.", low=1)
    t: float = option(20.0, "Tilt of the tilted loss and of t-sharpness.", low=0)
    rho: float = option(0.1, "Radius of the worst case.", above=0)
    eigenvalues: int = option(5, "Largest Hessian eigenvalues to compute.", low=1)

    def run(self, console: Console) -> int:
        """Measures the networks, and writes analysis.json, sharpness.png and spectra.png."""
        import jax

        from tsam_jax import analysis
        from tsam_jax.analysis import figures, style
        from tsam_jax.train import record

        directory, networks = self.open("analyze")
        key = jax.random.key(self.seed)
        models: dict[str, Any] = {}
        spectra = {}
        options: dict[str, Any] = {"num_samples": self.samples, "num_eigenvalues": self.eigenvalues}
        density = jax.jit(analysis.spectral_density, static_argnums=0)
        for place, (name, one) in enumerate(networks.items(), 1):
            part, own = f"[{place}/{len(networks)}] {name}", {name: (one.loss, one.params)}
            say(console, f"{part}: sharpness and Hessian")
            models |= analysis.report(own, key, t=self.t, rho=self.rho, **options)
            say(console, f"{part}: spectrum")
            spectra[name] = density(one.loss, one.params, jax.random.fold_in(key, 1))
        plots = {"sharpness": _sharpness(models), "spectra": figures.spectra(spectra)}
        for plot, drawn in plots.items():
            (directory / f"{plot}.png").write_bytes(style.image(drawn, "png"))
        sizes = sorted({one.examples for one in networks.values()})
        found = {
            "models": models,
            "loss": f"of the first {' or '.join(map(str, sizes))} training examples, with the"
            " labels trained on, in evaluation mode (BatchNorm by its running statistics)",
            "versions": record.versions(),
        }
        record.write_json(directory / "analysis.json", found)
        console.print(_table(models))
        say(console, f"Plots: {directory / 'sharpness.png'}, spectra.png beside it")
        return 0


def _sharpness(models: dict[str, dict[str, Any]]) -> Any:
    """The plot of the loss over the size of the noise."""
    import jax.numpy as jnp

    from tsam_jax import analysis
    from tsam_jax.analysis import figures

    stored = ("mean", "variance", "mean_se", "variance_se")
    curves = {
        name: analysis.NeighbourhoodLoss(*(jnp.asarray(row[field], float) for field in stored))
        for name, row in models.items()
    }
    sizes = next(iter(models.values()))["rms"]
    losses = {name: row["loss"] for name, row in models.items()}
    return figures.sharpness_against_size(curves, sizes, losses)


def _table(models: dict[str, dict[str, Any]]) -> Table:
    """The table of the measures, a column for each network."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("training loss", overflow="fold")
    for name in models:
        table.add_column(name, justify="right", overflow="fold")
    first = next(iter(models.values()))
    middle = len(first["rms"]) // 2
    measures = {
        "loss": "at the parameters",
        "mean": f"mean under noise of {first['rms'][middle]:g} a coordinate",
        "variance": "its variance",
        "tilted_loss": f"tilted, t = {first['tilt']:g}",
        "t_sharpness": "its t-sharpness",
        "worst_case_sharpness": f"worst rise within {first['rho']:g}",
        "top_eigenvalues": "largest eigenvalues of the Hessian",
        "trace": "its trace",
    }
    for name, words in measures.items():
        table.add_row(words, *(_shown(row, name, middle) for row in models.values()))
    return table


def _shown(row: dict[str, Any], name: str, middle: int) -> str:
    """A measure with its standard error, at the middle size of the noise; or all eigenvalues."""
    value, error = row[name], row.get(f"{name}_se")
    if name == "top_eigenvalues":
        return "\n".join(map(_number, value))
    if isinstance(value, list):
        value, error = value[middle], error and error[middle]
    return _number(value) if error is None else f"{_number(value)} ± {_number(error)}"


def _number(x: float | None) -> str:
    return "not finite" if x is None else f"{x:.3g}"
