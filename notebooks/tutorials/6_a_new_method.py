# %% [markdown]
# # A new method in twenty lines
#
# All methods of the library have one form. A *gradient estimator* takes the loss of a step, which
# it may evaluate at any point, and returns one value and one gradient. It knows neither the
# optimizer nor the model. This page makes a new method and uses it everywhere.
#
# ## The idea
#
# SAM steps uphill. But the gradient of a batch is noisy, and the true slope may go the other way.
# So step *both* ways, and let a tilt weigh the two gradients:
#
# $$\theta_\pm = \theta \pm \rho \frac{g}{\lVert g \rVert}, \qquad
# w = \mathrm{softmax}(t L(\theta_+), t L(\theta_-)), \qquad
# \hat g = w_+ g(\theta_+) + w_- g(\theta_-) .$$
#
# For t = ∞ this is the worse of the two sides, nearly always SAM; for t = 0 it is the plain mean.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from tsam_jax import Evaluation, GradientEstimator, methods, sharpness_aware, value_and_grad
from tsam_jax.analysis.style import looks
from tsam_jax.tilting import tilt_weights, tilted_loss

EPOCHS = int(os.environ.get("EPOCHS", "60"))
plt.rcParams.update({"figure.constrained_layout.use": True})
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# ## The method


# %%
def two_sided(t, rho):
    def init(params):
        return (), {"weights": jnp.zeros(2)}  # no memory, one metric

    def estimate(loss, params, memory, *, step, key):
        here = loss(params)
        norm = optax.tree.norm(here.grad)
        length = jnp.where(norm > 0, rho / norm, 0.0)
        up, down = (
            loss(optax.tree.add_scale(params, sign * length, here.grad)) for sign in (1.0, -1.0)
        )
        losses = jnp.stack([up.value, down.value])
        weights = tilt_weights(losses, t)
        grad = jax.tree.map(lambda a, b: weights[0] * a + weights[1] * b, up.grad, down.grad)
        value = tilted_loss(losses, t)
        return Evaluation(value, grad, here.aux, {"weights": weights}), memory

    return GradientEstimator(init, estimate)


# %% [markdown]
# - `loss(point)` evaluates the loss and its gradient, and returns an `Evaluation`.
# - The `Evaluation` of the method has the value that the gradient belongs to, the gradient, the
#   auxiliary output of the loss (BatchNorm statistics, say; here of the clean pass) and metrics.
# - `init` declares the metrics: zeros in their shapes. They are [logged](../guides/metrics.md)
#   like those of any other method.
# - `memory` is what the next step needs, nothing here. `step` is the step counter, for schedules,
#   and `key` a fresh random key.
#
# ## Is it right?
#
# Check a new method where the answer is known. On $L = \frac12 \sum_i h_i \theta_i^2$ the
# gradient at $\theta_\pm$ is $h (\theta \pm \rho u)$, so the mean (t = 0) is the plain gradient,
# and t = ∞ is SAM:

# %%
h, theta = jnp.array([1.0, 4.0]), jnp.array([2.0, -1.0])
quadratic = lambda x: 0.5 * jnp.sum(h * x**2)


def gradient_of(estimator):
    gradient = value_and_grad(quadratic, estimator)
    (_, grads), _ = gradient(theta, gradient.init(theta))
    return grads


np.testing.assert_allclose(gradient_of(two_sided(0.0, 0.1)), h * theta, rtol=1e-6)
np.testing.assert_allclose(
    gradient_of(two_sided(jnp.inf, 0.1)), gradient_of(methods.sam(rho=0.1)), rtol=1e-6
)
gradient_of(two_sided(1.0, 0.1))  # in between

# %% [markdown]
# The returned gradient must be that of the returned value, with the points held fixed. For
# `tilt_weights` and `tilted_loss` that is Lemma 3.2.
#
# ## It works as the others do
#
# Around any optimizer, under `jit`, `scan` and `vmap`. Here, on digits with 40 % wrong labels,
# six tilts are trained at once: a `vmap` over whole training runs, one compilation.

# %%
from tsam_jax.data import corrupt_labels, digits

splits = digits.load()
images, labels = splits.train
wrong_labels = corrupt_labels(labels, fraction=0.4, num_classes=10, seed=0)


def init(key):
    a, b = jax.random.split(key)
    w = jax.random.normal(a, (64, 128)) / 6, jax.random.normal(b, (128, 10)) / 8
    return {"w": w, "b": jnp.zeros(128)}


def logits(params, x):
    return jax.nn.relu(x @ params["w"][0] + params["b"]) @ params["w"][1]


def loss(params, rows):
    scores = logits(params, jnp.asarray(images)[rows])
    chosen = jnp.asarray(wrong_labels)[rows]
    return optax.softmax_cross_entropy_with_integer_labels(scores, chosen).mean()


def train(estimator):
    base = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.03, momentum=0.9))
    optimizer = sharpness_aware(base, estimator)
    params = init(jax.random.key(0))

    def step(carry, rows):
        params, state = carry
        updates, state = optimizer.update(None, state, params, value_fn=loss, rows=rows)
        return (optax.apply_updates(params, updates), state), None

    def epoch(carry, key):
        rows = jax.random.permutation(key, 1000).reshape(20, 50)
        carry, _ = jax.lax.scan(step, carry, rows)
        hits = logits(carry[0], splits.test.inputs).argmax(1) == splits.test.labels
        return carry, (jnp.mean(hits), carry[1][0].last.metrics)

    keys = jax.random.split(jax.random.key(1), EPOCHS)
    return jax.lax.scan(epoch, (params, optimizer.init(params)), keys)[1]


plain_accuracy, _ = jax.jit(train, static_argnums=0)(methods.erm())


tilts = jnp.array([0.0, 1.0, 3.0, 10.0, 30.0, jnp.inf])

accuracies, metrics = jax.jit(jax.vmap(lambda t: train(two_sided(t, rho=0.8))))(tilts)

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3))
shades = plt.cm.viridis(np.linspace(0.85, 0.1, len(tilts)))
for t, accuracy, weights, shade in zip(tilts, accuracies, metrics["weights"], shades, strict=True):
    axes[0].plot(range(1, EPOCHS + 1), accuracy, color=shade, label=f"t = {t:g}")
    axes[1].plot(range(1, EPOCHS + 1), weights[:, 0], color=shade)
axes[0].plot(range(1, EPOCHS + 1), plain_accuracy, label="plain", **looks(["ERM"])["ERM"])
axes[0].set(xlabel="epoch", ylabel="test accuracy", ylim=(0, 1))
axes[1].set(xlabel="epoch", ylabel="weight of the uphill side", ylim=(0.4, 1.05))
figure.legend(loc="outside right center", frameon=False)
{f"t = {t:g}": f"{accuracy[-1]:.1%}" for t, accuracy in zip(tilts, accuracies, strict=True)}

# %% [markdown]
# Plain training begins to learn the wrong labels; all tilts resist, and end within what one seed
# and 500 test images can tell. From t = 10 on, the method *is* SAM on this task: the uphill side
# has all of the weight. Small tilts learn faster in the beginning, since their two sides cancel
# most of the perturbation. Whether that is worth a third gradient is a question for several seeds
# and an equal budget: [Choosing t, rho and the radius](4_choosing.ipynb).
#
# ## What else is there
#
# - **Memory** is a pytree of arrays of fixed shapes, such as the moving average of `methods.vasso`.
#   `init` returns its first value.
# - **Schedules** use the step counter: `rho(step)`.
# - **The cost** is optional: `GradientEstimator(init, estimate, Cost(gradients=3))`. A budget of
#   gradient evaluations needs it, as in `tsam-jax compare`.
# - `loss.value(point)` is a loss without a gradient, at a third of the cost: `methods.esam2` uses
#   it to try step sizes.
# - `loss.on(i, n)` is the loss of part i of n of the batch: `methods.m_sam` uses it. `m_sam` takes
#   any estimator, also the new one: `methods.m_sam(two_sided(1.0, 0.1), m=16)`.
# - Use `jax.lax.cond` for steps that differ, as `methods.looksam` does.
#
# To make it a part of the library, with its row in the contract test: [Adding to the
# library](../extending.md#a-method).
