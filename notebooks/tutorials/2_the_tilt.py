# %% [markdown]
# # What the tilt does
#
# TSAM minimises
#
# $$L_t(\theta) = \frac1t \log \mathbb{E}_\epsilon \, e^{t L(\theta + \epsilon)},$$
#
# a mean of the loss around θ in which high losses count more, the larger the tilt t is. This page
# shows what that does, in one dimension first, where everything can be drawn.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from tsam_jax.analysis.style import looks
from tsam_jax.analysis.toys import wavy_loss
from tsam_jax.tilting import effective_sample_size, tilt_weights, tilted_loss

STEPS = 50 * int(os.environ.get("EPOCHS", "100"))
plt.rcParams.update({"figure.constrained_layout.use": True})
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
BLUE = looks(["TSAM"])["TSAM"]["color"]

# %% [markdown]
# ## Weights
#
# Five samples and their losses. The gradient of the tilted loss is the mean of their gradients,
# weighted by softmax(t · losses):

# %%
losses = jnp.array([0.2, 0.5, 0.6, 0.9, 1.0])
figure, axes = plt.subplots(1, 4, figsize=(8, 2), sharey=True)
for axis, t in zip(axes, (0.0, 1.0, 5.0, jnp.inf), strict=True):
    weights = tilt_weights(losses, t)
    axis.bar(range(5), weights, color=BLUE)
    axis.set_xticks(range(5), [f"{loss:.1f}" for loss in losses], fontsize=8)
    count = effective_sample_size(weights)
    axis.set_title(f"t = {t:g}: {count:.1f} count", fontsize=10)
axes[0].set_ylabel("weight")
_ = figure.supxlabel("loss of the sample", fontsize=10)

# %% [markdown]
# At t = 0 all count the same, and at t = ∞ only the worst does. "Count" is the effective sample
# size, one over the sum of the squared weights.
#
# ## A landscape with a sharp and a flat minimum
#
# The left minimum is lower, the right one wider. Noise is Gaussian with standard deviation 0.15;
# the expectation is taken over 2,000 fixed values of it, so that curves are smooth.


# %%
def landscape(x):
    sharp = 1.0 - jnp.exp(-((x + 1.0) ** 2) / (2 * 0.12**2))
    flat = 1.0 - 0.9 * jnp.exp(-((x - 1.0) ** 2) / (2 * 0.5**2))
    return sharp + flat - 1.0 + 0.05 * x**2


quantiles = (jnp.arange(2000) + 0.5) / 2000
epsilon = 0.15 * jax.scipy.stats.norm.ppf(quantiles)
places = jnp.linspace(-2.0, 2.2, 301)


@jax.jit
def objective(t):
    return jax.vmap(lambda x: tilted_loss(landscape(x + epsilon), t))(places)


tilts = (0.0, 3.0, 10.0, 30.0, 100.0)
curves = [objective(t) for t in tilts]
shades = plt.cm.Blues(np.linspace(0.35, 1.0, len(tilts)))  # the darker, the larger the tilt
figure, axis = plt.subplots(figsize=(7, 3.6))
axis.plot(places, landscape(places), label="loss", **looks(["ERM"])["ERM"])
for t, curve, shade in zip(tilts, curves, shades, strict=True):
    axis.plot(places, curve, color=shade, label=f"t = {t:g}")
    lowest = int(jnp.argmin(curve))
    axis.plot(places[lowest], curve[lowest], "o", color=shade)
axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
_ = axis.set(xlabel="θ", ylabel="tilted loss")
# %% [markdown]
# The dotted loss is lowest in the sharp minimum, and so plain training would like to end there.
# For every tilted loss the minimum (the dot) is the flat one. Even for t = 0, the plain mean over
# the neighbourhood. What a growing tilt adds is *how strongly*: the sharp minimum is filled up
# until nothing is left of it, and the flat one rises as well, up to its brim.
#
# Move the tilt yourself:


# %% tags=["hide-input"]
class Drawing(str):
    _repr_html_ = str.__str__
    __repr__ = lambda self: "a drawing with a slider"


def slider(curves, names, size=(560, 230), top=1.25):
    """Returns a drawing of curves with a slider over them: no library, no network."""
    width, height = size

    def path(curve):
        xs = np.linspace(0, width, len(curve))
        ys = height * (1 - np.clip(np.asarray(curve), -0.1, top) / top)
        return " ".join(f"{x:.0f},{y:.0f}" for x, y in zip(xs, ys, strict=True))

    lines = [
        f'<polyline class="tilt" points="{path(curve)}" fill="none" stroke="#0072B2"'
        f' stroke-width="2.5" style="display:{"inline" if i == 0 else "none"}"/>'
        for i, curve in enumerate(curves)
    ]
    labels = ",".join(f"'{name}'" for name in names)
    script = (
        "const box=this.closest('div');"
        "box.querySelectorAll('.tilt').forEach((line,i)=>"
        "line.style.display=(i==this.value?'inline':'none'));"
        f"box.querySelector('output').textContent=[{labels}][this.value];"
    )
    return Drawing(
        f'<div style="font-family:sans-serif"><svg viewBox="0 0 {width} {height}"'
        f' width="{width}" style="max-width:100%;background:white">'
        f'<polyline points="{path(landscape(places))}" fill="none" stroke="#999"'
        f' stroke-dasharray="3 3"/>{"".join(lines)}</svg><br>'
        f'<input type="range" min="0" max="{len(curves) - 1}" value="0" style="width:300px"'
        f' oninput="{script}"> <output>{names[0]}</output></div>'
    )


steps = [0.0, *np.geomspace(1.0, 300.0, 15)]
slider([objective(t)[::4] for t in steps], [f"t = {t:.3g}" for t in steps])

# %% [markdown]
# ## Where a descent ends
#
# The first figure of the paper: a loss with waves that become lower and wider to the right, and
# gradient descent on $L_t$ from θ = 0.5, with 1,000 new samples in every step. Their noise is
# Gaussian with standard deviation 0.2. (The paper has it uniform in ±0.2, and then [the figure
# does not come out](../paper.md#formulas-as-printed): for a large tilt the worst point is the
# same for all places nearby, and the descent gets stuck.)


# %%
waves = jax.vmap(wavy_loss)  # infinite below 0.05: the loss has a pole at 0


def sampled(x, t, key):
    points = x + 0.2 * jax.random.normal(key, (1000,))
    return tilted_loss(waves(points), t)  # what is not finite does not count


@jax.jit
def descend(t):
    step = lambda x, key: (x - 0.005 * jax.grad(sampled)(x, t, key), None)
    return jax.lax.scan(step, 0.5, jax.random.split(jax.random.key(0), STEPS))[0]


plain_step = lambda x, _: (x - 0.005 * jax.grad(wavy_loss)(x), None)
ends = {"plain": jax.lax.scan(plain_step, 0.5, length=STEPS)[0]}
ends |= {f"t = {t:g}": descend(t) for t in (1.0, 5.0, 20.0)}

grid = jnp.linspace(0.25, 3.2, 400)
figure, axis = plt.subplots(figsize=(7, 3))
axis.plot(grid, waves(grid), color="grey", linewidth=1)
for (name, end), shade in zip(
    ends.items(), ["black", *plt.cm.Blues(np.linspace(0.5, 1.0, 3))], strict=True
):
    axis.plot(end, wavy_loss(end), "o", color=shade, markersize=8)
    axis.vlines(end, 0.95, wavy_loss(end), color=shade, linestyle=":")
    axis.annotate(name, (end, 0.8), ha="center", color=shade)
axis.set(xlabel="θ", ylabel="loss", ylim=(0.7, 3.4))
{name: round(float(end), 2) for name, end in ends.items()}

# %% [markdown]
# Plain descent takes the nearest minimum, which is the deepest and sharpest. The larger the tilt,
# the further it goes to where the waves are low. (A dot need not lie in a minimum of the drawn
# loss: it is one of the tilted loss, which looks 0.2 and more to both sides.)
#
# ## Many dimensions: why there is an ascent
#
# In one dimension every random perturbation meets the sharp walls. In many dimensions nearly none
# does: a random direction is almost orthogonal to the few in which the loss is steep. Take a bowl
# with one direction that is 50 times as steep as all others, noise of length 1, and 100 samples.
# How much do their losses differ? If they are alike, weights have nothing to choose from.


# %%
def standard_deviations(d, key):
    curvature = jnp.ones(d).at[0].set(50.0)
    loss = lambda x: 0.5 * jnp.sum(curvature * x**2)
    here = jnp.full(d, 1.0 / jnp.sqrt(d))
    epsilon = jax.random.normal(key, (100, d))
    points = here + epsilon / jnp.linalg.norm(epsilon, axis=1, keepdims=True)
    uphill = jax.vmap(jax.grad(loss))(points)
    ascended = points + 0.1 * uphill / jnp.linalg.norm(uphill, axis=1, keepdims=True)
    return [float(jnp.std(jax.vmap(loss)(x))) for x in (points, ascended)]


dimensions = [10, 100, 1000, 10_000]
alone, with_ascent = zip(
    *[standard_deviations(d, jax.random.key(d)) for d in dimensions], strict=True
)
figure, axis = plt.subplots(figsize=(6, 3))
for values, name, look in zip(
    (alone, with_ascent),
    ("noise alone", "noise and ascent"),
    looks(["tilted sampling", "TSAM"]).values(),
    strict=True,
):
    axis.loglog(dimensions, values, marker="o", markersize=4, label=name, **look)
axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), handlelength=4)
axis.set(xlabel="dimensions", ylabel="spread of the losses")
print(f"spread in 10,000 dimensions: {alone[-1]:.3f}, and {with_ascent[-1]:.3f} with an ascent")

# %% [markdown]
# With noise alone the spread shrinks with the square root of the number of dimensions, and a
# network has millions. That is why naive tilted sampling (`methods.tilted_sampling`) needs a huge
# t, and does little. TSAM takes one step uphill from every sample, here a tenth as long as the
# noise, before it weighs them: that leads into the steep direction, where samples differ.
#
# - The mathematics: [The objective](../maths.md#the-objective) and [The step of
#   TSAM](../maths.md#the-step-of-tsam).
# - Next: [Flat or sharp?](3_flat_or_sharp.ipynb) measures real solutions.
