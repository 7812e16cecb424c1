"""A small run of the fuzz, and what its judge notices."""

import fuzz
import numpy as np
import pytest


def test_nothing_is_read_wrongly_and_nothing_raises_another_error():
    said = []
    counts = fuzz.run(150, 0, said.append)
    assert said == []
    assert sum(sum(found.values()) for found in counts.values()) == 150
    assert all(found["right"] and found["refused clearly"] for found in counts.values())


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
