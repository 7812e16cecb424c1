"""Data sets of TensorFlow Datasets that are made without TensorFlow, in a second."""

import io
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


class Set(NamedTuple):
    """What a data set has, and its i-th example."""

    features: dict[str, Any]
    supervised: tuple[str, str] | None
    splits: dict[str, int]
    example: Callable[[int], dict[str, Any]]
    config: str | None = None
    version: str = "1.0.0"


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    file.seek(0)
    return file


def shapes(i):
    image = np.full((4, 4, 3), i, np.uint8)
    image[..., 1] = i % 3
    return {"file_name": f"{i}.png", "image": png(image), "label": i % 3}


SETS = {
    "TinyShapes": Set(
        {
            "file_name": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=["x", "y", "z"]),
        },
        ("image", "label"),
        {"train": 12, "test": 5},
        shapes,
    ),
    # all three splits, a label that is not called so, and images of two sizes
    "TinyGrey": Set(
        {
            "picture": tfds.features.Image(shape=(None, None, 1)),
            "digit": tfds.features.ClassLabel(num_classes=2),
        },
        ("picture", "digit"),
        {"train": 6, "validation": 3, "test": 3},
        lambda i: {"picture": png(np.full((4, 4 + i % 2), i, np.uint8)), "digit": i % 2},
    ),
    # as MNLI: two sentences, of which the second comes first in the alphabet
    "TinyPairs": Set(
        {
            "hypothesis": tfds.features.Text(),
            "premise": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=["no", "yes"]),
        },
        None,
        {"train": 8, "validation_matched": 3},
        lambda i: {"hypothesis": "b", "premise": "a" if i % 2 else "c", "label": i % 2},
    ),
    "TinyScores": Set(
        {"sentence": tfds.features.Text(), "label": np.float32},
        None,
        {"train": 12, "test": 5},
        lambda i: {"sentence": "abcd"[i % 4], "label": i % 4 / 2},
    ),
    # the name, the version and the unlabelled test split of the real one
    "Glue": Set(
        {"sentence": tfds.features.Text(), "label": tfds.features.ClassLabel(num_classes=2)},
        None,
        {"train": 8, "validation": 4, "test": 2},
        lambda i: {"sentence": "abcd"[i % 4], "label": i % 2},
        config="cola",
        version="2.0.0",
    ),
    # no label
    "TinyBoxes": Set(
        {"image": tfds.features.Image(shape=(4, 4, 3))},
        None,
        {"train": 3},
        lambda i: {"image": png(np.zeros((4, 4, 3), np.uint8))},
    ),
}


def prepare(name, data_dir):
    """Prepares a set, under the name that tfds makes of it: "tiny_shapes" for "TinyShapes"."""
    made = SETS[name]

    def info(self):
        features = tfds.features.FeaturesDict(made.features)
        return tfds.core.DatasetInfo(
            builder=self, features=features, supervised_keys=made.supervised
        )

    def examples(self, count):
        return ((i, made.example(i)) for i in range(count))

    def split_generators(self, dl_manager):
        return {split: examples(self, n) for split, n in made.splits.items()}

    methods = {
        "VERSION": tfds.core.Version(made.version),
        "BUILDER_CONFIGS": [tfds.core.BuilderConfig(name=made.config)] if made.config else [],
        "__module__": __name__,
        "_info": info,
        "_generate_examples": examples,
        "_split_generators": split_generators,
    }
    builder = type(name, (tfds.core.GeneratorBasedBuilder,), methods, skip_registration=True)
    builder(data_dir=data_dir, file_format="array_record").download_and_prepare()
