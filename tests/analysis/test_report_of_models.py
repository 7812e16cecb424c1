"""The table of several models, and that their figures show the data."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from tsam_jax.analysis import (
    NeighbourhoodLoss,
    SampleDiagnostics,
    Spectrum,
    figures,
    report,
    toy_figures,
    toys,
)


def bowl(scale):
    return lambda x: 1.0 + 0.5 * scale * jnp.sum(x**2)


def test_models_are_measured_alike():
    models = {"flat": (bowl(1.0), jnp.zeros(4)), "sharp": (bowl(10.0), jnp.zeros(4))}
    rows = report(
        models, jax.random.key(0),
        rms=(0.01, 0.1), t=5.0, rho=0.2, num_samples=30, num_eigenvalues=2, num_probes=3,
    )  # fmt: skip
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    flat, sharp = rows["flat"], rows["sharp"]
    assert list(flat) == list(sharp)
    assert flat["loss"] == 1.0
    np.testing.assert_allclose(sharp["top_eigenvalues"][0], 10.0, rtol=1e-4)
    assert sharp["top_eigenvalues"][1] is None  # equal eigenvalues are found once
    np.testing.assert_allclose([flat["trace"], sharp["trace"]], [4.0, 40.0], rtol=1e-4)
    np.testing.assert_allclose(sharp["worst_case_sharpness"], 5 * 0.2**2, rtol=1e-3)
    # the same noise: what differs is the scale
    rise = (np.array(sharp["mean"]) - 1) / (np.array(flat["mean"]) - 1)
    np.testing.assert_allclose(rise[1], 10.0, rtol=1e-3)
    assert sharp["t_sharpness"][1] > 50 * flat["t_sharpness"][1]
    assert sharp["tilted_loss"][1] > sharp["mean"][1]


def texts(figure):
    assert not any(axes.texts for axes in figure.axes)  # no text on a curve
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def curve(factor):
    values = factor * jnp.array([1.0, 4.0])
    return NeighbourhoodLoss(values, values**2, 0.1 * values, 0.1 * values)


def test_sharpness_is_drawn_as_the_rise_over_the_loss():
    figure = figures.sharpness_against_size(
        {"ERM": curve(2.0), "SAM": curve(1.0)}, [0.1, 0.2], {"ERM": 0.5, "SAM": 0.25}
    )
    mean, variance = figure.axes
    np.testing.assert_allclose(mean.lines[0].get_ydata(), [1.5, 7.5])
    np.testing.assert_allclose(variance.lines[1].get_ydata(), [1.0, 16.0])
    assert texts(figure) == ["ERM", "SAM"]


@pytest.mark.parametrize("length", [1, 30, 80])
def test_names_stand_above_the_panels_and_within_the_figure(length):
    curves = {f"{i}" + "x" * length: curve(i) for i in range(1, 10)}
    figure = figures.sharpness_against_size(curves, [0.1, 0.2], dict.fromkeys(curves, 0.5))
    figure.draw_without_rendering()
    assert texts(figure) == list(curves)
    box, [legend] = figure.bbox, figure.legends
    assert legend.get_window_extent().x1 <= box.x1
    for panel in figure.axes:
        assert panel.get_window_extent().y1 < legend.get_window_extent().y0
        assert panel.get_window_extent().width > 0.3 * box.width
        assert panel.get_window_extent().height / figure.dpi > 1.5


def test_a_spectrum_is_named_with_its_largest_eigenvalue():
    spectrum = Spectrum(jnp.array([[0.0, 3.25, 99.0]]), jnp.array([[0.9, 0.1, 0.0]]))
    assert texts(figures.spectra({"SAM": spectrum})) == ["SAM, up to 3.25"]
    nothing = Spectrum(*(jnp.full((1, 2), jnp.nan) for _ in range(2)))
    for beside, labels in (({}, []), ({"SAM": spectrum}, ["SAM, up to 3.25"])):
        figure = figures.spectra(beside | {"bad": nothing})
        assert texts(figure) == [*labels, "bad, not finite"]
        figure.draw_without_rendering()


@pytest.mark.parametrize(
    ("low", "high", "some"),
    [(0.5, 3.0, 1.5), (0.02, 20.0, 0.5), (-1.0, 1.0, 0.0), (1e-6, 1e4, 1.0), (1.1, 1.12, 1.11)],
)
def test_contours_are_at_round_numbers_around_all_losses(low, high, some):
    levels = figures._round_levels(np.array([low, high, np.nan, np.inf]))
    assert levels[0] <= low < levels[1]
    assert levels[-2] < high <= levels[-1]
    assert 6 <= len(levels) <= 16
    assert np.isclose(levels, some).any()
    assert [float(f"{level:.4g}") for level in levels] == pytest.approx(levels.tolist(), rel=1e-9)


def test_what_is_drawn_between_the_points_goes_through_them():
    xs, ys = np.linspace(-1, 1, 9), np.linspace(0, 2, 7)
    losses = np.exp(np.add.outer(ys**2, xs**2))
    x, y, fine = figures._smooth(xs, ys, losses)
    assert fine.shape == (len(y), len(x)) == (70, 90)
    np.testing.assert_allclose([fine[0, 0], fine[-1, -1]], [losses[0, 0], losses[-1, -1]])
    assert losses.min() <= fine.min() <= fine.max() <= losses.max() * (1 + 1e-12)
    exact = np.exp(np.add.outer(y**2, x**2))
    np.testing.assert_allclose(fine, exact, rtol=3e-2)
    losses[0, 0] = np.nan
    assert figures._smooth(xs, ys, losses)[2] is losses


def test_trajectories_end_in_a_star_at_their_last_point():
    loss = np.add.outer(np.arange(3.0) ** 2, np.arange(4.0))
    path = np.array([[0.0, 0.0], [2.0, 1.0]])
    panel = figures.landscape(np.arange(4), np.arange(3), loss, trajectories={"SAM": path}).axes[0]
    star = panel.lines[-1]
    assert star.get_marker() == "*"
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (2.0, 1.0)


def test_a_constant_landscape_can_be_drawn():
    assert figures.landscape([0, 1], [0, 1], np.ones((2, 2))).axes


def test_runs_are_smoothed_over_a_twentieth_of_their_steps():
    ramp = jnp.linspace(1.0, 3.0, 100)
    figure = figures.samples_over_training(
        {"t = 1": SampleDiagnostics(ramp, 1 / ramp, ramp, ramp)}, 3
    )
    smooth = figure.axes[0].lines[1]
    np.testing.assert_allclose(smooth.get_ydata()[0], np.mean(ramp[:5]), rtol=1e-5)
    assert smooth.get_xdata()[0] == 4
    assert figure.axes[0].get_ylim()[0] == 1.0


def test_toy_objectives_are_drawn_with_their_minimisers():
    data = toys.figure_3()
    panel = toy_figures.objectives_at_radii(data).axes[0]
    np.testing.assert_allclose(panel.lines[-1].get_xdata(), data.minimisers)
    assert list(panel.collections[0].get_colors()[-1][:3]) == list(to_rgb("#D55E00"))  # SAM's
    assert len(panel.collections[0].get_segments()) == len(data.rhos)
