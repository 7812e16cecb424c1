"""Reference TSAM in NumPy, with loops, following the paper line by line.

Parameters are dicts of float64 arrays, and `loss` and `gradient` are functions of such a dict.
`perturbations[j]` is the draw of Algorithm 3, line 2, for sample j.
"""

import math

import numpy as np


def tsam(loss, gradient, theta, perturbations, *, t, rho, delta=0.0, masked=None):
    """Tilted gradient, with the losses, weights and points it is computed from.

    `masked` has the names of perturbed leaves and defaults to all. `delta` is the paper's delta
    divided by t.
    """
    masked = set(theta) if masked is None else masked
    delta = 0.5 if delta == "half" else delta
    tilt = (1 - delta) * t if delta < 1 else 0.0
    points, losses, gradients = [], [], []
    for eps in perturbations:  # Algorithm 1, line 2: sample s perturbations by Algorithm 3
        point = {}
        for name in theta:  # Algorithm 3, line 2: theta + eps
            point[name] = theta[name] + (eps[name] if name in masked else 0.0)
        g = gradient(point)
        squares = 0.0
        for name in masked:
            for entry in g[name].ravel():
                squares += entry**2
        for name in masked:  # Algorithm 3, line 3: one normalised ascent step
            if squares > 0:
                point[name] = point[name] + rho * g[name] / math.sqrt(squares)
        points.append(point)
        losses.append(loss(point))
        gradients.append(gradient(point))
    worst = max(losses)
    weights = []
    for l in losses:  # Algorithm 1, line 3: w = softmax((1 - delta) t L)
        if math.isinf(tilt):
            weights.append(float(l == worst))
        else:
            weights.append(math.exp(tilt * (l - worst)))
    total = sum(weights)
    weights = [w / total for w in weights]
    tilted = {name: np.zeros_like(theta[name]) for name in theta}
    for w, g in zip(weights, gradients, strict=True):  # Algorithm 1, line 4: sum of w_j g_j
        for name in theta:
            tilted[name] = tilted[name] + w * g[name]
    return tilted, np.array(losses), np.array(weights), points


def sam(gradient, theta, *, rho, steps=1):
    """SAM: `steps` normalised ascent steps of rho / steps each, then the gradient."""
    point = dict(theta)
    for _ in range(steps):
        g = gradient(point)
        length = math.sqrt(sum(np.sum(x**2) for x in g.values()))
        point = {name: point[name] + rho / steps * g[name] / length for name in theta}
    return gradient(point)
