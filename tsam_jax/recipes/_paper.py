"""What the recipes of the paper share: its optimizer, its grids, and settings of its methods.

Source: Li et al., "Tilted Sharpness-Aware Minimization", ICML 2025, Section 5 and Appendix C.1, and
the official code. Where the two differ, or say nothing, the recipes do this:

- Noise and ascent share one letter, rho, in the paper: "rho to be 20, alpha to be 0.995". `tsam`
  here has the code's values, a sphere of radius 20 and an ascent of 0.1, and weights of the whole
  tilt, as the code that made the numbers. `from_paper` is the other reading: radius 19.9, ascent
  0.1, and delta = t / 2.
- The grids are the paper's. It names the chosen t and the chosen rho of SAM, for three tasks; of
  learning rates only the names of the code's checkpoints speak: 0.1 for ERM, 0.003 for SAM and
  TSAM, on CIFAR-100. They stand for all image tasks. `tsam-jax sweep` searches the grids.
- ERM, SAM, ESAM2 and TSAM train for the same epochs. ESAM1, PGN and RSAM train for as long as TSAM
  takes: their epochs are those of Table 5's minutes for ESAM1, where it has the task, else s times
  as many.
- ESAM2's step sizes are not given. Here they are as many as spend TSAM's time if a loss costs a
  third of a gradient, 6 (s - 1), in geometric progression up to what follows SAM's rho in its grid.
- The recommendations of the RSAM paper that the paper follows are in no public code; gamma = 0.1 of
  each tensor's norm is what one of the public imitations has.
- PGN's chosen alpha is not given: 0.7, of its grid.
- Settings are to be chosen on validation: a tenth of the training examples is kept for it where a
  data set has no part of its own. The official code trains on all, and reports its best test epoch.
- How many runs the spreads in brackets come from is not said.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from tsam_jax.recipes._recipe import SGD, Recipe

LRS = "[0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1]"
TILTS = (0, 1, 5, 20, 100)
RHOS_OF_SAM = (0.05, 0.1, 0.5, 1, 5, 15)
OPTIMIZER: Mapping[str, Any] = {**SGD, "batch_size": 64, "lr": 0.003}
"""SGD with a constant rate."""

METHODS = ("erm", "sam", "esam1", "esam2", "pgn", "rsam", "tsam")
"""The rows of Table 1, images."""

SEARCH = (
    f"erm(lr={LRS})",
    f"sam(rho={list(RHOS_OF_SAM)}, lr={LRS})",
    f"pgn(rho={list(RHOS_OF_SAM)}, alpha=[0.3, 0.5, 0.7, 0.9], lr={LRS})",
    f"tsam(t={list(TILTS)}, rho=[0.05, 0.1, 0.2], s=[3, 5], noise=sphere(radius=20), lr={LRS})",
)
"""The paper's grids."""


class Tuned(NamedTuple):
    """What was chosen for a task.

    Attributes:
      t: tilt.
      s: samples.
      rho: ascent of SAM and its relatives.
      epochs: epochs of ERM, SAM and TSAM.
      longer: how many times as many epochs ESAM1 has.
      lr: learning rate of all methods but ERM.
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
    """TSAM as the official code ran it.

    Args:
      t: the tilt, or a schedule in words.
      s: number of samples.
      lr: learning rate.

    Returns:
      The setting.
    """
    return f"tsam(t={t}, rho=0.1, s={s}, noise=sphere(radius=20), lr={lr})"


def settings(tuned: Tuned) -> dict[str, str]:
    """The setting of each method.

    Args:
      tuned: what was chosen for the task.

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
    """A recipe with the paper's optimizer and grids.

    Args:
      summary: as in `Recipe`, and so are the rest.
      task: fields of the task.
      tuned: what was chosen for it.
      published: what the paper reports.
      methods: what `compare` compares.
      others: settings by names of their own, beside those of the methods.
      optimizer: what differs from the paper's optimizer for images.

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
    """Published numbers in a line.

    Args:
      source: the table.
      unit: what the numbers are.
      numbers: method -> number.

    Returns:
      "Table 1, test accuracy in %: erm 71.39, sam 76.52".
    """
    return f"{source}, {unit}: " + ", ".join(f"{name} {x}" for name, x in numbers.items())


def _step_sizes(rho: float, count: int) -> tuple[float, ...]:
    """Step sizes in geometric progression, from a tenth of the last one."""
    last = next(larger for larger in RHOS_OF_SAM if larger > rho)
    return tuple(float(f"{last * 10 ** (k / (count - 1) - 1):.3g}") for k in range(count))
