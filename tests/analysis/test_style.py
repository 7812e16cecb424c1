"""The lines of methods are the same everywhere, and images the same from run to run."""

import pytest

from tsam_jax.analysis import figures, style
from tsam_jax.methods import METHODS


def line(name, *others):
    look = style.looks([*others, name])[name]
    return look["color"], look["linestyle"]


def test_the_palette_is_stable():
    assert line("erm") == ("#000000", (0, (1, 1.2)))
    assert line("sam(rho=0.1)") == ("#D55E00", (0, (5, 1.5)))
    assert line("TSAM") == ("#0072B2", (0, None))


@pytest.mark.parametrize("name", ["erm", "SAM", "tsam(t=1, rho=2)", "m_sam", "F-SAM, seed 3"])
def test_a_method_has_its_line_whatever_stands_beside_it(name):
    assert line(name, "new", "asam()", "another") == line(name) == line(name.lower())


def test_lines_of_one_method_have_its_colour():
    found = style.looks(["sam(rho=1)", "erm()", "erm(lr=1)", "sam(rho=2)"])
    assert found["sam(rho=1)"]["color"] == found["sam(rho=2)"]["color"] == "#D55E00"
    assert found["erm()"]["color"] == found["erm(lr=1)"]["color"] == "#000000"
    assert found["erm()"]["linestyle"] != found["erm(lr=1)"]["linestyle"]


def test_lines_differ():
    settings = [f"sam(rho={k})" for k in range(6)] + ["new", "plain"]
    found = {str(look) for look in style.looks([*METHODS, *settings]).values()}
    assert len(found) == len(METHODS) + len(settings)
    assert len(style.looks(map(str, range(40)))) == 40


def test_methods_have_the_names_of_their_papers():
    names = [style.method_name(name) for name in ("erm()", "tsam_hmc", "fsam(rho=1)", "new(a=1)")]
    assert names == ["ERM", "TSAM-HMC", "F-SAM", "new"]


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_equal_figures_have_equal_bytes(kind):
    one, two = (style.image(figures.lines([0.0, 1.0], {"SAM": [1.0, 2.0]}), kind) for _ in "ab")
    assert one == two
