"""Data sets by name: the default, wrong names and wrong options."""

import pytest

from tsam_jax import data
from tsam_jax.data import DataError, digits


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
        ("folder:", {}, "must be `folder:` and what to open"),
        ("digits:here", {}, "takes no path"),
        ("digits", {"vocab": "v"}, "`digits` has no option `vocab`; it has none"),
        ("folder:x", {"vocab": "v"}, "`folder:x` has no option `vocab`; it has size"),
        ("table:x", {"size": 3}, "no option `size`; it has text, label.*pad_to_longest"),
        ("npz:x.npz", {"data_dir": "y"}, r"y.x\.npz: there is no such file"),
        ("npz:/x.npz", {"data_dir": "y"}, r"^/x\.npz: there is no such file"),
    ],
)
def test_wrong_names_and_options_are_refused(name, options, words):
    with pytest.raises(DataError, match=words):
        data.load(name, **options)
