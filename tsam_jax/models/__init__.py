"""Flax models: one module per architecture, each with `build(...)`; `MODELS` lists them by name.

Image models map images (batch, height, width, channels) to logits (batch, num_outputs). Text
models map `(token_ids, attention_mask=None, token_type_ids=None)`, each (batch, length), to
outputs (batch, num_outputs). `model.train()` and `model.eval()` switch BatchNorm and dropout.
`tsam_jax.models.pretrained.load_pretrained` loads pretrained weights.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

from tsam_jax.models import bert, cnn, distilbert, mlp, resnet, vit, wide_resnet

__all__ = ["MODELS", "Entry"]


class Entry(NamedTuple):
    """A model of the catalogue.

    Attributes:
      build: (num_outputs, *, rngs, **options) -> the model. All models take `dtype`, `dropout` and
        `remat`; image models also take `image_shape=(height, width, channels)`, and text models
        `vocabulary` and `max_length`. Other options are those of the architecture's `build`.
      kind: input of the model, "image" or "text".
      description: one-line description.
    """

    build: Callable[..., Any]
    kind: Literal["image", "text"]
    description: str


def _mlp(
    num_outputs: int, *, image_shape: tuple[int, int, int] = (32, 32, 3), **options: Any
) -> mlp.MLP:
    return mlp.build(math.prod(image_shape), num_outputs, **options)


def _image(description: str, build: Callable[..., Any], **options: Any) -> Entry:
    return Entry(partial(build, **options), "image", description)


def _text(description: str, build: Callable[..., Any], **options: Any) -> Entry:
    return Entry(partial(build, **options), "text", description)


MODELS: dict[str, Entry] = {
    "mlp": _image("multilayer perceptron, two hidden layers of 256", _mlp),
    "cnn": _image("two convolutions and two dense layers, for small machines", cnn.build),
    "resnet8-thin": _image(
        "ResNet-8, 16 to 64 channels, for CPUs: 78 thousand parameters",
        resnet.build,
        blocks=(1, 1, 1),
        width=16,
    ),
    "resnet18": _image("ResNet-18 with the CIFAR stem", resnet.build, blocks=(2, 2, 2, 2)),
    "resnet34": _image("ResNet-34 with the CIFAR stem", resnet.build, blocks=(3, 4, 6, 3)),
    "resnet18-imagenet": _image(
        "ResNet-18 with the ImageNet stem",
        resnet.build,
        blocks=(2, 2, 2, 2),
        stem="imagenet",
        image_shape=(224, 224, 3),
    ),
    "resnet34-imagenet": _image(
        "ResNet-34 with the ImageNet stem",
        resnet.build,
        blocks=(3, 4, 6, 3),
        stem="imagenet",
        image_shape=(224, 224, 3),
    ),
    "wrn16-8": _image("standard WRN-16-8: 11.0 million parameters", wide_resnet.build),
    "wrn16-8-official": _image(
        "what the official TSAM code calls WideResNet 16-8: WRN-22-8, 17.2 million parameters",
        wide_resnet.build_official,
    ),
    "wrn28-10": _image("WRN-28-10", wide_resnet.build, depth=28, widening=10),
    "vit-thin": _image(
        "ViT for 32 x 32 images: patches of 4, width 128, 6 layers",
        vit.build,
        image_shape=(32, 32, 3),
        patch=4,
        width=128,
        depth=6,
        heads=4,
    ),
    "vit-tiny": _image("ViT-Ti/16: width 192, 12 layers", vit.build, width=192, heads=3),
    "vit-s16": _image("ViT-S/16: width 384, 12 layers", vit.build, width=384, heads=6),
    "vit-b16": _image("ViT-B/16: width 768, 12 layers", vit.build),
    "bert-thin": _text("BERT for CPUs: width 64, 1 layer", bert.build, width=64, depth=1, heads=2),
    "bert-tiny": _text("BERT-tiny: width 128, 2 layers", bert.build, width=128, depth=2, heads=2),
    "bert-base": _text("BERT-base: width 768, 12 layers", bert.build),
    "distilbert": _text("DistilBERT: width 768, 6 layers", distilbert.build),
}
