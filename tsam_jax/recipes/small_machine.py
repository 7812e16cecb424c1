"""Experiments that take minutes on two cores: noisy images and sentences, trained from scratch.

They resemble the paper's tasks at a smaller size. Compare their numbers with each other, not with
published ones. The records are in benchmarks/results/cifar10_small and glue_small.
"""

from collections.abc import Mapping
from typing import Any

from tsam_jax.recipes._recipe import SGD, Recipe

_IMAGES: Mapping[str, Any] = {
    "dataset": "cifar10",
    "train_size": 1500,
    "evaluation_size": 2000,
    "image_size": 16,
    "model": "resnet8-thin",
    "augmentation": "none",
}
_IMAGES_OPTIMIZER: Mapping[str, Any] = {**SGD, "lr": 0.1, "batch_size": 32, "schedule": "cosine"}

IMAGES_SEARCH = (
    "erm(lr=[0.03, 0.1, 0.3], weight_decay=[0.0005, 0.005])",
    "sam(rho=[0.1, 0.2, 0.3], lr=[0.03, 0.1])",
    "tsam(t=[20, 100], rho=[0.1, 0.15, 0.2], s=3, noise=sphere(rms=0.02), lr=0.1,"
    " strategy='streamed')",
)
"""Six settings of each method, all with the same number of epochs."""

IMAGES_SETTINGS = {
    "erm": "erm(lr=0.1, weight_decay=0.005)",
    "sam": "sam(rho=0.2, lr=0.1)",
    "tsam": "tsam(t=100, rho=0.15, s=3, noise=sphere(rms=0.02), lr=0.1, strategy='streamed')",
}
"""Chosen on the validation images with 40 % wrong labels."""

IMAGES_ALL = (
    *IMAGES_SETTINGS,
    "erm(lr=0.1, weight_decay=0.005, budget=180)",
    "sam(rho=0.2, lr=0.1, budget=180)",
)
"""Each method with the same epochs, and ERM and SAM also with TSAM's gradient evaluations."""

_TEXT: Mapping[str, Any] = {"label_noise": 0.0, "model": "bert-thin"}
_TEXT_OPTIMIZER: Mapping[str, Any] = {
    **SGD,
    "base": "adamw",
    "lr": 0.001,
    "batch_size": 32,
    "weight_decay": 0.01,
}

TEXT_SEARCH = (
    "erm(lr=[0.0003, 0.001, 0.003, 0.01])",
    "sam(rho=[0.05, 0.2], lr=[0.001, 0.003])",
    "tsam(t=5, rho=[0.05, 0.2], s=3, lr=[0.001, 0.003], strategy='streamed')",
)
"""Four settings of each method."""

TEXT_SETTINGS = {
    "erm": "erm(lr=0.0003)",
    "sam": "sam(rho=0.05, lr=0.003)",
    "tsam": "tsam(t=5, rho=0.05, s=3, lr=0.003, strategy='streamed')",
}
"""Chosen on the validation sentences of SST-2."""

TEXT_ALL = (
    *TEXT_SETTINGS,
    "sam(rho=0.05, lr=0.003, budget=24)",
    "tsam(t=5, rho=0.05, s=3, lr=0.003, strategy='streamed', budget=72)",
)
"""Each method with the same gradient evaluations, and SAM and TSAM also with ERM's epochs."""


def _text(summary: str, task: Mapping[str, Any]) -> Recipe:
    return Recipe(
        summary,
        task={**_TEXT, **task},
        optimizer=_TEXT_OPTIMIZER,
        budget={"budget": 12.0},
        settings=TEXT_SETTINGS,
        everything=TEXT_ALL,
        search=TEXT_SEARCH,
    )


RECIPES = {
    "cifar10-small": Recipe(
        "1,500 images of CIFAR-10, 16 x 16 pixels, 20 % wrong training labels, thin ResNet-8",
        task={**_IMAGES, "label_noise": 0.2},
        optimizer=_IMAGES_OPTIMIZER,
        budget={"epochs": 30},
        settings=IMAGES_SETTINGS,
        everything=IMAGES_ALL,
        search=IMAGES_SEARCH,
    ),
    "cifar10-small-noise40": Recipe(
        "1,500 images of CIFAR-10, 16 x 16 pixels, 40 % wrong training labels, thin ResNet-8",
        task={**_IMAGES, "label_noise": 0.4},
        optimizer=_IMAGES_OPTIMIZER,
        budget={"epochs": 30},
        settings=IMAGES_SETTINGS,
        everything=IMAGES_ALL,
        search=IMAGES_SEARCH,
    ),
    "sst2-small": _text(
        "1,500 sentences of GLUE's SST-2, one-layer BERT from scratch",
        {"dataset": "glue:SST-2", "train_size": 1500, "evaluation_size": 800, "max_length": 32},
    ),
    "cola-small": _text(
        "1,500 sentences of GLUE's CoLA, one-layer BERT from scratch",
        {"dataset": "glue:CoLA", "train_size": 1500, "evaluation_size": 800, "max_length": 24},
    ),
    "rte-small": _text(
        "1,500 pairs of GLUE's RTE, one-layer BERT from scratch",
        {"dataset": "glue:RTE", "train_size": 1500, "max_length": 64},
    ),
}
