"""`tsam-jax toy`: the paper's figures of one-dimensional toy problems."""

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from tsam_jax.analysis import toys
from tsam_jax.train import config


@dataclasses.dataclass(frozen=True)
class Toy:
    """Draw a toy figure of the paper."""

    figure: tyro.conf.Positional[Literal["fig1", "fig3", "fig4"]]
    """fig1: gradient descent on the tilted objective; fig3: the objective of SAM; fig4: that of
    TSAM."""
    out: Path | None = None
    """File to write, .png, .pdf or .svg; one that is there is not replaced. Default: FIGURE.png."""


def toy(command: Toy) -> tuple[Path, str]:
    """Draws the figure.

    Args:
      command: which figure, and where it goes.

    Returns:
      The file, and the caption: what is shown, and what differs from the printed figure.

    Raises:
      ConfigError: if the file is there already, cannot be written, or is of no known format.
    """
    path = command.out or Path(f"{command.figure}.png")
    if path.suffix not in {".png", ".pdf", ".svg"} or path.exists():
        msg = f"`--out` must be a new .png, .pdf or .svg file, got {path}."
        raise config.ConfigError(msg)
    config.check_writable(path.parent)
    return path, toys.render(command.figure, path)
