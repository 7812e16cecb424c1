"""How flat the trained networks are: the measures that the comparison reports."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tsam_jax import noise
from tsam_jax.analysis import neighbourhood_loss, top_eigenvalues
from tsam_jax.train.loop import TrainState
from tsam_jax.train.network import Batch, Network
from tsam_jax.train.task import Data

NOISE_RMS = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05)
"""Standard deviation of the Gaussian noise per coordinate: the range of the paper's Figure 2."""

_DRAWS = 25
_LANCZOS_STEPS = 30


class Flatness(NamedTuple):
    """Flatness of the training loss (on the labels trained on), in evaluation mode.

    It is that of the first training examples, and of the parameters, not of their average.

    Attributes:
      loss: at the parameters; shape (seeds,).
      mean: of the loss under Gaussian noise; shape (seeds, len(NOISE_RMS)).
      variance: of the loss under Gaussian noise; shape (seeds, len(NOISE_RMS)).
      top_eigenvalue: largest eigenvalue of the Hessian; shape (seeds,).
    """

    loss: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    top_eigenvalue: np.ndarray


def make_measure(network: Network, examples: int) -> Callable[[TrainState, Data], Flatness]:
    """Makes the function that measures trained networks, compiled once for all settings.

    Args:
      network: the network.
      examples: how many training examples the loss is of, the first ones; all of them are in memory
        at once, with what a Hessian product keeps of them.

    Returns:
      (state with a leading axis over seeds, data of these seeds) -> `Flatness`. The noise is the
      same for every setting.
    """

    @jax.jit
    def measure(params: Any, rest: Any, train: Batch) -> tuple[jax.Array, ...]:
        def loss(params: Any) -> jax.Array:
            return network.score(network.predict(params, train.inputs, rest), train.labels)["loss"]

        def around(rms: jax.Array) -> Any:
            law = noise.gaussian(rms=rms)
            key = jax.random.key(0)
            return neighbourhood_loss(loss, params, key, noise=law, num_samples=_DRAWS)

        hood = jax.lax.map(around, jnp.asarray(NOISE_RMS))
        top = top_eigenvalues(loss, params, jax.random.key(1), k=1, num_matvecs=_LANCZOS_STEPS)
        return loss(params), hood.mean, hood.variance, top.values[0]

    def of_all_seeds(state: TrainState, data: Data) -> Flatness:
        rows = []
        for row, labels in enumerate(data.train.labels):
            params, rest = jax.tree.map(lambda x, row=row: x[row], (state.params, state.rest))
            train = Batch(data.train.inputs, labels)
            some = jax.tree.map(lambda x: x[:examples], train)
            rows.append(jax.device_get(measure(params, rest, some)))
        return Flatness(*(np.stack(column) for column in zip(*rows, strict=True)))

    return of_all_seeds
