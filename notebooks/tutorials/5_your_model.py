# %% [markdown]
# # Your own model
#
# The library knows pytrees and loss functions, and no framework. Here is one small network in
# four dresses: flax.nnx with BatchNorm, flax.linen with BatchNorm, plain functions, and plain
# functions on four devices. All learn the same digits with TSAM. Take the one that looks like
# your code.

# %%
import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"  # for the last section

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tsam_jax import methods, noise, tsam, value_and_grad
from tsam_jax.data import digits

EPOCHS = int(os.environ.get("EPOCHS", "10"))

splits = digits.load(train_size=1024)


def batches(seed):
    order = np.random.default_rng(seed).permutation(1024).reshape(16, 64)
    return [(splits.train.inputs[rows], splits.train.labels[rows]) for rows in order]


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def accuracy(logits):
    return f"test accuracy {np.mean(np.argmax(logits, 1) == splits.test.labels):.1%}"


settings = {"t": 20.0, "rho": 0.1, "s": 3, "noise": noise.sphere(rms=0.006)}

# %% [markdown]
# ## flax.nnx, with BatchNorm
#
# Use `tsam_jax.nnx.Estimator` beside `nnx.Optimizer`. It keeps the method's state, calls the loss
# at every probe with a copy of the model, and moves the running averages of BatchNorm once a step.

# %%
from flax import nnx

import tsam_jax.nnx


class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(64, 128, rngs=rngs)
        self.norm = nnx.BatchNorm(128, momentum=0.9, rngs=rngs)
        self.head = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.norm(self.hidden(x))))


model = Net(nnx.Rngs(0))
optimizer = nnx.Optimizer(model, optax.sgd(0.05, momentum=0.9), wrt=nnx.Param)
estimator = tsam_jax.nnx.Estimator(model, methods.tsam(**settings))


@nnx.jit
def nnx_step(model, optimizer, estimator, batch):
    def loss_fn(model, batch):
        return cross_entropy(model(batch[0]), batch[1])

    loss, grads = estimator.value_and_grad(loss_fn)(model, batch)  # was: nnx.value_and_grad
    optimizer.update(model, grads)
    return loss


for epoch in range(EPOCHS):
    for batch in batches(epoch):
        loss = nnx_step(model, optimizer, estimator, batch)

model.eval()
print("nnx:", accuracy(model(splits.test.inputs)))
weights = estimator.state.last.metrics["weights"]
print("weights of the last step's samples:", weights[...])

# %% [markdown]
# The running averages have followed the weights of many steps. To evaluate with those of the
# final weights, take them anew:

# %%
tsam_jax.nnx.recalibrate_batch_norm(model, batches(0), lambda model, batch: model(batch[0]))
model.eval()
print("recalibrated:", accuracy(model(splits.test.inputs)))

# %% [markdown]
# ## flax.linen
#
# Statistics leave the loss as auxiliary output. `value_and_grad` with `has_aux=True` returns
# those of one probe, which the method's `aux` argument chooses.

# %%
import flax.linen as nn


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(128)(x))
        return nn.Dense(10)(nn.relu(x))


net, base = LinenNet(), optax.sgd(0.05, momentum=0.9)


def linen_loss(params, batch, stats):
    variables = {"params": params, "batch_stats": stats}
    logits, changed = net.apply(variables, batch[0], train=True, mutable=["batch_stats"])
    return cross_entropy(logits, batch[1]), changed["batch_stats"]


method = methods.tsam(**settings, aux="clean")
gradient = value_and_grad(linen_loss, method, has_aux=True)  # was: jax.value_and_grad


@jax.jit
def linen_step(params, stats, states, batch):
    method_state, base_state = states
    ((_, stats), grads), method_state = gradient(params, method_state, batch, stats)
    updates, base_state = base.update(grads, base_state, params)
    return optax.apply_updates(params, updates), stats, (method_state, base_state)


variables = net.init(jax.random.key(0), splits.test.inputs, train=False)
params, stats = variables["params"], variables["batch_stats"]
states = gradient.init(params), base.init(params)
for epoch in range(EPOCHS):
    for batch in batches(epoch):
        params, stats, states = linen_step(params, stats, states, batch)

variables = {"params": params, "batch_stats": stats}
print("linen:", accuracy(net.apply(variables, splits.test.inputs, train=False)))

# %% [markdown]
# ## Plain functions
#
# Without such state the optax form is the shortest. Everything is a pytree: a dictionary here; an
# equinox module, a dataclass or a list would do.


# %%
def forward(params, x):
    return jax.nn.relu(x @ params["hidden"] + params["shift"]) @ params["head"]


def plain_loss(params, batch):
    return cross_entropy(forward(params, batch[0]), batch[1])


plain_optimizer = tsam(optax.sgd(0.1, momentum=0.9), **settings)  # was: optax.sgd(...)


@jax.jit
def plain_step(params, state, batch):
    updates, state = plain_optimizer.update(None, state, params, value_fn=plain_loss, batch=batch)
    return optax.apply_updates(params, updates), state


a, b = jax.random.split(jax.random.key(0))
start = {
    "hidden": jax.random.normal(a, (64, 128)) / 6,
    "shift": jnp.zeros(128),
    "head": jax.random.normal(b, (128, 10)) / 8,
}


def trained(params, state, place=lambda batch: batch):
    for epoch in range(EPOCHS):
        for batch in batches(epoch):
            # one step at a time: CPUs that pose as several devices may block each other else
            params, state = jax.block_until_ready(plain_step(params, state, place(batch)))
    return params


alone = trained(start, plain_optimizer.init(start))
print("functions:", accuracy(forward(alone, splits.test.inputs)))

# %% [markdown]
# ## Several devices
#
# Place the batch over the devices, and nothing else changes: the step is the one from above. XLA
# sees one large batch, so the norm of the ascent and the weights of the samples are those of the
# whole.

# %%
from jax.sharding import AxisType, NamedSharding, PartitionSpec

mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
rows = NamedSharding(mesh, PartitionSpec("data"))
everywhere = NamedSharding(mesh, PartitionSpec())

placed = jax.device_put((start, plain_optimizer.init(start)), everywhere)
together = trained(*placed, place=lambda batch: jax.device_put(batch, rows))
print(f"on {len(jax.devices())} devices:", accuracy(forward(together, splits.test.inputs)))

difference = max(float(jnp.abs(alone[name] - together[name]).max()) for name in alone)
print(f"largest difference of a weight from one device: {difference:.0e}")

# %% [markdown]
# That is rounding, in a different order of sums, grown over the steps. Samples can be spread over
# devices too, which costs one exchange a step where the batch costs 2s: [Many
# devices](../guides/devices.md).
#
# More on each: [flax and other pytrees](../guides/flax.md), [BatchNorm](../guides/batch_norm.md),
# [optax](../guides/optax.md).
