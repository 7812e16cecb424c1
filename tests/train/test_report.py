"""The table, the figures and the page of a comparison, complete or not."""

import dataclasses
import io
import json
import re

import numpy as np
import pytest
from rich.console import Console

from tsam_jax.analysis import style
from tsam_jax.train import plots, report
from tsam_jax.train.results import Comparison, MethodResult

SIZES = np.array([0.005, 0.02, 0.1])


def method(label="sam(rho=0.1)", *, seeds=3, epochs=4, planned=4, analysed=True):
    generator = np.random.default_rng(0)
    measured = generator.uniform(0.1, 0.9, (seeds, len(SIZES) if analysed else 0))
    names = [
        f"{part}_{what}"
        for part in ("train", "validation", "test")
        for what in ("loss", "accuracy")
    ]
    return MethodResult(
        label=label,
        name=label.partition("(")[0],
        settings={"rho": 0.1, "lr": 0.03, "t": float("inf")},
        gradients_per_step=2.0,
        steps_per_epoch=20,
        epochs=epochs,
        planned_epochs=planned,
        seeds=tuple(range(seeds)),
        gradient_evaluations=40 * epochs,
        wall_seconds=130.0,
        curve_epochs=np.arange(1, epochs + 1),
        curves={name: generator.uniform(0.2, 0.9, (seeds, epochs)) for name in names},
        noise_rms=SIZES,
        neighbourhood_mean=measured + 1,
        neighbourhood_variance=measured,
        loss=np.full(seeds, 0.1 if analysed else np.nan),
        top_eigenvalue=np.full(seeds, 12.5 if analysed else np.nan),
    )


def comparison(*methods, **changes):
    fields = {
        "task": {"name": "digits", "label_noise": 0.4},
        "config": {"methods": [m.label for m in methods]},
        "versions": {"jax": "0.10.2"},
        "complete": True,
        "methods": methods,
    }
    return Comparison(**{**fields, **changes})


COMPARISONS = {
    "complete": comparison(method("erm"), method("sam(rho=0.1)"), method("tsam(t=20)", epochs=1)),
    "grid": comparison(*[method(f"sam(rho={rho})") for rho in range(9)]),
    "one seed": comparison(method(seeds=1)),
    "one epoch": comparison(method(epochs=1)),
    "interrupted": comparison(
        method("erm"),
        method("sam", epochs=2, analysed=False),
        method("tsam", epochs=0, analysed=False),
        complete=False,
        config={"methods": ["erm", "sam", "tsam", "asam"]},
    ),
    "nothing": comparison(complete=False),
}
every_comparison = pytest.mark.parametrize("record", COMPARISONS.values(), ids=COMPARISONS)


def printed(record, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(report.render_table(record))
    return console.file.getvalue()


@every_comparison
def test_table_fits_eighty_columns_and_needs_no_terminal(record):
    text = printed(record)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text  # nothing cut
    for row in record.methods:
        assert row.label in text


def test_table_shows_mean_interval_and_units():
    record = method("sam", seeds=2)
    record.curves["test_accuracy"][:, -1] = [0.70, 0.72]
    text = printed(comparison(record))
    assert "71.00" in text
    assert "±12.71" in text  # 12.706 * 0.01 * 100
    assert "12.5" in text
    assert "2.17 min" in text
    assert "noise of 0.02 rms per coordinate" in " ".join(text.split())


def test_long_labels_are_folded_where_a_reader_would():
    label = "tsam(t=20, rho=0.8, s=3, noise=gaussian(rms=0.02))"
    folded = report._folded(label)
    assert folded.splitlines() == ["tsam(t=20,", "rho=0.8, s=3,", "noise=gaussian(", "rms=0.02))"]
    assert label.split()[-1].partition("(")[0] in printed(comparison(method(label)))


def test_brackets_in_labels_are_not_markup():
    assert "sam(w=[red])" in printed(comparison(method("sam(w=[red])")))


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (9999, "9999"), (60_000, "60k"), (1_234_567, "1.23M"), (2_500_000_000, "2.5G")],
)
def test_counts_are_short(number, text):
    record = dataclasses.replace(method(), gradient_evaluations=number)
    assert re.search(rf"\s{re.escape(text)}\s", printed(comparison(record)))


@every_comparison
def test_figures_have_axes_with_names_and_no_titles(record):
    for figure, panels in ((plots.learning_curves(record), 3), (plots.sharpness(record), 2)):
        assert len(figure.axes) == panels
        for axes in figure.axes:
            assert axes.get_xlabel()
            assert axes.get_ylabel()
            assert not axes.get_title()


def test_learning_curves_are_over_gradients_spent():
    figure = plots.learning_curves(COMPARISONS["complete"])
    erm, _, tsam = figure.axes[0].lines
    np.testing.assert_allclose(erm.get_xdata(), [40, 80, 120, 160])
    np.testing.assert_allclose(
        erm.get_ydata(), COMPARISONS["complete"].methods[0].curves["test_accuracy"].mean(axis=0)
    )
    assert tsam.get_marker() == "o"  # a single point is visible
    names = {text.get_text() for text in figure.axes[0].texts}
    assert names == {"erm", "sam", "tsam"}


def test_sharpness_is_the_increase_over_the_loss_at_the_solution():
    record = COMPARISONS["one seed"]
    mean, variance = plots.sharpness(record).axes
    (only,) = record.methods
    np.testing.assert_allclose(mean.lines[0].get_ydata(), only.neighbourhood_mean[0] - 0.1)
    np.testing.assert_allclose(variance.lines[0].get_ydata(), only.neighbourhood_variance[0])
    assert (mean.get_xscale(), mean.get_yscale()) == ("linear", "log")


def test_a_negative_increase_is_shown_on_a_linear_axis():
    record = dataclasses.replace(method(), loss=np.full(3, 5.0))
    mean, variance = plots.sharpness(comparison(record)).axes
    assert (mean.get_yscale(), variance.get_yscale()) == ("linear", "log")


@pytest.mark.parametrize("count", [2, 9])
def test_lines_of_a_grid_of_one_method_have_their_settings_as_names(count):
    grid = COMPARISONS["grid"]
    figure = plots.learning_curves(dataclasses.replace(grid, methods=grid.methods[:count]))
    direct = [text.get_text() for text in figure.axes[0].texts]
    [legend] = figure.legends or [None]
    assert bool(direct) == (legend is None) == (count == 2)
    labels = direct or [text.get_text() for text in legend.get_texts()]
    assert labels == [f"sam(rho={rho})" for rho in range(count)]
    looks = {(line.get_color(), str(line._dash_pattern)) for line in figure.axes[0].lines}
    assert len(looks) == count


@pytest.mark.parametrize("seed", range(5))
def test_labels_are_spread_in_order_and_little(seed):
    places = np.random.default_rng(seed).uniform(0, 0.3, 6)
    spread = style._spread(places, 0.08)
    order = np.argsort(places)
    assert np.all(np.diff(spread[order]) >= 0.08 - 1e-12)
    np.testing.assert_allclose(spread.mean(), places.mean())
    np.testing.assert_allclose(style._spread(np.array([0.9, 0.1]), 0.08), [0.9, 0.1])


@every_comparison
def test_report_is_written_and_its_page_stands_alone(record, tmp_path):
    page = report.write_report(record, tmp_path / "deep" / "run")
    files = {path.name for path in page.parent.iterdir()}
    assert files == {"report.json", "learning_curves.png", "sharpness.png", "report.html"}
    read = json.loads((page.parent / "report.json").read_text())
    assert len(Comparison.from_json_dict(read).methods) == len(record.methods)
    text = page.read_text(encoding="utf-8")
    assert len(re.findall(r'src="data:image/png;base64,', text)) == 2
    visible = re.sub(r"base64,[^\"]*", "", text)
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!data:)", visible)
    assert not re.search(r"https?:|url\(|@import|<script|<link", visible)
    assert "prefers-color-scheme: dark" in visible
    assert ("This run was interrupted" in visible) is not record.complete
    for row in record.methods:
        assert row.label in visible


def test_page_says_what_is_missing_and_what_was_run(tmp_path):
    text = report.write_report(COMPARISONS["interrupted"], tmp_path).read_text(encoding="utf-8")
    assert "<code>sam</code>: 2 of 4 epochs finished, sharpness not measured" in text
    assert "<code>asam</code>: not started" in text
    assert "<code>erm</code>: " not in text
    assert "3 methods, 3 seeds each, 0 to 160 mini-batch gradients per seed." in text
    assert "40 % of the training labels were replaced" in text


def test_page_escapes_every_text(tmp_path):
    evil = "<script>alert('&')</script>"
    record = comparison(
        dataclasses.replace(method(evil), settings={evil: evil}),
        task={"name": evil, evil: evil},
        config={"methods": [evil, evil + "2"], evil: evil},
        versions={evil: evil},
        complete=False,
    )
    text = report.write_report(record, tmp_path).read_text(encoding="utf-8")
    assert "<script" not in text
    assert text.count("&lt;script&gt;") > 10


def test_an_interrupted_write_keeps_the_former_file(tmp_path, monkeypatch):
    report.write_report(COMPARISONS["one seed"], tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(before) == 4

    def interrupted(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        report.write_report(COMPARISONS["complete"], tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
