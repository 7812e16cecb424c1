"""Figures 5, 7 and 8 of the paper: learning curves of the test accuracy.

Each recipe is a figure and each of its methods a curve: `tsam-jax compare figure7-dtd-vit` draws
all curves.

- Figure 5: `tilted_sampling` with s = 3 and 10 against TSAM with t = 20, over the figure's 90
  epochs. The caption does not give TSAM's s; here it is 5.
- Figure 7: SAM against TSAM with t = 0, 1, 5, 20 and 100, and s = 3. Epochs are those of Figure 6.
- Figure 8: t constant, increasing linearly from 0 to t, or decreasing from t to 0, over 300 epochs.
  The paper does not give t and s; here they are those of Table 1. The schedule's length is in
  steps, for 45,000 training examples (a tenth of CIFAR-100's 50,000 is the validation part) and
  batches of 64. If you change either or the epochs, change the schedule.
"""

from collections.abc import Mapping
from typing import Any

from tsam_jax.recipes import table1_images as table1
from tsam_jax.recipes._paper import OPTIMIZER, TILTS, Tuned, cell, tsam
from tsam_jax.recipes._recipe import Recipe

NAIVE = {
    f"naive_s{s}": f"tilted_sampling(t=20, s={s}, noise=sphere(radius=20), lr=0.003)"
    for s in (3, 10)
}
_STEPS = table1.NOISY_TUNED.epochs * (45_000 // OPTIMIZER["batch_size"])


def _linear(first: float, last: float) -> str:
    return f"linear_schedule({first}, {last}, {_STEPS})"


def _recipe(
    name: str, what: str, published: str, others: Mapping[str, str], **changes: Any
) -> Recipe:
    """Makes a recipe like one of Table 1, with other methods."""
    summary, task, tuned = table1.CELLS[name]
    chosen: Tuned = tuned._replace(**changes)
    methods = tuple(others)
    return cell(f"{summary}: {what}", task, chosen, published, methods=methods, others=others)


def _figure5() -> Recipe:
    said = "Figure 5: naive sampling stays below TSAM, even with s = 10"
    others = {**NAIVE, "tsam": tsam(20, 5)}
    return _recipe("cifar100-resnet18", "naive sampling", said, others, epochs=90)


def _figure7(name: str) -> Recipe:
    said = "Figure 7: several t are above SAM; the best t needs a search"
    tuned = table1.CELLS[name][2]
    sam = {"sam": f"sam(rho={tuned.rho}, lr={tuned.lr})"}
    return _recipe(name, "tilts", said, sam | {f"tsam_t{t}": tsam(t, 3) for t in TILTS})


def _figure8() -> Recipe:
    said = "Figure 8: no difference between constant, increasing and decreasing t"
    t, s = table1.NOISY_TUNED.t, table1.NOISY_TUNED.s
    others = {
        "tsam_increasing": tsam(_linear(0.0, t), s),
        "tsam_decreasing": tsam(_linear(t, 0.0), s),
        "tsam": tsam(t, s),
    }
    return _recipe("cifar100-noise20-resnet18", "schedules of t", said, others)


RECIPES = {
    "figure5-cifar100-resnet18": _figure5(),
    **{
        f"figure7-{name}": _figure7(name)
        for name in ("cifar100-resnet18", "dtd-vit", "cifar100-noise20-resnet18")
    },
    "figure8-cifar100-noise20-resnet18": _figure8(),
}
