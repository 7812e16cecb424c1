"""`fit`: a model and data of your own, from Python, in the one training loop."""

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.console import Console

from tsam_jax.data import OpenSplits, Records, Splits
from tsam_jax.estimator import GradientEstimator, known_cost
from tsam_jax.train import loop, run
from tsam_jax.train.checkpoint import hash_tree
from tsam_jax.train.config import VALUE_COST, Optimizer, require
from tsam_jax.train.metrics import LOSSES, METRICS, Loss
from tsam_jax.train.network import Batch, Model, make_network
from tsam_jax.train.progress import Progress
from tsam_jax.train.settings import parse
from tsam_jax.train.task import MEASURED, Data

Examples = tuple[Any, Any]
"""Inputs, any pytree with a leading axis, and labels (n,)."""


class Fitted(NamedTuple):
    """A trained model.

    Attributes:
      model: the model with its trained weights (their average, with `ema`), in evaluation mode.
      history: a line an epoch: "epoch", "gradient_evaluations", "train_loss", and so on.
      best: the line of the best epoch on the validation part; None without one.
      state: all that training changed.
      complete: False if the user interrupted it.
    """

    model: nnx.Module
    history: list[dict[str, Any]]
    best: dict[str, Any] | None
    state: loop.TrainState
    complete: bool


def fit(
    model: Model,
    data: Splits | OpenSplits | Examples | Records,
    method: str | GradientEstimator,
    base: optax.GradientTransformation,
    *,
    epochs: int,
    batch_size: int,
    validation: Examples | None = None,
    test: Examples | None = None,
    loss: str | Loss | None = None,
    metrics: Mapping[str, Callable[..., Any]] | None = None,
    augment: Callable[[jax.Array, Any], Any] | None = None,
    prepare: Callable[[Any], Any] | None = None,
    accumulate: int = 1,
    ema: float | None = None,
    recalibrate: bool = False,
    seed: int = 0,
    directory: Path | str | None = None,
    checkpoint_every: int = 10,
    console: Console | None = None,
) -> Fitted:
    """Train a flax model by any method of this library.

    Args:
      model: an `nnx.Module`, which is not changed, or a function `rngs -> module`. It maps inputs
        (batch, ...) to outputs (batch, K); inputs that are a dict are passed by name.
      data: `Splits`, or the training examples: inputs and labels (n,), integers for classes or
        real numbers for regression. They are kept on the device. What does not fit there is
        streamed, in the same batches: `OpenSplits`, or `Records` of the training examples.
      method: a setting, "tsam(t=20, rho=0.05, s=3)", or an estimator of `tsam_jax.methods`.
      base: the base optimizer, from optax.
      epochs: passes over the data, >= 1.
      batch_size: examples a step; what is left of an epoch after the last full batch is left out.
      validation: examples to choose the best epoch on, if `data` are only training examples.
      test: examples to evaluate, if `data` are only training examples.
      loss: "cross-entropy", "official", "mse", or a function (outputs, labels) -> the loss of each
        example, shape (n,). Default: "cross-entropy" for integer labels, else "mse".
      metrics: name -> (outputs, labels), NumPy arrays of all examples -> a number, higher is
        better. Default: the accuracy for integer labels. The first one selects the best epoch;
        without one, the loss.
      augment: (key, inputs) -> inputs of the model in training, once a step, in the compiled step.
      prepare: inputs -> inputs of the model in evaluation. Default: unchanged.
      accumulate: micro-batches of a step, to save memory; divides `batch_size`.
      ema: decay of an average of the weights, in [0, 1); the average is evaluated and returned.
      recalibrate: whether to recompute running statistics (`nnx.BatchStat`, as of BatchNorm) on the
        training data for evaluation.
      seed: of the weights, the order of the batches and the noise of a setting.
      directory: where metrics.jsonl, the newest checkpoints and the best weights go. Training
        resumes from it; the directory of another training is an error. Default: none.
      checkpoint_every: epochs between checkpoints.
      console: where progress is shown. Default: nowhere.

    Returns:
      The trained model and what was measured. The first Ctrl-C ends the training after the epoch,
      with a checkpoint.

    Raises:
      ValueError: if the arguments do not fit together.
      ImportError: if data are to be streamed and grain is not installed.
      ConfigError: if `method` is a text that is not a setting; if a checkpoint in `directory` is
        damaged, or of another training: model, weights, loss, data (of streamed inputs, those that
        are measured), augmentation, method, base optimizer, any of their numbers, or the names of
        the metrics differ; if it has more than `epochs`; or if another process writes to it.
      Diverged: if the loss is not finite; the message has the step and remedies.

    Cost: epochs x batches x the cost of a step of the method.

    Example:
      >>> import optax
      >>> from flax import nnx
      >>> x = jnp.linspace(-1, 1, 32)[:, None]
      >>> line = fit(
      ...     lambda rngs: nnx.Linear(1, 1, rngs=rngs),
      ...     (x, 3 * x[:, 0]),
      ...     "sam(rho=0.01)",
      ...     optax.sgd(0.3),
      ...     epochs=20,
      ...     batch_size=16,
      ... )
      >>> round(line.model(jnp.ones((1, 1))).item(), 1)
      3.0
    """
    splits, records = _splits(data, validation, test)
    train_size = len(splits.train.labels if records is None else records.labels)
    regression = jnp.issubdtype(splits.train.labels.dtype, jnp.inexact)
    if metrics is None:
        metrics = {} if regression else {"accuracy": METRICS["accuracy"].function}
    loss = ("mse" if regression else "cross-entropy") if loss is None else loss
    divides = accumulate >= 1 and batch_size % accumulate == 0
    names = ", ".join(LOSSES)
    for name, value, right, rule in (
        ("batch_size", batch_size, 1 <= batch_size <= train_size, f"be between 1 and {train_size}"),
        ("accumulate", accumulate, divides, f"divide `batch_size`, {batch_size}"),
        ("epochs", epochs, epochs >= 1, "be a positive integer"),
        ("ema", ema, ema is None or 0 <= ema < 1, "be at least 0 and below 1"),
        ("checkpoint_every", checkpoint_every, checkpoint_every >= 1, "be a positive integer"),
        ("loss", loss, callable(loss) or loss in LOSSES, f"be a function or one of {names}"),
        ("metrics", [*metrics], "loss" not in metrics, "not have the name loss, which is measured"),
    ):
        require(right, f"`fit({name}=...)` must {rule}, got {value!r}.", ValueError)
    chosen = LOSSES[loss] if isinstance(loss, str) else loss
    network = make_network(model, chosen, augment=augment, prepare=prepare)
    label, estimator = _estimator(method)
    parts = tuple(name for name, part in zip(splits._fields, splits, strict=True) if part)
    own: dict[str, Any] = {"batch_size": int(batch_size), "accumulate": int(accumulate)}
    own |= {"ema": None if ema is None else float(ema), "recalibrate": bool(recalibrate)}
    build: Callable[..., Any] = lambda numbers, **axis: estimator(**axis)  # noqa: ARG005, E731
    plan = loop.Plan(build, lambda numbers: base, Optimizer(**own))  # noqa: ARG005
    cost = known_cost(estimator().cost)
    path = None if directory is None else Path(directory)
    one = run.Run(
        label=label,
        seed=seed,
        numbers={},
        identity={},
        directory=path,
        network=network,
        program=loop.make_program(network, plan, train_size, parts, metrics=metrics),
        data=splits,
        ends=range(1, epochs + 1),
        metric=next(iter(metrics), "loss"),
        price=train_size // batch_size * (cost.gradients + VALUE_COST * cost.values),
        stream=None if records is None else run.stream_of(records, batch_size, seed),
    )
    if path is not None:
        path.mkdir(parents=True, exist_ok=True)
        identity = {"fit": label, "seed": seed, "batch_size": batch_size, "train_size": train_size}
        identity["data"] = hash_tree((splits, records and records.labels))
        identity["step"] = _fingerprint(one, (recalibrate, [*metrics]))
        one = one._replace(identity=identity)
    with Progress(one.price * epochs, console or Console(quiet=True)) as progress:
        outcome = run.train(one, progress, checkpoint_every=checkpoint_every)
    if outcome.diverged is not None:
        msg = f"`{label}`: the loss is not finite at {outcome.diverged}. Last good checkpoint:"
        msg += f" {outcome.saved}. Try a lower learning rate, a warm-up, clipping or a smaller rho."
        raise run.Diverged(msg)
    trained, best = network.merge(*outcome.weights), outcome.log.best(one.metric)
    return Fitted(trained, outcome.log.lines, best, outcome.state, outcome.complete)


def _fingerprint(one: run.Run, options: Any) -> str:
    """A hash of the program of an epoch and of an evaluation, with every number in them."""

    def program(state: loop.TrainState, data: Data) -> Any:
        outputs = one.network.predict(state.params, data.train.inputs, state.rest)
        loss = one.network.criterion(outputs, data.train.labels)
        return inspect.unwrap(one.program.advance)(state, data, 1), loss

    start = one.start()
    found = jax.make_jaxpr(program)(start, one.data)
    constants = [np.asarray(x) for x in _constants(found)]
    text = re.sub(r" at 0x[0-9a-f]+", "", f"{options} {found.jaxpr}")
    return hash_tree((start, constants), text)


def _constants(jaxpr: Any) -> list[Any]:
    """The arrays in a program, those of compiled functions that it calls included."""
    found, is_program = list(getattr(jaxpr, "consts", ())), lambda x: hasattr(x, "eqns")
    for equation in jaxpr.eqns:
        inner = jax.tree.leaves([*equation.params.values()], is_leaf=is_program)
        found += [x for one in filter(is_program, inner) for x in _constants(one)]
    return found


def _splits(
    data: Splits | OpenSplits | Examples | Records,
    validation: Examples | None,
    test: Examples | None,
) -> tuple[Data, Records | None]:
    """The parts on the device, None for a missing one; and what is to be streamed."""
    if isinstance(data, (Splits, OpenSplits)):
        kind = type(data).__name__
        msg = f"`fit(validation=..., test=...)` are for data that are not `{kind}`."
        require(validation is None and test is None, msg, ValueError)
        data, validation, test = data[:3]  # type: ignore[assignment]
    placed: dict[str, Batch | None] = {}
    for name, part in zip(Data._fields, (data, validation, test), strict=True):
        examples: Any = part
        if isinstance(part, Records):  # those that are measured
            rows = np.arange(min(MEASURED, len(part.labels)))
            examples = part.read(rows), part.labels[rows]
        placed[name] = examples and Batch(*jax.tree.map(jnp.asarray, tuple(examples)))
        sizes = {x.shape[:1] for x in jax.tree.leaves(placed[name])}
        msg = f"`fit(data=...)`: inputs and labels of the {name} part have the sizes {sizes}."
        require(len(sizes) <= 1 and not {(), (0,)} & sizes, msg, ValueError)
    return Data(**placed), data if isinstance(data, Records) else None  # type: ignore[arg-type]


def _estimator(method: str | GradientEstimator) -> tuple[str, Callable[..., GradientEstimator]]:
    """The label of a method, and a function that makes its estimator."""
    if isinstance(method, GradientEstimator):
        return "an estimator", lambda: method
    [setting, *others] = parse(method)
    require(not others, f"`fit(method=...)` takes one setting, got {1 + len(others)}: {method}.")
    names = ", ".join(setting.overrides)
    msg = f"`fit(method=...)`: {names} in `{method}` belong to `base` or `epochs`."
    require(not names, msg)
    return setting.text, setting.build
