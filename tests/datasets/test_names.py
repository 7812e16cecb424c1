"""Data sets by name: the default, wrong names and wrong options."""

import pytest

from tsam_jax import data
from tsam_jax.data import DataError, digits
from tsam_jax.data.registry import base_name


def test_digits_by_name_are_the_digits():
    named, loaded = data.load("digits"), digits.load()
    assert named.kind == "vector"
    assert named.class_names == tuple("0123456789")
    for part, other in zip(named[:3], loaded[:3], strict=True):
        assert (part.inputs == other.inputs).all()
        assert (part.labels == other.labels).all()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("folder:", {}, "what to open after the colon, such as `folder:PATH`"),
        ("foldr:x", {}, r"`foldr` is not a kind.* Perhaps you meant `folder`\.$"),
        ("NPZ:x", {}, r"`NPZ` is not a kind.* Perhaps you meant `npz`\.$"),
        ("tiny_imagenet:x", {}, r"Perhaps you meant `tiny-imagenet`\.$"),
        ("qqqqqq:x", {}, r"the kinds are cifar, digits, folder, .*tiny-imagenet\.$"),
        ("digit", {}, r"Perhaps you meant `digits`\.$"),
        ("digits:here", {}, "takes no path"),
        ("digits", {"vocab": "v"}, "`digits` has no option `vocab`; its options are none"),
        ("folder:x", {"vocab": "v"}, "`folder:x` has no option `vocab`; its options are size"),
        ("table:x", {"size": 3}, "no option `size`; its options are text, label.*pad_to_longest"),
        ("npz:x.npz", {"data_dir": "y"}, r"y.x\.npz: no such file"),
        ("npz:/x.npz", {"data_dir": "y"}, r"^/x\.npz: no such file"),
    ],
)
def test_wrong_names_and_options_are_refused(name, options, words):
    with pytest.raises(DataError, match=words):
        data.load(name, **options)


def test_every_kind_is_a_module():
    expected = {"cifar", "digits", "folder", "glue", "npz", "table", "tfds", "tiny-imagenet"}
    assert set(data.SOURCES) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("digits", ("digits", "")),
        ("cifar10", ("tfds", "cifar10")),
        ("cifar10:3.0.2", ("tfds", "cifar10")),
        ("glue/cola:2.0.0", ("tfds", "glue/cola")),
        ("glue/cola:2.*.*", ("tfds", "glue/cola")),
        ("tfds:glue/cola", ("tfds", "glue/cola")),
        ("tfds:glue/cola:2.0.0", ("tfds", "glue/cola")),
        ("glue:SST-2", ("glue", "SST-2")),
        ("folder:/photos:1.0.0", ("folder", "/photos:1.0.0")),
    ],
)
def test_base_names_have_no_version(name, expected):
    assert base_name(name) == expected


def test_a_misspelt_kind_has_no_base_name():
    with pytest.raises(DataError, match="Perhaps you meant `glue`"):
        base_name("gleu:cola")
