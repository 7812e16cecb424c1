"""A look at what training sees: augmented images, and labels beside the true ones."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tsam_jax.data import Splits
from tsam_jax.train import config
from tsam_jax.train.task import prepare_task

_DRAWS = 3
_FONT_SIZE = 8.0
_WRONG = "#D55E00"


def preview(task: config.Task, splits: Splits, *, seed: int = 0, images: int = 8) -> Figure:
    """The first training images as they are stored and as training sees them, with their labels.

    The augmented images are those of the network's own function, with the normalisation undone, so
    that what is seen here is what a step gets: shifts, flips, patches of the mean colour. Above an
    image is the label that is trained on, in red with the true one if it was replaced. The table
    beside them has the shares of the given labels for each true one, of all training examples:
    with label noise f "to other labels" its diagonal is 1 - f and the rest even.

    Args:
      task: the task, with its augmentation and label noise.
      splits: its data set, of images (n, height, width, channels) in classes, as `tsam_jax.data.
        load` returns it.
      seed: seed of the wrong labels and of the augmentation.
      images: number of images, >= 1.

    Returns:
      A figure.

    Raises:
      ConfigError: if the data are not images in classes.
    """
    inputs = splits.train.inputs
    if isinstance(inputs, dict) or np.ndim(inputs) != 4 or splits.num_classes is None:
        msg = f"`preview` is for images in classes, and {task.dataset} has none."
        raise config.ConfigError(msg)
    loaded = prepare_task(task, splits, [seed])
    stored = inputs[:images]
    keys = jax.random.split(jax.random.key(seed), _DRAWS)
    draws = [np.asarray(loaded.network.augment(key, jnp.asarray(stored))) for key in keys]
    mean, std = (np.asarray(x or one) for x, one in ((splits.mean, [0.0]), (splits.std, [1.0])))
    rows = [_shown(stored), *(np.clip(draw * std + mean, 0, 1) for draw in draws)]
    given = np.asarray(loaded.data.train.labels[0])
    return _figure(rows, splits, given)


def _figure(rows: list[np.ndarray], splits: Splits, given: np.ndarray) -> Figure:
    count, true = len(rows[0]), np.asarray(splits.train.labels)
    names = splits.class_names or tuple(map(str, range(splits.num_classes or 0)))
    figure = Figure(figsize=(1.05 * count + 4.2, 1.15 * len(rows) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    halves: Any = figure.subfigures(1, 2, width_ratios=[1.05 * count, 4.2])
    left, right = halves
    panels = left.subplots(len(rows), count, squeeze=False)
    for place, (row, title) in enumerate(zip(rows, ["stored", *["a step"] * _DRAWS], strict=True)):
        for panel, image in zip(panels[place], row, strict=True):
            panel.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            panel.set(xticks=[], yticks=[])
        panels[place][0].set_ylabel(title, fontsize=_FONT_SIZE)
    for panel, old, new in zip(panels[0], true, given, strict=False):
        text = names[new] if old == new else f"{names[new]}\n(is {names[old]})"
        panel.set_title(text, fontsize=_FONT_SIZE, color="black" if old == new else _WRONG)
    _matrix(right.subplots(), label_shares(true, given, len(names)), names)
    return figure


def label_shares(true: Any, given: Any, num_classes: int) -> np.ndarray:
    """How often a class is labelled as each class.

    Args:
      true: true labels, shape (n,), integers in 0..num_classes - 1.
      given: labels that are trained on, likewise.
      num_classes: number of classes.

    Returns:
      Shape (true class, given class); rows have the sum 1, or 0 for a class without examples.

    Example:
      >>> label_shares([0, 0, 1, 1], [0, 1, 1, 1], 2).tolist()
      [[0.5, 0.5], [0.0, 1.0]]
    """
    counts = np.zeros((num_classes, num_classes))
    np.add.at(counts, (np.asarray(true), np.asarray(given)), 1)
    shares: np.ndarray = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return shares


def _matrix(panel: Any, shares: np.ndarray, names: tuple[str, ...]) -> None:
    panel.imshow(shares, cmap=colormaps["cividis"], vmin=0, vmax=1)
    panel.set_xlabel("label that is trained on", fontsize=_FONT_SIZE)
    panel.set_ylabel("true label", fontsize=_FONT_SIZE)
    if len(names) > 12:  # names and numbers would overlap
        return
    panel.set_xticks(range(len(names)), names, rotation=90)
    panel.set_yticks(range(len(names)), names)
    panel.tick_params(labelsize=_FONT_SIZE - 1)
    for (y, x), share in np.ndenumerate(shares):
        colour = "white" if share < 0.5 else "black"
        text = f"{100 * share:.0f}"
        panel.text(x, y, text, ha="center", va="center", fontsize=_FONT_SIZE - 2, color=colour)


def _shown(images: np.ndarray) -> np.ndarray:
    return np.asarray(images / 255 if images.dtype == np.uint8 else np.clip(images, 0, 1))
