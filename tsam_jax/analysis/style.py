"""One style for all figures, reports and notebooks: a method has the same line in each of them.

Figures are made with matplotlib's objects on an Agg canvas, without pyplot. Lines differ in colour
(Okabe and Ito's, safe for the colour-blind) and in dashes (for print in grey).
"""

import io
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

# Without the yellow that vanishes on white. Seven colours and four dashes have no common factor: 28
# lines are told apart.
COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ((1, 1.2), (5, 1.5), (), (6, 1.5, 1, 1.5))
INK, FAINT = "#333333", "#E4E4E4"
FONT_SIZE = 9.0
PANEL_HEIGHT = 2.9  # inches
STAR: dict[str, Any] = {
    "marker": "*",
    "markersize": 12,
    "linestyle": "",
    "mec": "white",
    "zorder": 5,
}

# A place in this list is a colour and a dash: append, never insert.
_METHODS = (
    *("ERM", "SAM", "TSAM", "ASAM", "ESAM2", "PGN", "WSAM", "GSAM", "LookSAM", "tilted sampling"),
    *("TSAM-HMC", "VASSO", "F-SAM", "XSAM", "R-SAM", "m-SAM", "shared TSAM"),
)


def _key(text: str) -> str:
    """The method of a setting or name, up to the first bracket or comma: "m_sam(...)" -> "msam"."""
    return re.sub(r"[\W_]", "", re.split(r"[(,]", text)[0]).lower()


_PLACES = {_key(name): place for place, name in enumerate(_METHODS)}


def method_name(text: str) -> str:
    """The name of a method as it is written: "looksam(rho=0.1)" -> "LookSAM"."""
    place = _PLACES.get(_key(text))
    return text.partition("(")[0] if place is None else _METHODS[place]


def looks(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The colour, dashes and width of lines, the same for a method in every figure.

    Args:
      names: settings or names that begin with one: "sam(rho=0.1)", "SAM", "erm, seed 0".

    Returns:
      Name -> keywords of matplotlib's `plot`. All but the first line of a method get its colour
      with other dashes while there are any. Unknown methods get what the others leave.

    Example:
      >>> looks(["TSAM"])["TSAM"] == looks(["sam", "tsam(t=1)"])["tsam(t=1)"]
      True
    """
    places: dict[str, int] = {}
    for name in names:
        place = _PLACES.get(_key(name), -1)
        places[name] = -1 if place in places.values() else place
    most = len(COLOURS) * len(DASHES)
    free = [place for place in range(most) if place not in places.values()]
    free.sort(key=lambda place: (place < len(_METHODS), bool(DASHES[place % len(DASHES)])))
    for name in [name for name, place in places.items() if place < 0]:
        colour = _PLACES[_key(name)] % len(COLOURS) if _key(name) in _PLACES else -1
        same = [place for place in free if place % len(COLOURS) == colour]
        places[name] = (same or free)[0]
        free = [place for place in free if place != places[name]] or list(range(most))
    return {
        name: {
            "color": COLOURS[place % len(COLOURS)],
            "linestyle": (0, DASHES[place % len(DASHES)] or None),
            "linewidth": 1.7,
        }
        for name, place in places.items()
    }


def new_figure(
    widths: Sequence[float], *, rows: int = 1, height: float = PANEL_HEIGHT, share: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of panels in rows of these relative widths; a width of 1 is 3.4 inches."""
    size = 3.4 * sum(widths) + 0.4, height * rows + 0.3
    figure = Figure(figsize=size, dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(
        rows, len(widths), width_ratios=list(widths), squeeze=False, sharex=share, sharey=share
    )
    for panel in grid.ravel():
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(INK)
        panel.tick_params(colors=INK, labelsize=FONT_SIZE - 1)
        panel.grid(color=FAINT, linewidth=0.6)
        panel.set_axisbelow(True)
        for label in (panel.xaxis.label, panel.yaxis.label):
            label.set(color=INK, fontsize=FONT_SIZE)
    return figure, list(grid.ravel())


def title(panel: Axes, text: str) -> None:
    """A title at the left, in the size of labels."""
    panel.set_title(text, loc="left", fontsize=FONT_SIZE, color=INK)


def caption(figure: Figure, text: str) -> None:
    """A caption below the panels, as wide as the figure."""
    lines = textwrap.wrap(text, int(figure.get_figwidth() * 72 / (0.56 * (FONT_SIZE - 1))))
    figure.set_figheight(figure.get_figheight() + 0.17 * len(lines))
    look = {"fontsize": FONT_SIZE - 1, "color": INK, "linespacing": 1.3}
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", **look)


def legend(figure: Figure, lines: Mapping[str, Line2D]) -> None:
    """Name lines once, above all panels, where a name crosses nothing."""
    if not lines:
        return
    across = 0.5 + 0.62 * (FONT_SIZE - 1) / 72 * max(map(len, lines))  # inches of an entry
    columns = max(1, min(len(lines), int(figure.get_figwidth() / across)))
    figure.set_figheight(figure.get_figheight() + 0.19 * -(-len(lines) // columns))
    figure.legend(
        handles=list(lines.values()),
        labels=list(lines),
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        fontsize=FONT_SIZE - 1,
        labelcolor=INK,
        handlelength=3,
    )


def image(figure: Figure, kind: str) -> bytes:
    """The content of a file of kind "png", "svg" or "pdf": equal figures have equal bytes."""
    unsure = {"png": "Software", "svg": "Date", "pdf": "CreationDate"}
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "tsam_jax"}):
        figure.savefig(buffer, format=kind, metadata={unsure[kind]: None})
    return buffer.getvalue()
