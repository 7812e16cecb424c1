"""Reading of the golden records; tests/data/golden/README.md lists the formulas used here."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tsam_jax import GradientEstimator, estimate_gradient, value_and_grad

FOLDER = Path(__file__).parents[1] / "data" / "golden"
STEPS = 3


class Record(NamedTuple):
    """A record: hyperparameters, and float64 arrays by `group` or `group -> parameter`."""

    meta: dict[str, Any]
    data: dict[str, np.ndarray]
    init: dict[str, np.ndarray]
    arrays: dict[str, Any]


@functools.cache
def index() -> dict[str, dict[str, dict[str, Any]]]:
    return json.loads((FOLDER / "index.json").read_text())


@functools.cache
def archive(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as stored:
        return dict(stored)


def names(*families: str) -> list[str]:
    """Names of the records of some families, as "family/record"."""
    return [f"{family}/{record}" for family in families for record in index()[family]]


def group(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def load(name: str) -> Record:
    family, record = name.split("/")
    meta = index()[family][record]
    problem = group(archive("problems"), meta["problem"] + "/")
    arrays: dict[str, Any] = {}
    for key, value in group(archive(family), record + "/").items():
        array, _, parameter = key.partition("/")
        if parameter:
            arrays.setdefault(array, {})[parameter] = value
        else:
            arrays[array] = value
    return Record(meta, group(problem, "data/"), group(problem, "init/"), arrays)


def make_loss(problem: str, data: dict[str, jax.Array], smoothing: jax.Array) -> Callable:
    """The loss of a problem, params -> scalar."""
    logits = {"mlp": _mlp, "convbn": _convbn}.get(problem)
    if logits is None:
        return lambda p: (
            jnp.sum(jnp.sin(3 * p["theta"]))
            + p["theta"] @ data["A"] @ p["theta"] / 2
            + data["c"].astype(p["theta"].dtype)
        )
    return lambda p: _smooth_cross_entropy(logits(p, data["x"]), data["y"], smoothing)


def _mlp(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    hidden = jnp.tanh(x @ p["fc1.weight"].T + p["fc1.bias"])
    return hidden @ p["fc2.weight"].T + p["fc2.bias"]


def _convbn(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    for i, stride in (1, 1), (2, 2):
        x = jax.lax.conv_general_dilated(
            x,
            p[f"conv{i}.weight"],
            (stride, stride),
            ((1, 1), (1, 1)),
            dimension_numbers=("NCHW", "OIHW", "NCHW"),
        )
        x = jax.nn.relu(_batch_norm(x, p[f"bn{i}.weight"], p[f"bn{i}.bias"]))
    return x.mean((2, 3)) @ p["fc.weight"].T + p["fc.bias"]


def _batch_norm(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    axes = (0, 2, 3)
    centred = x - x.mean(axes, keepdims=True)
    variance = jnp.square(centred).mean(axes, keepdims=True)
    unscaled = centred / jnp.sqrt(variance + 1e-5)
    return unscaled * scale[:, None, None] + shift[:, None, None]


def _smooth_cross_entropy(logits: jax.Array, y: jax.Array, smoothing: jax.Array) -> jax.Array:
    classes = logits.shape[1]
    q = jnp.where(jnp.arange(classes) == y[:, None], 1 - smoothing, smoothing / (classes - 1))
    gaps = jax.scipy.special.xlogy(q, q) - q * jax.nn.log_softmax(logits)
    return gaps.sum(1).mean()


def noise(record: Record) -> dict[str, np.ndarray]:
    """The recorded perturbations, (T, s, ...), from the recorded normals."""
    meta, z = record.meta, record.arrays["noise_raw"]
    lengths = np.sqrt(sum(np.square(v).reshape(*v.shape[:2], -1).sum(-1) for v in z.values()))
    if meta["epsilon"] == "gaussian":
        lengths = meta["scaling"] * lengths
        factor = meta["scaling"] * np.minimum(lengths, meta["r"]) / lengths
    else:
        factor = meta["r"] * record.arrays["uniform_u"] ** 1e-8 / lengths
    return {k: np.einsum("ks,ks...->ks...", factor, v) for k, v in z.items()}


def relative_error(actual: Any, desired: Any) -> float:
    """Distance of two pytrees relative to the norm of the second, over all leaves together."""
    pairs = [
        (np.asarray(a, np.float64), np.asarray(d, np.float64))
        for a, d in zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True)
    ]
    distance = np.sqrt(sum(np.sum((a - d) ** 2) for a, d in pairs))
    return float(distance / np.sqrt(sum(np.sum(d**2) for _, d in pairs)))


def cast(tree: Any, dtype: Any) -> Any:
    """Casts floating-point arrays to a dtype; other arrays are unchanged."""
    return jax.tree.map(lambda x: jnp.asarray(x, dtype if x.dtype.kind == "f" else None), tree)


def loss_of(record: Record, dtype: Any) -> Callable:
    """The loss of a record without label smoothing, params -> scalar."""
    data = record.data | ({"c": np.float64(record.meta["c"])} if "c" in record.meta else {})
    return make_loss(record.meta["problem"], cast(data, dtype), jnp.zeros((), dtype))


def replay(
    record: Record, estimator: GradientEstimator, dtype: Any, learning_rate: Any = None
) -> dict[str, Any]:
    """Runs three steps with both adapters: losses (T,); gradients, parameters, states (T, ...)."""
    meta, loss = record.meta, loss_of(record, dtype)
    sgd = optax.sgd(meta["lr"] if learning_rate is None else learning_rate, meta["momentum"])
    optimizer = optax.chain(estimate_gradient(estimator), sgd)
    evaluate = value_and_grad(loss, estimator)

    @jax.jit
    def step(params, inner, state):
        (value, grad), inner = evaluate(params, inner)
        updates, state = optimizer.update(None, state, params, value_fn=loss)
        params = optax.apply_updates(params, updates)
        output = {"loss": value, "final_grad": grad, "params": params, "state": inner}
        return params, inner, state, output

    params, outputs = cast(record.init, dtype), []
    states = (evaluate.init(params), optimizer.init(params))
    for _ in range(STEPS):
        params, *states, output = step(params, *states)
        jax.tree.map(np.testing.assert_array_equal, states[1][0], states[0])
        np.testing.assert_array_equal(states[0].last.value, output["loss"])
        outputs.append(output)
    actual = jax.tree.map(lambda *x: np.stack(x), *outputs)
    integers = {np.dtype(np.int32), np.dtype(np.uint32)}  # the step and the key
    assert {x.dtype for x in jax.tree.leaves(actual)} == {np.dtype(dtype)} | integers
    return actual


def check(
    actual: dict[str, Any],
    record: Record,
    tolerance: float,
    *,
    share: float = 1.0,
    upto: int = STEPS,
) -> None:
    """Compares a replay with its record; `share` is the last loss's weight in the value."""
    losses = record.arrays["eval_loss"]
    desired = {name: record.arrays[name] for name in ("final_grad", "params")}
    desired["loss"] = (1 - share) * losses[:, 0] + share * losses[:, -1]
    for name, array in desired.items():
        a, d = jax.tree.map(lambda x: x[:upto], (actual[name], array))
        assert relative_error(a, d) < tolerance, name
