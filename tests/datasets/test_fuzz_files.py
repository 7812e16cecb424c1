"""What the judge of the fuzz notices."""

import fuzz_files as fuzz
import numpy as np
import pytest


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({}, "right"),
        ({"good": None}, "silently wrong"),
        ({"options": {"size": 0}}, "refused though good"),
        ({"options": {"size": 0}, "good": None}, "refused clearly"),
        ({"options": {"split_seed": "x"}}, "traceback"),
    ],
)
def test_the_judge(tmp_path, change, outcome):
    contents, good = fuzz.two_classes()
    fuzz.put(tmp_path, contents)
    case = fuzz.Case("plain", f"folder:{tmp_path}", good)
    for name, value in change.items():
        setattr(case, name, value)
    assert fuzz.judge(case, tmp_path)[0] == outcome


def test_a_changed_pixel_is_noticed():
    good = [("a", np.zeros((2, 2, 3))), ("b", np.ones((2, 2, 3)))]
    assert fuzz.is_same(good[::-1], good, 0)
    assert not fuzz.is_same([("b", good[0][1]), ("a", good[1][1])], good, 0)
    assert not fuzz.is_same(good[:1], good, 0)
    assert not fuzz.is_same([good[0], good[0]], good, 0)
