"""`tsam-jax toy`: the paper's figures of one-dimensional toy problems."""

import dataclasses
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from tsam_jax.commands import Command, say
from tsam_jax.train import config


@dataclasses.dataclass(frozen=True)
class Toy(Command):
    """Plot a toy figure of the paper."""

    figure: tyro.conf.Positional[Literal["fig1", "fig3", "fig4"]]
    """fig1: gradient descent on the tilted objective; fig3, fig4: objectives of SAM and of TSAM."""
    out: Path | None = config.option(None, "New file, .png, .pdf or .svg. Default: FIGURE.png.")

    def run(self, console: Console) -> int:
        """Plots the figure, and prints what differs from the printed one."""
        from tsam_jax.analysis import toys

        path = self.out or Path(f"{self.figure}.png")
        if path.suffix not in {".png", ".pdf", ".svg"} or path.exists():
            msg = f"`--out` must be a new .png, .pdf or .svg file, got {path}."
            raise config.ConfigError(msg)
        config.check_writable(path.parent)
        say(console, f"{toys.render(self.figure, path)}\nPlot: {path}")
        return 0
