"""`tsam-jax landscape`: slices of the loss around, and between, trained networks."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from tsam_jax import analysis
from tsam_jax.analysis import figures
from tsam_jax.train import config, provenance
from tsam_jax.train.trained import Trained, load_several, load_trajectory


@dataclasses.dataclass(frozen=True)
class Landscape:
    """Draw the training loss around one network, between two, through three, or along training."""

    checkpoints: tyro.conf.Positional[tuple[Path, ...]]
    """One, two or three directories of runs, RUN/best for the best epoch by validation; two and
    three of one architecture."""
    trajectory: bool = False
    """Whether the plane is the one nearest to the checkpoints that the runs kept (`tsam-jax train
    --keep-checkpoints 50 --checkpoint-every 1`), with the way from the initial parameters through
    them; CHECKPOINTS are then one to three directories of runs."""
    directions: Literal["filter", "random", "eigenvectors"] = "filter"
    """Of the plane around one network: random ones with the norms of its filters, plainly random
    ones of its own norm, or the top two eigenvectors of the Hessian."""
    points: int = 21
    """Points along each direction."""
    reach: float = 1.0
    """How far the plane around one network goes to each side: in norms of the filters or of the
    parameters, or for eigenvectors in units of the parameters."""
    examples: int = 1000
    """Training examples of the loss, the first ones, with the labels trained on; a multiple of 250
    is used."""
    seed: int = 0
    """Seed of the directions."""
    out: Path | None = None
    """Directory of the results, new or empty. Default: runs/landscape-DATE-TIME."""

    def __post_init__(self) -> None:
        """Checks the values."""
        if not 1 <= len(self.checkpoints) <= 3:
            msg = f"`CHECKPOINTS` must be one to three, got {len(self.checkpoints)}."
            raise config.ConfigError(msg)
        if self.points < 2 or self.examples < 1 or self.reach <= 0:
            msg = (
                "`--points` must be >= 2, `--examples` >= 1 and `--reach` > 0, got"
                f" {self.points}, {self.examples} and {self.reach}."
            )
            raise config.ConfigError(msg)


def landscape(command: Landscape, directory: Path) -> Path:
    """Draws the slice, and writes landscape.png and landscape.json.

    Args:
      command: what to draw.
      directory: where to write; made when the networks are loaded.

    Returns:
      The path of the figure.

    Raises:
      ConfigError: if a checkpoint is missing or damaged, or networks differ in their parameters.
    """
    networks = load_several(command.checkpoints, command.examples)
    shapes = {str(jax.tree.map(jnp.shape, one.params)) for one in networks.values()}
    if len(shapes) > 1:
        msg = "`CHECKPOINTS` must have parameters of the same shapes to be on one line or plane."
        raise config.ConfigError(msg)
    runs = zip(networks, command.checkpoints, strict=True) if command.trajectory else ()
    ways = {name: load_trajectory(run) for name, run in runs}
    config.check_writable(directory)
    if ways:
        figure, data = _along(command, networks, ways)
    else:
        draw = (_around, _between, _through)[len(networks) - 1]
        figure, data = draw(command, networks)
    path = directory / "landscape.png"
    figure.savefig(path)
    plain = jax.tree.map(lambda x: np.asarray(x).tolist(), data)
    loss = "of the first network's training examples, with the labels trained on"
    provenance.write_json(
        directory / "landscape.json",
        {"networks": list(networks), "loss": loss, **plain, "versions": provenance.versions()},
    )
    return path


def _around(command: Landscape, networks: dict[str, Trained]) -> tuple[Any, dict[str, Any]]:
    [(name, network)] = networks.items()
    keys = jax.random.split(jax.random.key(command.seed))
    if command.directions == "eigenvectors":
        pairs = jax.jit(lambda params: analysis.top_eigenpairs(network.loss, params, keys[0], k=2))(
            network.params
        )
        directions = [jax.tree.map(lambda v, i=i: v[i], pairs.vectors) for i in range(2)]
        first, second = (f"Eigenvector of {float(x):.3g}" for x in pairs.values)
    else:
        filters = command.directions == "filter"
        normalised = analysis.filter_normalised if filters else _of_same_norm
        directions = [
            normalised(analysis.random_direction(key, network.params), network.params)
            for key in keys
        ]
        first, second = "First random direction", "Second random direction"
    xs = jnp.linspace(-command.reach, command.reach, command.points)
    plane = analysis.Plane(network.params, *directions)
    losses = jax.jit(lambda xs: analysis.loss_on_plane(network.loss, plane, xs, xs))(xs)
    here = {name: np.zeros((1, 2))}
    figure = figures.landscape(xs, xs, losses, trajectories=here, labels=(first, second))
    return figure, {"xs": xs, "ys": xs, "losses": losses}


def _of_same_norm(direction: Any, params: Any) -> Any:
    return optax.tree.scale(optax.tree.norm(params) / optax.tree.norm(direction), direction)


def _between(command: Landscape, networks: dict[str, Trained]) -> tuple[Any, dict[str, Any]]:
    (first, start), (second, end) = networks.items()
    positions = jnp.linspace(-0.25, 1.25, command.points)
    losses = jax.jit(lambda x: analysis.loss_between(start.loss, start.params, end.params, x))(
        positions
    )
    label = f"0: {first}; 1: {second}"
    figure = figures.lines(positions, {"training loss": losses}, label=label)
    return figure, {"positions": positions, "losses": losses}


def _through(command: Landscape, networks: dict[str, Trained]) -> tuple[Any, dict[str, Any]]:
    origin, a, b = networks.values()
    plane = analysis.plane_through(origin.params, a.params, b.params)
    labels = ("Distance along the line through the first two", "Distance from that line")
    points = {name: jax.tree.map(lambda x: x[None], one.params) for name, one in networks.items()}
    return _over(command, origin, plane, points, labels)


def _along(
    command: Landscape, networks: dict[str, Trained], ways: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The plane nearest to all points of all ways, through the end of the last way."""
    together = jax.tree.map(lambda *x: jnp.concatenate(x), *ways.values())
    plane = jax.jit(analysis.plane_of_trajectory)(together)
    seen = jax.jit(analysis.project)(plane, together)
    squares = np.sum(np.asarray(seen.coordinates) ** 2, axis=0)
    shares = squares / (squares.sum() + np.sum(np.asarray(seen.distances) ** 2))
    first, second = (f"{share:.0%} of the squared distance" for share in shares)
    labels = (f"First component, {first}", f"Second component, {second}")
    return _over(command, next(iter(networks.values())), plane, ways, labels)


def _over(
    command: Landscape,
    network: Trained,
    plane: analysis.Plane,
    ways: dict[str, Any],
    labels: tuple[str, str],
) -> tuple[Any, dict[str, Any]]:
    """The loss of a network over a plane, a quarter beyond the ways on it, points (n, ...) each."""
    seen = {name: jax.jit(analysis.project)(plane, way) for name, way in ways.items()}
    places = {name: np.asarray(one.coordinates) for name, one in seen.items()}
    corners = np.concatenate(list(places.values()))
    low, high = corners.min(axis=0), corners.max(axis=0)
    margin = 0.25 * (high - low)
    xs, ys = (
        jnp.linspace(low[i] - margin[i], high[i] + margin[i], command.points) for i in range(2)
    )
    losses = jax.jit(lambda xs, ys: analysis.loss_on_plane(network.loss, plane, xs, ys))(xs, ys)
    figure = figures.landscape(xs, ys, losses, trajectories=places, labels=labels)
    away = {name: one.distances for name, one in seen.items()}
    return figure, {
        "xs": xs,
        "ys": ys,
        "losses": losses,
        "trajectories": places,
        "distances_from_plane": away,
    }
