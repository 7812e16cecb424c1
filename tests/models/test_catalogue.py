"""The catalogue: parameter counts, shapes of the official networks, and outputs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_models import flat, spec, split

from tsam_jax.models import MODELS, _names_resnet

# Published counts, with 1000 outputs for ImageNet models, 2 for text models and 10 for others, from
# the official TSAM code (resnet18, wrn16-8-official), torchvision (ImageNet), timm, transformers
# and the papers.
COUNTS = {
    "mlp": 855_050,
    "cnn": 545_098,
    "resnet8-thin": 78_042,
    "resnet18": 11_173_962,
    "resnet34": 21_282_122,
    "resnet18-imagenet": 11_689_512,
    "resnet34-imagenet": 21_797_672,
    "wrn16-8": 10_961_370,
    "wrn16-8-official": 17_158_106,
    "wrn28-10": 36_479_194,
    "vit-thin": 1_205_898,
    "vit-tiny": 5_717_416,
    "vit-s16": 22_050_664,
    "vit-b16": 86_567_656,
    "bert-thin": 2_040_706,
    "bert-tiny": 4_386_178,
    "bert-base": 109_483_778,
    "distilbert": 66_955_010,
}


def num_outputs(name):
    imagenet = name.endswith("imagenet") or name in {"vit-tiny", "vit-s16", "vit-b16"}
    return 2 if MODELS[name].kind == "text" else 1000 if imagenet else 10


def test_the_counts_are_those_of_the_catalogue():
    assert COUNTS.keys() == MODELS.keys()


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_and_outputs(name):
    outputs, entry = num_outputs(name), MODELS[name]
    size = (224, 224, 3) if outputs == 1000 else (32, 32, 3)

    def run():
        model = entry.build(outputs, rngs=nnx.Rngs(0))
        tokens = jnp.zeros((2, 7), jnp.int32)
        arguments = (jnp.zeros((2, *size)),) if entry.kind == "image" else (tokens,) * 3
        return model, model(*arguments)

    model, y = nnx.eval_shape(run)
    params = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert sum(math.prod(x.shape) for x in params) == COUNTS[name]
    assert {str(x.dtype) for x in params} == {"float32"}
    assert (y.shape, y.dtype) == ((2, outputs), jnp.float32)


@pytest.mark.parametrize(
    ("entry", "official", "names"),
    [
        (
            "resnet18",
            "resnet18_cifar10",
            _names_resnet.resnet_names((2, 2, 2, 2), shortcut="shortcut", head="linear"),
        ),
        ("wrn16-8-official", "wrn16_8_cifar10", _names_resnet.wide_resnet_names(3)),
    ],
)
def test_shapes_of_the_official_networks(entry, official, names):
    model = nnx.eval_shape(lambda: MODELS[entry].build(10, rngs=nnx.Rngs(0)))
    ours = {path: x.shape for state in split(model)[1:] for path, x in flat(state).items()}
    theirs = spec(official)["params"] | spec(official)["buffers"]
    given = {path: np.broadcast_to(0, theirs[name]) for path, (name, _) in names.items()}
    assert ours == {path: names[path].layout(x).shape for path, x in given.items()}
    unused = theirs.keys() - {source.name for source in names.values()}
    assert all(name.endswith(".num_batches_tracked") for name in unused)
    assert sum(math.prod(shape) for shape in spec(official)["params"].values()) == COUNTS[entry]
