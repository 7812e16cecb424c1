"""Table of the methods that the contract tests cover, one row per method."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tsam_jax import GradientEstimator, methods, noise


class Row(NamedTuple):
    """Constructor and properties of a method.

    Attributes:
      arguments: a valid call.
      numbers: arguments that accept schedules and traced scalars -> another valid value.
      erm: arguments that turn it into the plain gradient, or None.
      masked: whether it takes `mask`.
      spelling: whether it is an alternative form of another method of the table; such rows run
        with the slow tests.
      sampled: whether it samples, and so takes `s`, `aux` and `strategy`.
      period: number of steps after which its calls repeat; its cost is the mean over them.
    """

    arguments: Mapping[str, Any] = {}
    numbers: Mapping[str, float] = {}
    erm: Mapping[str, Any] | None = None
    masked: bool = True
    sampled: bool = False
    spelling: bool = False
    period: int = 1


GAUSSIAN = noise.gaussian(rms=0.1)

TABLE = {
    "erm": Row(erm={}, masked=False),
    "sam": Row({"rho": 0.1}, {"rho": 0.7}, erm={"rho": 0}),
    "asam": Row({"rho": 0.1, "eta": 0.01}, {"rho": 0.7, "eta": 0.5}, erm={"rho": 0}),
    "esam2": Row({"rhos": (0.05, 0.2)}, erm={"rhos": (0, 0.0)}),
    "pgn": Row({"rho": 0.1, "alpha": 0.8}, {"rho": 0.7, "alpha": 2.0}, erm={"alpha": 0.0}),
    "wsam": Row(
        {"rho": 0.1, "gamma": 0.6}, {"rho": 0.7, "gamma": 0.2}, erm={"gamma": 0}, spelling=True
    ),
    "gsam": Row(
        {"rho": 0.1, "alpha": 0.4, "adapt": True, "eta": 0.01},
        {"rho": 0.7, "alpha": 1.0, "eta": 0.5},
        erm={"rho": 0.0},
    ),
    "looksam": Row({"rho": 0.1, "every": 2}, erm={"rho": 0.0}, period=2),
    "tilted_sampling": Row(
        {"t": 2.0, "s": 2, "noise": GAUSSIAN}, {"t": 30.0}, erm={"noise": noise.none}, sampled=True
    ),
    "tsam": Row(
        {"t": 2.0, "rho": 0.1, "s": 2, "delta": 0.5, "noise": GAUSSIAN},
        {"t": 30.0, "rho": 0.7, "delta": 0.0},
        erm={"rho": 0.0, "noise": noise.none},
        sampled=True,
    ),
    "from_paper": Row(
        {"t": 2.0, "s": 2, "rho": 0.5, "alpha": 0.8},
        {"t": 30.0},
        erm={"rho": 0.0},
        spelling=True,
        sampled=True,
    ),
    "shared_tsam": Row(
        {"t": 2.0, "rho": 0.1, "s": 2, "noise": GAUSSIAN},
        {"t": 30.0, "rho": 0.7},
        erm={"rho": 0.0, "noise": noise.none},
        sampled=True,
    ),
    "tsam_hmc": Row(
        {"t": 1.25, "s": 2, "radius": 0.8, "beta": 0.03, "delta": 0.8, "sigma": 1.0},
        {"t": 30.0, "radius": 0.4, "beta": 0.05, "delta": 0.2, "sigma": 0.8},
        erm={"radius": 0},
        sampled=True,
    ),
    "vasso": Row({"rho": 0.1, "theta": 0.4}, {"rho": 0.7}, erm={"rho": 0}),
    "fsam": Row({"rho": 0.1, "sigma": 0.5, "lmbda": 0.6}, {"rho": 0.7}, erm={"rho": 0}),
    "xsam": Row(
        {"rho": 0.1, "rho_max": 0.4, "alpha_grid": (0.0, 0.7, 1.4), "search_every": 2},
        {"rho": 0.7},
        erm={"rho": 0},
        period=2,
    ),
    "rsam": Row({"rho": 0.1, "gamma": 0.1}, {"rho": 0.7, "gamma": 0.3}, erm={"rho": 0, "gamma": 0}),
}


def make(name: str, **changes: Any) -> GradientEstimator:
    return methods.METHODS[name](**{**TABLE[name].arguments, **changes})


def batch(seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(100 + seed), (6, 4))


def parameters(dtype: Any = jnp.float32) -> dict[str, jax.Array]:
    return {
        "w": jnp.linspace(-0.6, 0.9, 12, dtype=jnp.float32).reshape(4, 3).astype(dtype),
        "b": jnp.array([0.1, -0.2, 0.3], dtype),
    }


def loss(params: Any, x: jax.Array) -> jax.Array:
    """Non-convex loss, far from its minimum at the start; the factor 20 makes tilts of 1 matter."""
    x = x.astype(params["w"].dtype)
    return 20 * jnp.mean((jnp.tanh(x @ params["w"] + params["b"][None, :]) - 0.5) ** 2)
