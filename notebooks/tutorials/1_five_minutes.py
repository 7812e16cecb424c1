# %% [markdown]
# # Five minutes to TSAM
#
# You have a training loop with optax. This page changes one line of it, and looks at what that
# did to the loss surface.
#
# The task: handwritten digits, small enough for any laptop, with a nasty twist. 40 % of the
# training labels are *wrong*. A network can learn them by heart, and then it will be wrong on new
# images as well. Test labels are right.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from tsam_jax.data import corrupt_labels, digits

EPOCHS = int(os.environ.get("EPOCHS", "100"))
plt.rcParams.update({"figure.dpi": 80, "axes.spines.top": False, "axes.spines.right": False})

splits = digits.load()
images, labels = splits.train
wrong_labels = corrupt_labels(labels, fraction=0.4, num_classes=10, seed=0)
train_set = images, wrong_labels

figure, axes = plt.subplots(1, 8, figsize=(8, 1.5))
for axis, image, label, truth in zip(axes, images, wrong_labels, labels, strict=False):
    axis.imshow(image.reshape(8, 8), cmap="gray_r")
    axis.set_title(str(label), color="tab:red" if label != truth else "black")
    axis.axis("off")

# %% [markdown]
# Red labels are wrong. Now a network in plain JAX, a loss, and the loop that you have written
# many times:


# %%
def init(key, sizes=(64, 256, 256, 10)):
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        {"w": jax.random.normal(key, (m, n)) * np.sqrt(2 / m), "b": jnp.zeros(n)}
        for key, m, n in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def logits(params, x):
    *hidden, last = params
    for layer in hidden:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ last["w"] + last["b"]


def loss(params, batch):
    x, y = batch
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y).mean()


@jax.jit
def accuracy(params, batch):
    x, y = batch
    return jnp.mean(logits(params, x).argmax(1) == y)


def train(optimizer, gradient_step):
    params = init(jax.random.key(0))
    state = optimizer.init(params)
    step = jax.jit(gradient_step(optimizer))
    shuffle, history = np.random.default_rng(0), []
    for _ in range(EPOCHS):
        for rows in shuffle.permutation(1000).reshape(20, 50):
            params, state = step(params, state, (images[rows], wrong_labels[rows]))
        history.append(float(accuracy(params, splits.test)))
    return params, history


def plain_step(optimizer):
    def step(params, state, batch):
        grads = jax.grad(loss)(params, batch)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def sgd(learning_rate):
    return optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(learning_rate, momentum=0.9))


plain, plain_history = train(sgd(0.01), plain_step)
print(f"plain training: {max(plain_history):.1%} at best, {plain_history[-1]:.1%} in the end")

# %% [markdown]
# At first the network learns what digits look like. Then it learns the wrong labels, and forgets.
#
# ## The one line
#
# `tsam` wraps the optimizer. Since it evaluates the loss at several points, `update` takes the
# loss function in place of a gradient; the batch is passed on to it. Nothing else changes.

# %%
from tsam_jax import noise, tsam


def sharpness_aware_step(optimizer):
    def step(params, state, batch):
        updates, state = optimizer.update(None, state, params, value_fn=loss, batch=batch)
        return optax.apply_updates(params, updates), state

    return step


optimizer = tsam(sgd(0.03), t=20.0, rho=0.7, s=3, noise=noise.sphere(rms=0.02))
tilted, tilted_history = train(optimizer, sharpness_aware_step)
print(f"TSAM: {max(tilted_history):.1%} at best, {tilted_history[-1]:.1%} in the end")

# %% [markdown]
# - `t` is the tilt: how much the worst places of the neighbourhood count.
# - `rho` is the length of the step uphill that each sample takes before its gradient.
# - `s` is the number of samples, and `noise` where they start.
#
# They were [chosen on validation images](../results.md), with the learning rate.

# %%
ORANGE, BLUE = "#D55E00", "#0072B2"
figure, axis = plt.subplots(figsize=(6, 3.2))
for history, name, color in (
    (plain_history, "plain", ORANGE),
    (tilted_history, "TSAM", BLUE),
):
    axis.plot(range(1, EPOCHS + 1), history, color=color)
    axis.annotate(name, (EPOCHS, history[-1]), (6, -3), textcoords="offset points", color=color)
_ = axis.set(xlabel="epoch", ylabel="test accuracy", ylim=(0, 1))
# %% [markdown]
# ## What happened to the loss surface?
#
# Walk away from each solution in random directions, and watch the training loss: the one with the
# wrong labels, which was minimised. Distance is per weight, so 0.05 means that a typical weight
# changes by 0.05.

# %%
from tsam_jax.analysis import neighbourhood_loss, top_eigenvalues

train_loss = jax.jit(lambda params: loss(params, train_set))
distances = np.linspace(-0.1, 0.1, 41)


@jax.jit
def along(params, key):
    direction = noise.gaussian(rms=1.0)(key, params)
    point = lambda a: jax.tree.map(lambda p, d: p + a * d, params, direction)
    return jax.lax.map(lambda a: train_loss(point(a)), distances)


keys = jax.random.split(jax.random.key(1), 5)
figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharex=True, sharey=True)
for axis, params, name, color in (
    (axes[0], plain, "plain", ORANGE),
    (axes[1], tilted, "TSAM", BLUE),
):
    for key in keys:
        axis.plot(distances, along(params, key), color=color, alpha=0.7, linewidth=1)
    axis.set(title=name, xlabel="distance per weight", ylim=(0, 5))
_ = axes[0].set_ylabel("training loss")
# %% [markdown]
# Plain training has found the bottom of a ravine: the training loss is lower there, and rises
# steeply. TSAM has found a plain: higher, since it does not fit the wrong labels, and it stays as
# it is for a long way.
#
# Numbers say the same. The mean loss under noise of 0.03 per weight, how much it varies, and the
# largest eigenvalue of the Hessian, the sharpest curvature:

# %%
for name, params in (("plain", plain), ("TSAM", tilted)):
    nearby = neighbourhood_loss(
        train_loss, params, jax.random.key(2), noise=noise.gaussian(rms=0.03), num_samples=50
    )
    sharpest = top_eigenvalues(train_loss, params, jax.random.key(3)).values[0]
    print(
        f"{name:>6}: loss {train_loss(params):.2f}, nearby {nearby.mean:.2f}"
        f" with variance {nearby.variance:.1e}, largest eigenvalue {sharpest:.1f}"
    )

# %% [markdown]
# ## What it cost, and what it did not show
#
# A TSAM step evaluates 2s = 6 gradients, where a plain step evaluates one. And plain training can
# do better than it did here: stopped at its best epoch, or with a weight decay that is [tuned for
# it](../results.md), it comes within the error bars of the others. What flatness did here is to
# keep the network from learning the wrong labels by heart, without being stopped in time.
#
# Next: [what the tilt does](2_the_tilt.ipynb), in one dimension, where everything can be seen.
