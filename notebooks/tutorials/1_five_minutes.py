# %% [markdown]
# # Five minutes to TSAM
#
# You have a training loop with optax. This page changes one line of it, and looks at what that
# does to the loss surface.
#
# The task is handwritten digits, small enough for any laptop, but 40 % of the training labels are
# *wrong*. A network can memorise them, and is then wrong on new images. Test labels are right.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from tsam_jax.analysis.style import looks
from tsam_jax.data import corrupt_labels, digits

EPOCHS = int(os.environ.get("EPOCHS", "100"))
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})

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
plain_look, tilted_look = looks(["ERM", "TSAM"]).values()
figure, axis = plt.subplots(figsize=(6, 3.2))
axis.plot(range(1, EPOCHS + 1), plain_history, label="plain", **plain_look)
axis.plot(range(1, EPOCHS + 1), tilted_history, label="TSAM", **tilted_look)
axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
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
for axis, params, name, look in (
    (axes[0], plain, "plain", plain_look),
    (axes[1], tilted, "TSAM", tilted_look),
):
    for key in keys:
        axis.plot(distances, along(params, key), color=look["color"], alpha=0.7, linewidth=1)
    axis.set(title=name, xlabel="distance per weight", ylim=(0, 5))
_ = axes[0].set_ylabel("training loss")
# %% [markdown]
# Plain training has found a ravine: its training loss is lower, and rises steeply. TSAM has found
# a plateau: its training loss is higher, since it does not fit the wrong labels, and hardly rises.
#
# In numbers: the mean loss under noise of 0.03 per weight, its variance, and the largest eigenvalue
# of the Hessian, which is the sharpest curvature:

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
# A TSAM step evaluates 2s = 6 gradients; a plain step evaluates one. And plain training can do
# better than here. Stopped at its best epoch, or with a [tuned weight decay](../results.md), it is
# as accurate as the others within the error.
#
# So this page shows that TSAM resists memorising wrong labels, without early stopping. It does not
# show that a flatter solution is a more accurate one: [Flat or sharp?](3_flat_or_sharp.ipynb)
# measures a plain solution that is as accurate as TSAM's, with an eigenvalue 20 times as large.
#
# Next: [what the tilt does](2_the_tilt.ipynb), in one dimension, where everything can be seen.
