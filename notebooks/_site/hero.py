"""Draws notebooks/hero.svg, the picture of the README: `python -m _site.hero` in notebooks/.

The landscape is that of tutorial 2. The background is transparent and the ink grey, so that the
picture suits light and dark pages.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from tsam_jax.tilting import tilted_loss

INK = "#7a828c"
SHADES = ("#35b0ab", "#2f8fd0", "#7a6ee0", "#c05fc4", "#e0568a")


def landscape(x: jax.Array) -> jax.Array:
    sharp = 1.0 - jnp.exp(-((x + 1.0) ** 2) / (2 * 0.12**2))
    flat = 1.0 - 0.9 * jnp.exp(-((x - 1.0) ** 2) / (2 * 0.5**2))
    return sharp + flat - 1.0 + 0.05 * x**2


def draw(path: Path) -> None:
    epsilon = 0.15 * jax.scipy.stats.norm.ppf((jnp.arange(2000) + 0.5) / 2000)
    places = jnp.linspace(-2.0, 2.2, 301)
    objective = jax.jit(jax.vmap(lambda x, t: tilted_loss(landscape(x + epsilon), t), (0, None)))
    style = {"text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK, "font.size": 11}
    style |= {"xtick.color": INK, "ytick.color": INK, "svg.hashsalt": "hero"}
    style |= {"axes.spines.top": False, "axes.spines.right": False}
    with mpl.rc_context(style):
        figure, axis = plt.subplots(figsize=(8, 3.2), layout="constrained")
        axis.plot(places, landscape(places), color=INK, linestyle=":", label="loss")
        for t, shade in zip((0.0, 3.0, 10.0, 30.0, 100.0), SHADES, strict=True):
            curve = objective(places, t)
            axis.plot(places, curve, color=shade, linewidth=2, label=f"tilted, t = {t:g}")
            lowest = int(jnp.argmin(curve))
            axis.plot(places[lowest], curve[lowest], "o", color=shade, markersize=7)
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        axis.set(xlabel="parameter θ", ylabel="loss", xticks=np.arange(-2, 3), ylim=(0, None))
        figure.savefig(path, transparent=True, metadata={"Date": None})
        plt.close(figure)


if __name__ == "__main__":
    draw(Path(__file__).parent.parent / "hero.svg")
