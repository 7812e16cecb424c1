"""The report of a study, complete or not: its files, its page, and the commands to go on with."""

import html
import json
import re
import shlex

import pytest
from made_up_study import GRID, ONE, STUDIES, THREE, diverged, row, rows_of, study, write
from matplotlib.figure import Figure

from tsam_jax.train import config, plots, report
from tsam_jax.train.table import Results

every_study = pytest.mark.parametrize("name", STUDIES)


@pytest.fixture(autouse=True)
def cheap_figures(monkeypatch, request):
    """Empty figures, but where the figures are tested."""
    if "stands_alone" not in request.node.name:
        for name in ("learning_curves", "sharpness", "heat_map"):
            monkeypatch.setattr(plots, name, lambda results: Figure((1, 1)))


def page_of(directory, study_, rows):
    report.write_report(write(directory, study_, rows))
    return (directory / "report.html").read_text("utf-8")


def in_words(page):
    """The page as it is read, without figures and tags."""
    body = re.sub(r"<img[^>]*>|<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(body).split())


# the others differ in words and rows, of which the tests below are
WITH_FIGURES = {"complete", "many", "regression", "sweep", "diverged", "at once", "one run"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in WITH_FIGURES else pytest.mark.slow) for n in STUDIES],
)
def test_report_is_written_and_its_page_stands_alone(name, tmp_path):
    study_, rows = STUDIES[name]
    report.write_report(write(tmp_path / "run", study_, rows))
    page = tmp_path / "run/report.html"
    figures = {"learning_curves.png"}
    figures |= {"sharpness.png"} if any(r["flatness"] for r in rows) else set()
    figures |= {"heatmap.png"} if study_["kind"] == "sweep" else set()
    files = {path.name for path in page.parent.iterdir()}
    assert files == {"study.json", "rows.jsonl", "report.json", "report.html", *figures}
    text = page.read_text("utf-8")
    assert len(re.findall(r'src="data:image/svg\+xml;base64,', text)) == len(figures)
    visible = re.sub(r"base64,[^\"]*", "", text)
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!data:)", visible)
    assert not re.search(r"https?:|url\(|@import|<script|<link", visible)
    assert "prefers-color-scheme: dark" in visible
    for setting in study_["settings"]:
        assert f"<code>{setting}</code>" in visible
    assert ('role="alert"' in visible) == bool(report.problems(Results(study_, rows)))
    assert "a loss value counts a third of a gradient" in in_words(text)
    for sentence in Results(study_, rows).verdict():
        assert sentence in in_words(text)


def test_report_json_has_the_rows_and_the_statistics(tmp_path):
    study_, rows = STUDIES["partial"]
    page_of(tmp_path, study_, rows)
    found = json.loads((tmp_path / "report.json").read_text())
    assert (found["study"], found["rows"]) == (study_, rows)
    erm, sam, tsam = found["summary"]
    assert (erm["seeds"], sam["seeds"], tsam["seeds"]) == ([0, 1, 2], [0, 1], [0])
    assert tsam["estimates"]["test_accuracy"] == [rows[-1]["final"]["test_accuracy"], None]
    assert [line["seeds"] for line in found["differences"]] == [[0, 1], [0]]


def test_label_noise_is_in_the_title_and_below_the_results(tmp_path):
    page = page_of(tmp_path / "noisy", *STUDIES["complete"]).replace("\N{NO-BREAK SPACE}", " ")
    words = "40 % of the training labels"
    assert f"<h1>Comparison of methods on digits, {words} replaced</h1>" in page
    assert f"{words} were replaced (law: other-labels)" in page
    assert "labels were replaced" not in page_of(tmp_path / "clean", *STUDIES["glue"])


def test_page_lists_what_is_missing(tmp_path):
    page = page_of(tmp_path, *STUDIES["partial"])
    assert "<li><code>sam(rho=0.2)</code>: seed 2 not finished</li>" in page
    assert "<li><code>tsam(t=20, rho=0.7, s=3)</code>: seed 1, 2 not finished</li>" in page
    assert "<li><code>erm()</code>" not in page
    assert "has no means" not in page


def test_page_lists_what_diverged_and_says_that_it_has_no_mean(tmp_path):
    page = page_of(tmp_path, *STUDIES["diverged"])
    assert page.count("diverged at step 61, epoch 4</li>") == 5
    assert "2 of 3<small>diverged</small>" in page
    assert "A setting with a diverged seed has no means" in page


def test_page_says_why_flatness_was_not_measured(tmp_path):
    rows = rows_of(THREE, flat=False)
    rows[4]["flatness_error"] = "RESOURCE_EXHAUSTED: out of memory"
    words = "seed 1: flatness not measured: RESOURCE_EXHAUSTED: out of memory"
    assert f"<code>sam(rho=0.2)</code>: {words}" in page_of(tmp_path, THREE, rows)


def test_page_escapes_every_text(tmp_path):
    evil = "<script>alert('&')</script>"
    setting = f"sam(w={evil})"
    texts = {"dataset": evil, "noise_law": evil, "versions": {evil: evil}}
    found = study(setting, "erm()", evil, resolved=[[evil, evil, evil]], flags=[evil], **texts)
    rows = [row("erm()", 0), row(setting, 0, flatness_error=evil, diverged=evil, flat=False)]
    rows[1]["optimizer"]["schedule"] = evil
    page = page_of(tmp_path, found, rows)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 10
    sweep = page_of(tmp_path / "sweep", {**found, "kind": "sweep"}, rows)
    assert "tsam-jax compare" in sweep
    assert "<script" not in sweep


def test_a_figure_that_fails_does_not_lose_the_report(tmp_path, monkeypatch):
    def fail(results):
        raise ValueError("no <ink>")

    monkeypatch.setattr(plots, "sharpness", fail)
    page = page_of(tmp_path, *STUDIES["complete"])
    assert "<code>sharpness.png</code>: not drawn: ValueError: no &lt;ink&gt;</li>" in page
    assert not (tmp_path / "sharpness.png").exists()
    assert page.count("data:image/svg") == 1


@pytest.mark.parametrize("settings", [["sam(rho=0.1)"], ["erm()", "sam(rho=0.1)"]])
def test_a_sweep_without_a_grid_has_no_heat_map_and_misses_none(tmp_path, settings):
    one = {**GRID, "settings": settings}
    page = page_of(tmp_path, one, rows_of(one, flat=False))
    assert 'role="alert"' not in page
    assert "heatmap" not in page
    assert page.count("data:image/svg") == 1
    assert not (tmp_path / "heatmap.png").exists()


def test_rows_of_shards_are_merged_and_the_last_of_equals_wins(tmp_path):
    rows = rows_of(THREE)
    again = {**rows[0], "seconds": 7.0}
    write(tmp_path, THREE, [*rows[:4], again], "rows-1-of-2.jsonl")
    write(tmp_path, THREE, rows[4:], "rows-2-of-2.jsonl")
    results = report.write_report(tmp_path)
    study_, found = results.study, results.rows
    assert study_ == THREE
    assert found == [again, *rows[1:]]


def test_a_line_cut_off_by_a_kill_is_ignored(tmp_path):
    rows = rows_of(THREE)
    write(tmp_path, THREE, rows[:3])
    with (tmp_path / "rows.jsonl").open("a") as lines:
        lines.write(json.dumps(rows[3])[:100])
    assert report.write_report(tmp_path).rows == rows[:3]
    report.write_report(tmp_path)
    assert "not finished" in (tmp_path / "report.html").read_text("utf-8")


def test_a_directory_without_a_study_is_an_error(tmp_path):
    with pytest.raises(config.ConfigError, match=r"has no study\.json"):
        report.write_report(tmp_path)
    with pytest.raises(config.ConfigError, match=r"has no study\.json"):
        report.write_report(tmp_path / "nowhere")


def test_an_interrupted_write_keeps_the_former_files(tmp_path, monkeypatch):
    report.write_report(write(tmp_path, *STUDIES["complete"]))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write(tmp_path, THREE, rows_of(THREE)[:4])

    def interrupted(results):
        raise KeyboardInterrupt

    monkeypatch.setattr(plots, "learning_curves", interrupted)
    with pytest.raises(KeyboardInterrupt):
        report.write_report(tmp_path)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(after) == set(before)
    assert {name for name in before if before[name] != after[name]} == {"rows.jsonl", "report.json"}


def test_commands_of_a_sweep_train_the_best_and_compare_the_best_of_each_method():
    values = {"erm(lr=0.1)": 0.7, "erm(lr=0.3)": 0.8, "sam(rho=0.1)": 0.9, "sam(rho=0.2)": 0.6}
    rows = [row(text, seed, validation_accuracy=x) for text, x in values.items() for seed in (0, 1)]
    rows.append(diverged("tsam(t=1, rho=0.1, s=2)", 0))
    found = {**GRID, "seeds": [0, 1], "settings": [*values, "tsam(t=1, rho=0.1, s=2)"]}
    train, compare = map(shlex.split, report.commands(Results(found, rows)))
    flags = ["--width", "8"]
    assert train == ["tsam-jax", "train", "digits", "--method", "sam(rho=0.1)", *flags]
    best = ["erm(lr=0.3)", "sam(rho=0.1)", "tsam(t=1, rho=0.1, s=2)"]
    expected = ["tsam-jax", "compare", "digits", "--methods", *best, *flags, "--seeds", "2"]
    assert compare == expected
    assert report.commands(Results(found, [])) == []
    without = report.commands(Results({**found, "recipe": None, "flags": []}, rows))
    assert shlex.split(without[1]) == ["tsam-jax", "compare", "--methods", *best, "--seeds", "2"]


def test_the_page_of_a_sweep_marks_the_choice_and_has_the_commands(tmp_path):
    study_, rows = STUDIES["sweep"]
    page = page_of(tmp_path, study_, rows)
    words = in_words(page)
    for command in report.commands(Results(study_, rows)):
        assert html.escape(command, quote=True).replace("&#x27;", "&#39;") in page
    results = page.partition("<h2>Results</h2>")[2].partition("<h2>")[0]
    assert results.count(">chosen<") == 3
    assert "The test part was not evaluated." in words
    assert "Next commands" not in page_of(tmp_path / "other", *STUDIES["complete"])


def test_defaults_are_not_listed_as_settings(tmp_path):
    resolved = [["width", "8", "default"], ["lr", "0.1", "setting"], ["depth", "3", "flag"]]
    page = in_words(page_of(tmp_path, {**THREE, "resolved": resolved}, rows_of(THREE)))
    assert "depth 3 (flag)" in page
    assert "width" not in page.partition("How it was made")[2]
    assert "lr 0.1" not in page


def test_the_report_of_one_run_has_its_value_and_compares_nothing(tmp_path):
    page = page_of(tmp_path, ONE, [row("sam(rho=0.2)", 7, test_accuracy=0.5)])
    words = in_words(page).replace("\N{NO-BREAK SPACE}", " ")
    title = "Training on cifar10, 40 % of the training labels replaced"
    assert words.startswith(
        f"Training on cifar10 {title} SAM: test accuracy at the last epoch 50.00 %."
    )
    for absent in ("Differences to", "Means over seeds", "range of the seeds", "Next commands"):
        assert absent not in page
    assert 'role="alert"' not in page


def test_the_verdict_and_the_most_convincing_figure_come_first(tmp_path):
    page = page_of(tmp_path, *STUDIES["complete"])
    places = [page.index(x) for x in ("<h1>", 'class="verdict"', "<img", "<h2>Results", "<code>")]
    assert places == sorted(places)
    assert page.index("under random noise") < page.index("Learning curves")


def test_lines_in_the_page_are_those_of_the_figures(tmp_path):
    page = page_of(tmp_path, *STUDIES["complete"])
    for look in Results(*STUDIES["complete"]).looks.values():
        assert page.count(f'stroke="{look["color"]}"') >= 2  # results, settings
