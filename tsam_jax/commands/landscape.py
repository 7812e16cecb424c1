"""`tsam-jax landscape`: slices of the training loss around trained networks."""

import dataclasses
from typing import Any, Literal

from rich.console import Console

from tsam_jax.commands import Examination, say
from tsam_jax.train import config
from tsam_jax.train.config import option


@dataclasses.dataclass(frozen=True, kw_only=True)
class Landscape(Examination):
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

    def run(self, console: Console) -> int:
        """Plots the slice, and writes landscape.png and landscape.json."""
        import jax
        import numpy as np

        from tsam_jax.analysis import slices, style
        from tsam_jax.train import record

        count = len(self.checkpoints)
        config.require(1 <= count <= 3, f"`CHECKPOINTS` must be one to three, got {count}.")
        directory, networks = self.open("landscape", trajectory=self.trajectory)
        shapes = {str(jax.tree.map(np.shape, one.params)) for one in networks.values()}
        alike = "`CHECKPOINTS` must have parameters of the same shapes to be on one line or plane."
        config.require(len(shapes) == 1, alike)
        losses = {name: one.loss for name, one in networks.items()}
        options: dict[str, Any] = {"points": self.points}
        draw: Any = [slices.around, slices.between, slices.through][count - 1]
        if self.trajectory:
            draw = slices.along
        elif len(networks) == 1:
            options |= {"key": jax.random.key(self.seed), "directions": self.directions}
            options["reach"] = self.reach
        places = [one.trajectory if self.trajectory else one.params for one in networks.values()]
        figure, data = draw(losses, dict(zip(networks, places, strict=True)), **options)
        path = directory / "landscape.png"
        path.write_bytes(style.image(figure, "png"))
        plain = jax.tree.map(lambda x: np.asarray(x).tolist(), data)
        loss = "of the first network's training examples, with the labels trained on"
        found = {"networks": list(networks), "loss": loss, **plain, "versions": record.versions()}
        record.write_json(directory / "landscape.json", found)
        say(console, f"Plot: {path}")
        return 0
