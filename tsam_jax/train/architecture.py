"""The network of a task: a model of the zoo, or pretrained, with what is done to its inputs."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from tsam_jax.data import Splits, augmentation
from tsam_jax.models import MODELS
from tsam_jax.train import config
from tsam_jax.train.losses import LOSSES, Loss
from tsam_jax.train.network import Network, make_network, split_model


def _shifted(key: jax.Array, images: jax.Array, mean: Any, std: Any) -> jax.Array:
    """Random crops and flips, without the official recipe's cutout."""
    return augmentation.official(key, images, mean, std, cutout_size=0)


AUGMENTATIONS: Mapping[str, Callable[..., jax.Array]] = {
    "crop-flip": _shifted,
    "official": augmentation.official,
}
"""Name -> (key, images, mean, std) -> normalised images."""


def network_for(task: config.Task, splits: Splits, metrics: Mapping[str, Loss]) -> Network:
    """Makes the network of a task.

    Images are normalised by the statistics of the training part in the compiled step.

    Args:
      task: the task.
      splits: its data set, for the shape of the inputs and the number of outputs.
      metrics: what is measured beside the loss.

    Returns:
      The `Network`.

    Raises:
      ConfigError: if the model, the augmentation or the loss is not for such data.
    """
    if (splits.num_classes is None) != (task.loss == "mse"):
        rule = "mse for numbers, another one for classes"
        msg = f"`--loss` must be {rule}, got {task.loss!r} for {task.dataset}."
        raise config.ConfigError(msg)
    smoothing = {"smoothing": task.label_smoothing} if task.label_smoothing else {}
    loss = functools.partial(LOSSES[task.loss], **smoothing)
    augment, prepare = _preparations(task, splits)
    make = functools.partial(
        make_network, loss=loss, metrics=metrics, augment=augment, prepare=prepare
    )
    if task.pretrained is None:
        return make(_model(task, splits))
    build = _pretrained(task, splits)
    # Files are not read while a function is compiled: their content would be part of it.
    network = make(build(nnx.Rngs(0)))
    return network._replace(init=lambda key: split_model(build(nnx.Rngs(key)))[1:])


def _options(task: config.Task) -> dict[str, Any]:
    """What all models take."""
    options: dict[str, Any] = {"remat": task.remat}
    if task.precision == "bfloat16":
        options["dtype"] = jnp.bfloat16
    if task.dropout is not None:
        options["dropout"] = task.dropout
    return options


def _model(task: config.Task, splits: Splits) -> Callable[[nnx.Rngs], nnx.Module]:
    """The function that makes a model of the zoo, for these inputs."""
    if task.model not in MODELS:
        msg = f"`--model` must be one of {', '.join(MODELS)}, got {task.model!r}."
        raise config.ConfigError(msg)
    entry, options, inputs = MODELS[task.model], _options(task), splits.train.inputs
    text = isinstance(inputs, dict)
    shape = () if text else inputs.shape[1:]
    if (entry.kind == "text") != text or (len(shape) != 3 and task.model != "mlp" and not text):
        have = "text" if text else f"inputs of shape {shape}"
        msg = f"`--model {task.model}` is for {entry.kind}, and {task.dataset} has {have}."
        raise config.ConfigError(msg)
    if task.model == "mlp":
        options |= {"width": task.width, "depth": task.depth}
    if text:
        length = inputs["token_ids"].shape[1]
        options |= {"vocabulary": splits.vocab_size, "max_length": length}
    else:
        options["image_shape"] = shape
    outputs = splits.num_classes or 1
    return lambda rngs: entry.build(outputs, **options, rngs=rngs)


def _pretrained(task: config.Task, splits: Splits) -> Callable[[nnx.Rngs], nnx.Module]:
    """The function that reads a pretrained model, with a new head from random numbers."""
    from tsam_jax.models.pretrained import PretrainedError, load_pretrained

    options, path, outputs = _options(task), str(task.pretrained), splits.num_classes or 1

    def build(rngs: nnx.Rngs) -> nnx.Module:
        try:
            return load_pretrained(path, num_outputs=outputs, rngs=rngs, **options)
        except (PretrainedError, ValueError) as error:
            msg = f"`--pretrained`: {error}"
            raise config.ConfigError(msg) from error

    return build


def _preparations(task: config.Task, splits: Splits) -> tuple[Any, Any]:
    """What is done to the inputs in training and in evaluation; None for nothing."""
    images = bool(splits.mean)
    if task.augmentation != "none" and not images:
        msg = f"`--augmentation {task.augmentation}` is for images, and {task.dataset} has none."
        raise config.ConfigError(msg)
    if not images:
        return None, None
    statistics: dict[str, Any] = {"mean": splits.mean, "std": splits.std}
    prepare = functools.partial(augmentation.normalise, **statistics)
    if task.augmentation == "none":
        return None, prepare
    return functools.partial(AUGMENTATIONS[task.augmentation], **statistics), prepare
