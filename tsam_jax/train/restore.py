"""Trained networks from their checkpoints, their training loss, and how flat it is."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tsam_jax import noise
from tsam_jax.analysis import mean_over_batches, neighbourhood_loss, top_eigenvalues
from tsam_jax.train import config, loop, record
from tsam_jax.train.checkpoint import BEST, LAST
from tsam_jax.train.network import Batch, Network
from tsam_jax.train.resolve import Plan, check_names
from tsam_jax.train.run import Run, make_run
from tsam_jax.train.settings import parse
from tsam_jax.train.task import load_task

NOISE_RMS = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05)
"""Standard deviation of the Gaussian noise per coordinate: the range of the paper's Figure 2."""

_DRAWS = 25
_LANCZOS_STEPS = 30
_AT_ONCE = 250  # examples in memory, with what a Hessian product keeps of them


class Trained(NamedTuple):
    """A trained network."""

    run: Run
    epoch: int
    params: Any  # that are measured: their average, if training kept one
    loss: Callable[[Any], jax.Array]  # params -> mean loss, as of `training_loss`
    examples: int  # of the loss
    trajectory: Any = None  # params with a leading axis over the start and the kept checkpoints


def restore(checkpoint: Path, parts: tuple[str, ...]) -> tuple[Run, int, Any]:
    """Restores the weights of a checkpoint: RUN (the newest), RUN/best or RUN/checkpoints/STEP.

    Returns:
      The training, which measures `parts`; the epoch; the weights (params, rest).

    Raises:
      ConfigError: if there is no such checkpoint, or it is damaged.
    """
    directory, folder, step = _found(checkpoint)
    saved, task, plan = read_plan(directory, "checkpoint")
    loaded = load_task(task, [saved["seed"]])
    config.require(
        saved["data"] == loaded.digest,
        f"`checkpoint`: {directory} was trained on other data than {task.dataset} has now.",
    )
    run = make_run(plan, task, loaded, saved["seed"], directory, evaluations=1, parts=parts)
    found = _saved(run, folder, lambda steps: steps[-1:] if step is None else [step])
    config.require(found, f"`checkpoint`: {directory / folder} has no checkpoint yet.")
    [(step, weights)] = found
    return run, step // run.program.steps_per_epoch, weights


def load_several(
    checkpoints: tuple[Path, ...], examples: int, *, trajectory: bool = False
) -> dict[str, Trained]:
    """Loads trained networks and their losses over the first training examples.

    The losses are of the labels trained on, in evaluation mode and without augmentation.

    Returns:
      Name -> network: method, arguments in which settings of a method differ, seed and epoch; a
      name that occurs twice has its directory added, as far as these differ.

    Raises:
      ConfigError: if there is no such checkpoint, it is damaged, or its training data are
        streamed; if there is none, or one is given twice.
    """
    config.require(
        checkpoints and len(set(checkpoints)) == len(checkpoints),
        f"`CHECKPOINTS` must be one or several different ones, got {len(checkpoints)}.",
    )
    loaded, names = [], []
    for path in checkpoints:
        run, epoch, (params, rest) = restore(path, ())
        config.require(
            run.stream is None,
            f"`checkpoint`: the training data of {path} are streamed, not in memory.",
        )
        batches = some_batches(run.data.train, examples)
        loss = training_loss(run.network, rest, batches)
        way = _trajectory(path, run) if trajectory else None
        loaded.append(Trained(run, epoch, params, loss, batches.labels.size, way))
    settings = [parse(one.run.label)[0] for one in loaded]
    for own, one in zip(settings, loaded, strict=True):
        alike = [set(other.written.items()) for other in settings if other.name == own.name]
        shared = set.intersection(*alike)
        words = ", ".join(f"{k}={x}" for k, x in own.written.items() if (k, x) not in shared)
        shown = f"{own.name}({words})" if words else own.name
        names.append(f"{shown}, seed {one.run.seed}, epoch {one.epoch}")
    paths = [path.resolve() for path in checkpoints]
    common = os.path.commonpath([path.parent for path in paths])
    return {
        name if names.count(name) == 1 else f"{name} ({path.relative_to(common)})": one
        for name, path, one in zip(names, paths, loaded, strict=True)
    }


def _trajectory(checkpoint: Path, run: Run) -> Any:
    """The parameters of a training from the initial ones to the newest checkpoint."""
    directory, folder, step = _found(checkpoint)
    config.require(
        folder == LAST and step is None,
        f"`--trajectory` needs whole runs, got the checkpoint {checkpoint}: name {directory}.",
    )
    saved = _saved(run, LAST, list)
    config.require(
        len(saved) > 1,
        f"`--trajectory` needs at least two checkpoints, got {len(saved)} in {directory / LAST}:"
        " train with a smaller `--checkpoint-every` and `--keep-checkpoints` of 2 or more.",
    )
    points = [run.weights(run.start()), *(weights for _, weights in saved)]
    return jax.tree.map(lambda *x: jnp.stack(x), *(params for params, _ in points))


def some_batches(train: Batch, examples: int) -> Any:
    """The first training examples in batches, with a leading axis; whole batches only."""
    count = min(examples, len(train.labels))
    at_once = min(count, _AT_ONCE)
    rows = jnp.arange(count - count % at_once).reshape(-1, at_once)
    return jax.tree.map(lambda x: x[rows], train)


def training_loss(network: Network, rest: Any, batches: Batch) -> Any:
    """Params -> mean loss over batches, in evaluation mode; in the memory of one batch."""

    def loss(params: Any, batch: Batch) -> jax.Array:
        return network.criterion(network.predict(params, batch.inputs, rest), batch.labels)

    return mean_over_batches(loss, batches)


def make_flatness(network: Network) -> Callable[[Any, Batch], dict[str, Any]]:
    """Makes the function that measures flatness, compiled once for all runs of a study.

    Returns:
      (weights, batches of training examples) -> numbers for JSON: "loss" at the parameters; its
      "mean" and "variance" under Gaussian noise of each of `NOISE_RMS` per coordinate, the same
      noise for every run; "top_eigenvalue" of its Hessian.

    Cost: 151 losses and 30 Hessian products of the examples.
    """

    @jax.jit
    def measure(params: Any, rest: Any, batches: Batch) -> dict[str, jax.Array]:
        loss = training_loss(network, rest, batches)

        def around(rms: jax.Array) -> Any:
            law, key = noise.gaussian(rms=rms), jax.random.key(0)
            return neighbourhood_loss(loss, params, key, noise=law, num_samples=_DRAWS)

        hood = jax.lax.map(around, jnp.asarray(NOISE_RMS))
        top = top_eigenvalues(loss, params, jax.random.key(1), k=1, num_matvecs=_LANCZOS_STEPS)
        found = {"loss": loss(params), "mean": hood.mean, "variance": hood.variance}
        return found | {"top_eigenvalue": top.values[0]}

    plain = lambda x: jax.tree.map(record.json_number, x.tolist())  # noqa: E731
    return lambda weights, batches: jax.tree.map(plain, measure(*weights, batches))


_KINDS = {"setting": str, "seed": int, "epochs": int, "data": str, "task": dict, "optimizer": dict}


def read_plan(directory: Path, option: str) -> tuple[dict[str, Any], config.Task, Plan]:
    """Reads config.json of a run; raises ConfigError, which names the option, if it is invalid."""
    msg = f"`{option}`: {directory} is not the directory of a training run (of a study, a cell)"
    config.require((directory / "config.json").exists(), msg + ".")
    saved = record.read_json(directory / "config.json")
    odd = [name for name, kind in _KINDS.items() if type(saved.get(name)) is not kind]
    for options in (config.Task, config.Optimizer) if not odd else ():
        names = {field.name for field in dataclasses.fields(options)}
        odd += sorted(names ^ saved[options.__name__.lower()].keys())
    config.require(not odd, f"{msg}: its config.json has no valid {config.shown(', '.join(odd))}.")
    task: Any = {k: tuple(x) if isinstance(x, list) else x for k, x in saved["task"].items()}
    task, optimizer = config.Task(**task), config.Optimizer(**saved["optimizer"])
    check_names(task, saved["optimizer"])
    return saved, task, Plan(parse(saved["setting"])[0], optimizer, saved["epochs"])


def _saved(
    run: Run, folder: str, choose: Callable[[list[int]], list[int]]
) -> list[tuple[int, Any]]:
    """(step, weights) of the chosen checkpoints of a run."""
    start = run.start()
    like = start._asdict()
    if folder == BEST:
        like = dict(zip(("params", "rest"), run.weights(start), strict=True))
    with run.checkpoints(folder) as checkpoints:
        found = [(step, checkpoints.restore(like, step)) for step in choose(checkpoints.steps)]
    if folder == BEST:
        return [(step, (tree["params"], tree["rest"])) for step, tree in found]
    return [(step, run.weights(loop.TrainState(**tree))) for step, tree in found]


def _found(path: Path) -> tuple[Path, str, int | None]:
    """The run, the folder in it, and the step, None for the newest."""
    path = path.resolve()
    config.require(
        path.is_dir(),
        f"`checkpoint`: {path} is not a directory: it must be that of a run of `tsam-jax train` or"
        " of a study (cells/...), or `best` in it.",
    )
    if path.name in {LAST, BEST}:
        return path.parent, path.name, None
    if path.parent.name in {LAST, BEST} and path.name.isdecimal():
        return path.parent.parent, path.parent.name, int(path.name)
    return path, LAST, None
