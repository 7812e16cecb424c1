"""The table of several models, and that their figures show the data."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsam_jax.analysis import (
    NeighbourhoodLoss,
    SampleDiagnostics,
    Spectrum,
    figures,
    report,
    toy_figures,
    toys,
)

pytestmark = pytest.mark.usefixtures("fast_compile")


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
    return [text.get_text() for axes in figure.axes for text in axes.texts]


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
    assert texts(figure) == 2 * ["ERM", "SAM"]


def test_many_models_are_named_below_and_not_at_their_lines():
    names = [f"model {i}" for i in range(9)]
    figure = figures.lines([0.0, 1.0], {name: [0.0, i] for i, name in enumerate(names)})
    assert texts(figure) == []
    assert [text.get_text() for text in figure.legends[0].texts] == names


def test_long_names_leave_two_panels_their_width():
    curves = {name * 34: curve(2.0) for name in "ab"}
    figure = figures.sharpness_against_size(curves, [0.1, 0.2], dict.fromkeys(curves, 0.5))
    figure.draw_without_rendering()
    assert all(axes.get_window_extent().width > 0.3 * figure.bbox.width for axes in figure.axes)


def test_a_spectrum_is_named_with_its_largest_eigenvalue():
    spectrum = Spectrum(jnp.array([[0.0, 3.25, 99.0]]), jnp.array([[0.9, 0.1, 0.0]]))
    assert texts(figures.spectra({"SAM": spectrum})) == [" SAM, up to 3.25"]
    nothing = Spectrum(*(jnp.full((1, 2), jnp.nan) for _ in range(2)))
    for beside, labels in (({}, []), ({"SAM": spectrum}, [" SAM, up to 3.25"])):
        figure = figures.spectra(beside | {"bad": nothing})
        assert texts(figure) == [*labels, " bad, not finite"]
        figure.draw_without_rendering()


def test_a_spectrum_is_named_on_the_side_that_has_room():
    spectra = {
        name * 30: Spectrum(jnp.array([[0.0, top]]), jnp.array([[0.9, 0.1]]))
        for name, top in (("a", 0.1), ("b", 4.0))
    }
    figure = figures.spectra(spectra)
    figure.draw_without_rendering()
    (panel,) = figure.axes
    assert panel.get_window_extent().width > 0.8 * figure.bbox.width
    assert [text.get_ha() for text in panel.texts] == ["left", "right"]


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
    assert len(panel.collections[0].get_segments()) == len(data.rhos)
