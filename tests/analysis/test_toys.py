"""The paper's toys: their losses, and what their figures show."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsam_jax.analysis import toys


@functools.cache
def figure_1():
    return toys.figure_1()


def test_minima_of_the_wavy_loss_get_flatter_from_left_to_right():
    theta = np.linspace(0.3, 2.5, 22_001)
    loss = np.array(jax.vmap(toys.wavy_loss)(jnp.asarray(theta)), np.float64)
    bottoms = np.flatnonzero((loss[1:-1] < loss[:-2]) & (loss[1:-1] <= loss[2:])) + 1
    np.testing.assert_allclose(theta[bottoms[0]], 0.615, atol=2e-3)
    depths = [loss[b - 300] - 2 * loss[b] + loss[b + 300] for b in bottoms]
    assert len(depths) == 4
    assert np.all(np.diff(depths) < 0)


def test_the_kinked_loss_is_as_printed():
    theta = np.array([0.0, 1.0, 2.0, 2.0001, 3.0, 4.0])
    losses = np.array([toys.kinked_loss(x) for x in theta])
    np.testing.assert_allclose(losses, [0.99, -0.01, 0.99, 1.0, 0.0, 1.0], atol=1e-3)


def test_figure_1_erm_stops_at_the_sharpest_minimum_and_tilts_move_on():
    runs = {run.label: run.theta for run in figure_1().runs}
    assert all(theta[0] == 0.5 for theta in runs.values())
    ends = {label: theta[-1] for label, theta in runs.items()}
    np.testing.assert_allclose(ends["ERM"], 0.615, atol=1e-3)
    np.testing.assert_allclose(ends["TSAM, t = 1"], 1.19, atol=0.02)
    np.testing.assert_allclose(ends["TSAM, t = 5"], 1.74, atol=0.03)
    np.testing.assert_allclose(ends["TSAM, t = 20"], 2.70, atol=0.05)
    assert ends["TSAM, t = 100"] > 2.3


def test_figures_3_and_4_move_to_the_flat_minimum_at_once():
    for data in (toys.figure_3(), toys.figure_4()):
        np.testing.assert_allclose(data.minimisers, [1.0] + 8 * [3.0], atol=1e-6)
    lowest_of_sam = toys.figure_3().values.min(axis=1)[1:]
    rhos = toys.figure_3().rhos[1:]
    np.testing.assert_allclose(lowest_of_sam, rhos**2, rtol=1e-4)
    lowest_of_tsam = toys.figure_4().values.min(axis=1)[1:]
    # E (eps^2) = rho^2 / 3, and (t / 2) Var (eps^2) = (t / 2) (4 / 45) rho^4 on top
    np.testing.assert_allclose(lowest_of_tsam, rhos**2 / 3 + 0.01 * 2 / 45 * rhos**4, rtol=2e-3)


def test_at_radius_zero_the_objective_is_the_loss():
    for data in (toys.figure_3(), toys.figure_4()):
        np.testing.assert_allclose(data.values[0], data.loss, atol=1e-6)


def test_captions_say_what_was_changed():
    assert "Changed against the text" in figure_1().caption
    assert "As printed" in toys.figure_4().caption


@pytest.mark.parametrize("name", ["fig3", "fig4"])
def test_a_figure_is_written_with_its_caption(name, tmp_path):
    caption = toys.render(name, tmp_path / "figure.svg")
    text = (tmp_path / "figure.svg").read_text()
    assert "<svg" in text
    assert caption


def test_an_unknown_figure_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"`render\(name\)` must be one of 'fig1', .*got 'fig2'"):
        toys.render("fig2", tmp_path / "figure.png")
