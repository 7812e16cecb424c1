"""Variance of the tilted gradient under noise designs: `python -m benchmarks variance`."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.budget import Budget
from benchmarks.record import Common, say
from tsam_jax import methods, noise, value_and_grad

SPREADS = (0.0, 0.1, 1.0, 10.0)  # the tilt times the standard deviation of the samples' losses


def quadratic():
    """8 parameters, curvatures from 0.1 to 10."""
    curvature = jnp.logspace(-1, 1, 8)
    return (lambda x: x @ (curvature * x) / 2), jnp.ones(8), 0.3


def network():
    """A network of 8 - 16 - 1 with tanh on 64 random points, at its start: 161 parameters."""
    keys = jax.random.split(jax.random.key(0), 4)
    x, y = jax.random.normal(keys[0], (64, 8)), jax.random.normal(keys[1], (64,))
    params = {
        "a": jax.random.normal(keys[2], (8, 16)) / 8**0.5,
        "b": jnp.zeros(16),
        "c": jax.random.normal(keys[3], (16,)) / 4,
        "d": jnp.zeros(()),
    }

    def loss(p):
        return jnp.mean((jnp.tanh(x @ p["a"] + p["b"]) @ p["c"] + p["d"] - y) ** 2)

    return loss, params, 0.5


PROBLEMS = {"quadratic": quadratic, "network": network}


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Variance under antithetic and orthogonal noise, over that of independent draws."""

    problems: tuple[str, ...] = tuple(PROBLEMS)
    samples: tuple[int, ...] = (4, 16)
    draws: int = 500
    """Estimates for each variance."""


def measure(loss, params, radius, s, settings) -> list[dict]:
    """Returns a row for each tilt: total variance and squared error, over those of plain draws."""
    law = noise.sphere(radius=radius)
    designs = {
        "plain": law,
        "antithetic": noise.antithetic(law),
        "orthogonal": noise.orthogonal(law),
        "both": noise.antithetic(noise.orthogonal(law)),
    }
    keys = jax.random.split(jax.random.key(1), settings.draws)

    def estimates(design, t, s, keys):
        def one(key):
            estimator = methods.tilted_sampling(t, s, noise=design, strategy="vectorized")
            step = value_and_grad(loss, estimator, key=key)
            (_, grad), state = step(params, step.init(params))
            flat = jnp.concatenate([jnp.ravel(g) for g in jax.tree.leaves(grad)])
            return flat, state.last.metrics["losses"]

        return jax.lax.map(one, keys, batch_size=50)

    run = {name: jax.jit(lambda t, k, d=d: estimates(d, t, s, k)) for name, d in designs.items()}
    spread = float(run["plain"](0.0, keys)[1].std())
    exactly = jax.jit(lambda t, k: estimates(designs["antithetic"], t, 2000, k)[0])
    rows = []
    for relative in SPREADS:
        t = relative / spread
        exact = np.asarray(exactly(t, keys[:5])).mean(axis=0)
        row: dict = {"tilt_times_spread": relative, "s": s, "variance": {}, "squared_error": {}}
        for name in designs:
            grads = np.asarray(run[name](t, keys)[0], np.float64)
            row["variance"][name] = grads.var(axis=0, ddof=1).sum()
            row["squared_error"][name] = ((grads - exact) ** 2).sum(axis=1).mean()
        for kind in "variance", "squared_error":
            plain = row[kind]["plain"]
            row[kind] = {name: round(float(x / plain), 4) for name, x in row[kind].items()}
        rows.append(row)
    return rows


def measure_all(settings: Settings, _: Budget) -> Iterator[dict[str, Any]]:
    """Counts draws, not seconds, so that it takes its time whatever the budget."""
    samples = settings.samples[:1] if settings.quick else settings.samples
    if settings.quick:
        settings = dataclasses.replace(settings, draws=min(settings.draws, 40))
    results: dict[str, Any] = {}
    for name in settings.problems:
        results[name] = [row for s in samples for row in measure(*PROBLEMS[name](), s, settings)]
        for row in results[name]:
            say(f"  {name}, s={row['s']}, spread {row['tilt_times_spread']}: {row['variance']}")
        yield {"draws": settings.draws, "relative_to_plain": results}
