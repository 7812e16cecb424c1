"""The figures of a study, whatever of it is finished."""

import itertools

import matplotlib.colors
import numpy as np
import pytest
from made_up_study import GRID, STUDIES, THREE, diverged, row, rows_of, study

from tsam_jax.analysis import style
from tsam_jax.train import plots
from tsam_jax.train.table import Results


def names(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


every_study = pytest.mark.parametrize("name", STUDIES)


@every_study
def test_figures_have_axes_with_names(name):
    study_, rows = STUDIES[name]
    count = 2 if study_["metric"] == "loss" else 4
    for figure, panels in (
        (plots.learning_curves(Results(study_, rows)), count),
        (plots.sharpness(Results(study_, rows)), 2),
    ):
        assert len(figure.axes) == panels
        assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)
    grids = plots.grids(Results(study_, rows))
    assert bool(grids) == (name in {"sweep", "many"})
    if grids:
        assert all(axes.get_xlabel() for axes in plots.heat_map(Results(study_, rows)).axes[:1])


def test_learning_curves_are_over_gradients_spent():
    study_, rows = STUDIES["complete"]
    test, train, *_ = plots.learning_curves(Results(study_, rows)).axes
    erm, _, tsam = test.lines
    np.testing.assert_allclose(erm.get_xdata(), 20 * np.arange(1, 21))
    np.testing.assert_allclose(tsam.get_xdata(), 120 * np.arange(1, 21))
    curves = [r["curve"]["test_accuracy"] for r in rows if r["method"] == "erm"]
    np.testing.assert_allclose(erm.get_ydata(), np.mean(curves, axis=0))
    assert names(test.figure) == ["ERM", "SAM", "TSAM"]
    assert train.get_ylabel() == "Training accuracy (noisy labels)"


def test_only_an_accuracy_has_percent_on_its_axis():
    def percent(name):
        axes = plots.learning_curves(Results(*STUDIES[name])).axes
        return ["%" in a.yaxis.get_major_formatter()(0.255) for a in axes]

    assert percent("complete") == [True, True, False, False]
    assert percent("glue") == [False] * 4
    assert [a.get_ylabel() for a in plots.learning_curves(Results(*STUDIES["glue"])).axes][:2] == [
        "Test pearson",
        "Training pearson",
    ]


def test_a_single_epoch_is_visible():
    figure = plots.learning_curves(Results(*STUDIES["one epoch"]))
    assert [line.get_marker() for line in figure.axes[0].lines] == ["o", "o"]


def test_gradient_evaluations_are_counted_in_whole_numbers():
    rows = rows_of(STUDIES["one epoch"][0])
    for own in rows:
        own["gradient_evaluations"] = 3.0
    [panel, *_] = plots.learning_curves(Results(STUDIES["one epoch"][0], rows)).axes
    ticks = panel.get_xticks()
    np.testing.assert_array_equal(ticks, np.round(ticks))


def test_the_mean_ends_where_a_seed_diverged():
    rows = [row("sam(rho=0.2)", 0), diverged("sam(rho=0.2)", 1)]
    [line] = plots.learning_curves(Results(study("sam(rho=0.2)"), rows)).axes[0].lines
    assert np.isfinite(line.get_ydata()).tolist() == [True] * 3 + [False] * 17


def test_seeds_of_different_length_share_an_axis():
    rows = [row("erm()", 0), row("erm()", 1)]
    rows[1]["curve"] = {name: values[:5] for name, values in rows[1]["curve"].items()}
    [line] = plots.learning_curves(Results(study("erm()"), rows)).axes[0].lines
    assert np.isfinite(line.get_ydata()).sum() == 5


def test_a_sweep_shows_the_best_setting_of_each_method():
    figure = plots.learning_curves(Results(*STUDIES["sweep"]))
    assert names(figure) == ["ERM lr=0.3", "SAM rho=0.1 lr=0.1", "TSAM t=1 rho=0.7 s=3"]
    own = style.looks(["erm", "sam", "tsam"]).values()
    assert [x.get_color() for x in figure.axes[0].lines] == [look["color"] for look in own]


@pytest.mark.parametrize("count", [2, 9])
def test_lines_of_a_grid_of_one_method_have_what_differs_as_names(count):
    grid = study(*[f"sam(rho=0.{k})" for k in range(count)])
    figure = plots.learning_curves(Results(grid, rows_of(grid)))
    assert names(figure) == [f"SAM rho=0.{k}" for k in range(count)]
    looks = {(line.get_color(), str(line._dash_pattern)) for line in figure.axes[0].lines}
    assert len(looks) == count


def test_sharpness_is_the_increase_over_the_loss_at_the_solution():
    rows = rows_of(THREE)
    mean, variance = plots.sharpness(Results(THREE, rows)).axes
    erm = [r["flatness"] for r in rows if r["method"] == "erm"]
    increase = np.mean([np.array(f["mean"]) - f["loss"] for f in erm], axis=0)
    np.testing.assert_allclose(mean.lines[0].get_ydata(), increase)
    expected = np.mean([f["variance"] for f in erm], axis=0)
    np.testing.assert_allclose(variance.lines[0].get_ydata(), expected)
    assert (mean.get_xscale(), mean.get_yscale()) == ("linear", "log")


def test_a_negative_increase_is_shown_on_a_linear_axis():
    rows = rows_of(THREE)
    for one in rows:
        one["flatness"]["loss"] = 5.0
    mean, variance = plots.sharpness(Results(THREE, rows)).axes
    assert (mean.get_yscale(), variance.get_yscale()) == ("linear", "log")


def test_a_method_has_the_same_line_in_both_figures():
    study_, rows = STUDIES["diverged"]
    curve = plots.learning_curves(Results(study_, rows)).axes[0].lines[2]
    flat = plots.sharpness(Results(study_, rows)).axes[0].lines[1]
    assert curve.get_color() == flat.get_color() == style.looks(["tsam"])["tsam"]["color"]


def test_a_heat_map_has_the_best_value_of_each_cell():
    values = {(1, 2): 0.5, (1, 3): 0.6, (10, 2): 0.8, (10, 3): 0.7, (2, 2): 0.1}
    rows = [
        row(f"tsam(t={t}, rho=0.5, s={s})", 0, validation_accuracy=x)
        for (t, s), x in values.items()
    ]
    rows.append(row("erm()", 0))
    found = study(*(r["setting"] for r in rows), kind="sweep", seeds=[0])
    [panel] = plots.heat_map(Results(found, rows)).axes
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("t", "s")
    assert [tick.get_text() for tick in panel.get_xticklabels()] == ["1", "2", "10"]
    shown = np.ma.filled(panel.images[0].get_array(), np.nan)
    np.testing.assert_allclose(shown, [[0.5, 0.1, 0.8], [0.6, np.nan, 0.7]])
    texts = [text.get_text() for text in panel.texts]
    assert texts == ["50.0 %", "10.0 %", "80.0 %", "60.0 %", "-", "70.0 %"]
    [frame] = panel.patches
    assert frame.get_center() == pytest.approx((2, 0), abs=0.01)


def test_long_tick_labels_break_at_spaces_only_and_do_not_overlap():
    schedules = [f"linear_schedule(0.1, 0.2{k}, 1000)" for k in range(3)]
    texts = ["1e-05", "0.000123456789", "0.000234567891", *schedules]
    rows = [row(f"sam(rho={k})", 0, arguments={"rho": x, "lr": x}) for k, x in enumerate(texts)]
    figure = plots.heat_map(Results(study(*(r["setting"] for r in rows), kind="sweep"), rows))
    [panel] = figure.axes
    broken = [text.replace(", 0", ",\n0") for text in schedules]
    figure.draw_without_rendering()
    for ticks in (panel.get_xticklabels(), panel.get_yticklabels()):
        assert [tick.get_text() for tick in ticks] == [*texts[:3], *broken]
        boxes = [tick.get_window_extent() for tick in ticks]
        assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))


def luminance(colour):
    """Relative luminance of WCAG 2."""
    rgb = np.array(matplotlib.colors.to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def test_the_numbers_of_a_heat_map_are_readable_on_every_colour():
    cells = {(k, n): (10 * k + n) / 100 for k in range(10) for n in range(10) if k * n != 81}
    rows = [row(f"sam(rho={k}, lr={n})", 0, validation_accuracy=x) for (k, n), x in cells.items()]
    found = study(*(r["setting"] for r in rows), kind="sweep")
    [panel] = plots.heat_map(Results(found, rows)).axes
    image = panel.images[0]
    for text, value in zip(panel.texts, image.get_array().flat, strict=True):
        missing = value is np.ma.masked
        below = panel.get_facecolor() if missing else image.cmap(image.norm(value))
        dark, light = sorted(luminance(x) for x in (text.get_color(), below[:3]))
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_a_heat_map_of_the_loss_frames_the_lowest():
    rows = [row(f"sam(rho={k})", 0, validation_loss=x) for k, x in enumerate((0.5, 0.2, 0.9))]
    found = study(*(r["setting"] for r in rows), kind="sweep", metric="loss", metrics=["loss"])
    [panel] = plots.heat_map(Results(found, rows)).axes
    assert panel.patches[0].get_center() == pytest.approx((1, 0), abs=0.01)
    assert [text.get_text() for text in panel.texts] == ["0.5", "0.2", "0.9"]


def test_panels_of_a_heat_map_share_their_colours_and_name_what_they_hide():
    panels = plots.heat_map(Results(GRID, rows_of(GRID))).axes
    titles = [panel.get_title(loc="left") for panel in panels if panel.images]
    assert titles == ["ERM", "SAM", "TSAM, best over s"]
    scales = {panel.images[0].get_clim() for panel in panels if panel.images}
    assert len(scales) == 1
    assert isinstance(panels[0].images[0].norm, matplotlib.colors.Normalize)
