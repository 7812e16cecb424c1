"""`tsam-jax analyze`: how flat trained networks are, side by side."""

import dataclasses
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Column, Table

from tsam_jax.commands import Examination, say
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
        plots = {"sharpness": sharpness, "spectra": figures.spectra(spectra)}
        for plot, drawn in plots.items():
            (directory / f"{plot}.png").write_bytes(style.image(drawn, "png"))
        examples = " or ".join(map(str, sorted({one.examples for one in networks.values()})))
        loss = f"of the first {examples} training examples, with the labels trained on"
        loss += ", in evaluation mode (BatchNorm by its running statistics)"
        found = {"models": models, "loss": loss, "versions": record.versions()}
        record.write_json(directory / "analysis.json", found)
        console.print(_table(models))
        say(console, f"Plots: {directory / 'sharpness.png'}, spectra.png beside it")
        return 0


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
