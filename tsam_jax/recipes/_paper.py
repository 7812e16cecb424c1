"""Parts shared by the paper's recipes: the optimizer, the grids, and the methods' settings.

Source: Li et al., "Tilted Sharpness-Aware Minimization", ICML 2025, Section 5 and Appendix C.1, and
the official code. Where these differ or are silent, the recipes make the following choices.

- Radius and ascent: the paper uses one letter, rho, for both ("rho to be 20, alpha to be 0.995").
  `tsam` has the values of the code that produced the published numbers: a sphere of radius 20, an
  ascent of 0.1, and weights with the full tilt. `from_paper` is the other reading: radius 19.9,
  ascent 0.1, and delta = t / 2.
- Grids: those of the paper; `tsam-jax sweep` searches them. The paper gives the chosen t, and the
  chosen rho of SAM, for three tasks. Learning rates appear only in the names of the code's
  CIFAR-100 checkpoints: 0.1 for ERM, 0.003 for SAM and TSAM. The recipes use them for all image
  tasks.
- Epochs: ERM, SAM, ESAM2 and TSAM train for the same number of epochs. ESAM1, PGN and RSAM train
  for as long as TSAM takes. Their number of epochs follows from ESAM1's minutes in Table 5 if the
  table has the task; otherwise it is s times as large.
- ESAM2: the paper does not give its step sizes. The recipes use 6 (s - 1) of them, which takes
  TSAM's time if a loss costs a third of a gradient. They are in geometric progression up to the
  value after SAM's rho in the grid.
- RSAM: the paper follows the RSAM paper's recommendations, which are in no public code. The recipes
  use gamma = 0.1 of each tensor's norm, as in a public reimplementation.
- PGN: the paper does not give the chosen alpha; the recipes use 0.7 from its grid.
- Validation: settings should be chosen on a validation part. If the data set has none, it is a
  tenth of the training examples. The official code trains on all of them and reports the epoch
  with the best test accuracy.
- The paper does not say how many runs its spreads (in brackets) come from.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from tsam_jax.recipes._recipe import SGD, Recipe

LRS = "[0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1]"
TILTS = (0, 1, 5, 20, 100)
RHOS_OF_SAM = (0.05, 0.1, 0.5, 1, 5, 15)
OPTIMIZER: Mapping[str, Any] = {**SGD, "batch_size": 64, "lr": 0.003}
"""SGD with a constant learning rate."""

METHODS = ("erm", "sam", "esam1", "esam2", "pgn", "rsam", "tsam")
"""Methods of Table 1 for images, in the order of its rows."""

SEARCH = (
    f"erm(lr={LRS})",
    f"sam(rho={list(RHOS_OF_SAM)}, lr={LRS})",
    f"pgn(rho={list(RHOS_OF_SAM)}, alpha=[0.3, 0.5, 0.7, 0.9], lr={LRS})",
    f"tsam(t={list(TILTS)}, rho=[0.05, 0.1, 0.2], s=[3, 5], noise=sphere(radius=20), lr={LRS})",
)
"""The paper's grids."""


class Tuned(NamedTuple):
    """Tuned settings of a task.

    Attributes:
      t: tilt.
      s: number of samples.
      rho: ascent of SAM and its variants.
      epochs: epochs of ERM, SAM and TSAM.
      longer: epochs of ESAM1, as a multiple of `epochs`.
      lr: learning rate of all methods except ERM.
      erm_lr: learning rate of ERM.
    """

    t: float
    s: int
    rho: float
    epochs: int
    longer: float
    lr: float = 0.003
    erm_lr: float = 0.1


def tsam(t: float | str, s: int, lr: float = 0.003) -> str:
    """Writes the setting of TSAM in the official code.

    Args:
      t: tilt, or the expression of a schedule.
      s: number of samples.
      lr: learning rate.

    Returns:
      The setting.
    """
    return f"tsam(t={t}, rho=0.1, s={s}, noise=sphere(radius=20), lr={lr})"


def settings(tuned: Tuned) -> dict[str, str]:
    """Writes the setting of each method.

    Args:
      tuned: tuned settings of the task.

    Returns:
      Method -> setting.
    """
    rho, lr = tuned.rho, tuned.lr
    budget = round(2 * tuned.longer * tuned.epochs)
    return {
        "erm": f"erm(lr={tuned.erm_lr})",
        "sam": f"sam(rho={rho}, lr={lr})",
        "esam1": f"sam(rho={rho}, lr={lr}, budget={budget})",
        "esam2": f"esam2(rhos={_step_sizes(rho, 6 * tuned.s - 6)}, lr={lr})",
        "pgn": f"pgn(rho={rho}, alpha=0.7, lr={lr}, budget={budget})",
        "rsam": f"rsam(rho={rho}, gamma=0.1, scaling='leaf', lr={lr}, budget={budget})",
        "tsam": tsam(tuned.t, tuned.s, lr),
        "from_paper": f"from_paper(t={tuned.t}, s={tuned.s}, lr={lr})",
    }


def cell(
    summary: str,
    task: Mapping[str, Any],
    tuned: Tuned,
    published: str,
    *,
    methods: tuple[str, ...] = METHODS,
    others: Mapping[str, str] | None = None,
    optimizer: Mapping[str, Any] | None = None,
) -> Recipe:
    """Makes a recipe with the paper's optimizer and grids.

    Args:
      summary: summary of the recipe.
      task: fields of the task.
      tuned: tuned settings of the task.
      published: result that the paper reports.
      methods: methods that `compare` compares.
      others: further settings by name, in addition to those of the methods.
      optimizer: fields that differ from the paper's optimizer for images.

    Returns:
      The recipe.
    """
    known = {**settings(tuned), **(others or {})}
    return Recipe(
        summary,
        task=task,
        optimizer={**OPTIMIZER, "lr": tuned.lr, **(optimizer or {})},
        budget={"epochs": tuned.epochs},
        method=methods[-1],
        methods=methods,
        settings=known,
        everything=methods,
        search=SEARCH,
        published=published,
    )


def in_words(source: str, unit: str, numbers: Mapping[str, str]) -> str:
    """Formats published numbers in one line.

    Args:
      source: name of the table.
      unit: quantity and unit of the numbers.
      numbers: method -> number.

    Returns:
      "Table 1, test accuracy in %: erm 71.39, sam 76.52".
    """
    return f"{source}, {unit}: " + ", ".join(f"{name} {x}" for name, x in numbers.items())


def _step_sizes(rho: float, count: int) -> tuple[float, ...]:
    """Returns step sizes in geometric progression, from a tenth of the last to the last."""
    last = next(larger for larger in RHOS_OF_SAM if larger > rho)
    return tuple(float(f"{last * 10 ** (k / (count - 1) - 1):.3g}") for k in range(count))
