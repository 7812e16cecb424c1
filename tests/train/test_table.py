"""The numbers of a study: intervals, paired differences, choices, and the tables for a terminal."""

import io
import math

import numpy as np
import pytest
import scipy.stats
from made_up_study import GLUE, GRID, PLAIN, STUDIES, THREE, TWO, diverged, row, rows_of, study
from rich.console import Console

from tsam_jax.train import table
from tsam_jax.train.table import Results

every_study = pytest.mark.parametrize("name", STUDIES)


def render(study_, rows):
    return table.render(table.Results(study_, rows))


def printed(rendered):
    console = Console(file=io.StringIO(), width=80)
    console.print(rendered)
    return console.file.getvalue()


def column(study_, rows, name):
    return next(c for c in Results(study_, rows).columns if c.name == name)


def estimates(study_, rows, setting):
    return next(line for line in Results(study_, rows).summary if line.setting == setting).estimates


@pytest.mark.parametrize("count", [2, 3, 5, 31])
def test_interval_is_students(count):
    values = np.random.default_rng(count).normal(size=count)
    mean, half_width = table.mean_and_interval(values)
    expected = scipy.stats.t.interval(0.95, count - 1, values.mean(), scipy.stats.sem(values))
    np.testing.assert_allclose((mean - half_width, mean + half_width), expected)


def test_interval_of_two_seeds_in_closed_form():
    mean, half_width = table.mean_and_interval([0.70, 0.72])
    assert mean == pytest.approx(0.71)
    assert half_width == pytest.approx(math.tan(math.pi * 0.475) * 0.01)  # t of 1 degree is Cauchy


def test_interval_of_one_seed_is_unknown_and_nan_is_not_skipped():
    assert table.mean_and_interval([0.5])[0] == 0.5
    assert math.isnan(table.mean_and_interval([0.5])[1])
    assert all(map(math.isnan, table.mean_and_interval([])))
    together = table.mean_and_interval([[0.70, 0.72], [0.5, 0.9], [math.nan, 0.1]])
    alone = [table.mean_and_interval(x) for x in ([0.70, 0.72], [0.5, 0.9], [math.nan, 0.1])]
    np.testing.assert_array_equal(np.transpose(together), alone)
    assert math.isnan(table.mean_and_interval([0.5, math.nan, 0.7])[0])


def test_columns_are_those_of_the_metrics():
    def names(*pair):
        return [c.name for c in Results(*pair).columns]

    cost, flat = ["gradient_evaluations", "seconds"], ["nearby_mean", "nearby_variance"]
    assert names(*STUDIES["complete"]) == [
        *["test_accuracy", "early_test_accuracy", "test_loss", *cost, "top_eigenvalue", *flat]
    ]
    pearson = [f"{early}test_{x}" for x in ("pearson", "spearman") for early in ("", "early_")]
    assert names(GLUE, []) == [*pearson, "test_loss", *cost]
    assert names(PLAIN, []) == ["test_loss", "early_test_loss", *cost]
    of_sweep = ["validation_accuracy", "early_validation_accuracy", "validation_loss", *cost]
    assert names(*STUDIES["sweep"]) == of_sweep


def test_only_accuracy_is_in_percent():
    units = {c.name: c.unit for c in Results(*STUDIES["complete"]).columns}
    assert {name for name, unit in units.items() if unit == "%"} == {
        "test_accuracy",
        "early_test_accuracy",
    }
    assert "%" not in {c.unit for c in Results(*STUDIES["glue"]).columns}
    rows = [row("erm()", seed, names=("pearson", "loss"), test_pearson=0.75) for seed in (0, 1)]
    text = printed(render(study("erm()", metric="pearson", metrics=["pearson"]), rows))
    assert " 0.750 " in text
    assert "75.0" not in text


def test_summary_takes_the_last_epoch_and_the_best_validation_epoch():
    rows = [row("erm()", seed, test_accuracy=value) for seed, value in enumerate((0.70, 0.72))]
    rows[0]["best"]["test_accuracy"], rows[1]["best"]["test_accuracy"] = 0.8, 0.9
    found = estimates(study("erm()", seeds=[0, 1]), rows, "erm()")
    quantile = scipy.stats.t.ppf(0.975, 1)
    assert found["test_accuracy"] == pytest.approx((0.71, quantile * 0.01))
    assert found["early_test_accuracy"] == pytest.approx((0.85, quantile * 0.05))
    text = printed(render(study("erm()", seeds=[0, 1]), rows))
    assert "71.00" in text
    assert "±12.71" in text


def test_flatness_is_at_the_middle_noise_size():
    rows = rows_of(TWO)
    found = estimates(TWO, rows, "erm()")
    expected = np.mean([r["flatness"]["mean"][3] for r in rows[:3]])
    assert found["nearby_mean"][0] == pytest.approx(expected)
    assert "0.03 rms" in column(TWO, rows, "nearby_mean").meaning


def test_differences_are_within_seeds():
    """Seeds that differ by much more than methods do: the interval is that of the pairs."""
    two = study("erm()", "sam(rho=0.2)", seeds=[0, 1, 2, 7])
    values = {("erm()", 0): 0.5, ("erm()", 1): 0.7, ("erm()", 2): 0.9}
    values |= {("sam(rho=0.2)", 0): 0.51, ("sam(rho=0.2)", 1): 0.72, ("sam(rho=0.2)", 2): 0.93}
    rows = [row(text, seed, test_accuracy=x) for (text, seed), x in values.items()]
    rows.append(row("sam(rho=0.2)", 7, test_accuracy=0.1))  # without a partner
    [line] = Results(two, rows[::-1]).differences
    assert (line.setting, line.seeds) == ("sam(rho=0.2)", [0, 1, 2])
    half_width = scipy.stats.t.ppf(0.975, 2) * 0.01 / math.sqrt(3)
    assert line.estimates["test_accuracy"] == pytest.approx((0.02, half_width))
    names = {"test_accuracy", "early_test_accuracy", "test_loss", "top_eigenvalue"}
    assert set(line.estimates) == names
    expected = "compared with ERM: SAM +2.0 ± 2.5 points (no clear difference)."
    assert Results(two, rows).verdict()[0].endswith(expected)


def test_differences_leave_out_diverged_runs_and_count_pairs():
    rows = STUDIES["diverged"][1]
    found = {line.setting: line for line in Results(THREE, rows).differences}
    assert [len(line.seeds) for line in found.values()] == [0, 1]
    sam, tsam = (line.estimates["test_accuracy"] for line in found.values())
    assert all(map(math.isnan, sam))
    tsam0, erm0 = (r["final"]["test_accuracy"] for r in (rows[6], rows[0]))
    assert tsam[0] == pytest.approx(tsam0 - erm0)
    assert math.isnan(tsam[1])  # one pair has no interval


def test_a_diverged_seed_is_announced_and_leaves_no_mean():
    rows = STUDIES["diverged"][1]
    shown = Results(THREE, rows).columns
    erm, sam, tsam = (line.cells(shown) for line in Results(THREE, rows).summary)
    assert erm[0][0] not in {"diverged", "-"}
    assert sam[0] == ("diverged", "")
    assert tsam[0] == ("2 of 3", "diverged")
    place = [c.name for c in shown].index("gradient_evaluations")
    assert [cell[0] for cell in sam[1:place]] == ["-"] * (place - 1)
    assert sam[place][0] == "800"  # it was spent
    text = " ".join(printed(render(THREE, rows)).split())
    assert "Settings with a diverged seed have no means." in text
    assert "no means" not in printed(render(*STUDIES["complete"]))


@every_study
def test_tables_fit_eighty_columns_and_need_no_terminal(name):
    study_, rows = STUDIES[name]
    text = printed(render(study_, rows))
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text  # nothing cut
    lines = {" ".join(line.split()) for line in text.splitlines()}
    short = Results(study_, rows).names
    assert {f"{short[setting]} {setting}" for setting in study_["settings"]} <= lines
    assert len(set(short.values())) == len(short)


def test_columns_that_do_not_fit_are_left_out_from_the_right():
    rows = rows_of(GLUE, names=("pearson", "spearman", "loss"))
    head = printed(render(GLUE, rows))
    assert "spearman" in head
    assert "var." not in head
    assert "report.html has more columns." in " ".join(head.split())
    assert "more columns" not in printed(render(PLAIN, []))
    assert "nearby_variance" in [c.name for c in Results(GLUE, rows).columns]


def test_missing_seeds_are_counted():
    lines = [line.split() for line in printed(render(*STUDIES["partial"])).splitlines()]
    for words in (["ERM", "3", "of", "3"], ["SAM", "2", "of", "3"], ["TSAM", "1", "of", "3"]):
        assert words in [line[:4] for line in lines]
    assert "seeds " not in printed(render(*STUDIES["complete"])).partition("±")[0]


def test_brackets_in_settings_are_not_markup():
    one = study("sam(w=[red])", seeds=[0])
    assert "sam(w=[red])" in printed(render(one, [row("sam(w=[red])", 0)]))


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999.9, "1k"),
        (1380, "1.38k"),
        (999_700, "1M"),
        (1_234_567, "1.23M"),
        (2.5e9, "2.5G"),
    ],
)
def test_counts_are_short(number, text):
    rows = [row("erm()", 0, gradient_evaluations=number)]
    one = study("erm()")
    [line] = Results(one, rows).summary
    assert line.cells([column(one, rows, "gradient_evaluations")]) == [(text, "")]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.25, "0.25 s"), (90, "1.5 min"), (3600, "1 h"), (59.99, "1 min")]
)
def test_times_have_units(seconds, text):
    rows = [row("erm()", 0, seconds=seconds)]
    one = study("erm()")
    [line] = Results(one, rows).summary
    assert line.cells([column(one, rows, "seconds")]) == [(text, "")]


def settings_with(name, values, names=("loss",)):
    """Settings sam(rho=k) of two seeds whose validation values have these means."""
    return [
        row(f"sam(rho={k})", seed, names=names, **{f"validation_{name}": value + seed - 0.5})
        for k, value in enumerate(values)
        for seed in (0, 1)
    ]


def sweep_of(rows, name):
    """A sweep is judged on the validation part, whatever else was measured."""
    settings = dict.fromkeys(r["setting"] for r in rows)
    return Results(study(*settings, kind="sweep", metric=name, metrics=[name]), rows)


@pytest.mark.parametrize(
    ("name", "best"), [("accuracy", 2), ("pearson", 2), ("matthews", 2), ("loss", 1)]
)
def test_choice_knows_which_end_is_good(name, best):
    rows = settings_with(name, [0.5, 0.3, 0.9, 0.7], names=(name,))
    assert sweep_of(rows, name).chosen == [f"sam(rho={best})"]


def test_choice_is_for_each_method_and_of_equals_the_first():
    values = {"sam(rho=0.1)": 0.8, "sam(rho=0.2)": 0.8, "erm()": 0.9, "sam(rho=0.3)": 0.7}
    rows = [row(text, 0, validation_accuracy=x) for text, x in values.items()]
    found = sweep_of(rows, "accuracy")
    assert found.chosen == ["sam(rho=0.1)", "erm()"]
    assert [line.setting for line in found.summary] == [
        "erm()",
        "sam(rho=0.1)",
        "sam(rho=0.2)",
        "sam(rho=0.3)",
    ]


@pytest.mark.parametrize("name", ["accuracy", "loss"])
def test_a_setting_with_a_diverged_seed_ranks_last(name):
    good = row("sam(rho=0.1)", 0)
    lucky = [row("sam(rho=0.2)", 0, validation_accuracy=1.0, validation_loss=0.0)]
    rows = [*lucky, diverged("sam(rho=0.2)", 1), good]
    assert sweep_of(rows, name).chosen == ["sam(rho=0.1)"]
    assert sweep_of(rows[:2], name).chosen == ["sam(rho=0.2)"]


def test_varied_arguments_come_in_order_of_their_number_of_values():
    given = [r["arguments"] for r in rows_of(GRID) if r["method"] == "sam"]
    assert table.varied(given) == ["rho", "lr"]
    assert table.varied(given[:1]) == []
    assert table.varied([{}, {"rho": "1"}]) == ["rho"]


def test_the_table_of_a_sweep_is_sorted_and_marks_the_choice():
    values = [0.70, 0.80, 0.75]
    rows = [row(f"sam(rho=0.{k}, lr=0.1)", 0, validation_accuracy=x) for k, x in enumerate(values)]
    rows += [row("erm()", 0, validation_accuracy=0.6), diverged("sam(rho=9, lr=0.1)", 0)]
    texts = [*(r["setting"] for r in rows), "pgn()"]
    changes = {"kind": "sweep", "seeds": [0], "parts": ["train", "validation"]}
    text = printed(render(study(*texts, **changes), rows)).partition("±:")[0]
    lines = [" ".join(line.split()) for line in text.splitlines()]
    place = lines.index(next(line for line in lines if line.startswith("SAM rho=0.1 1 of 1 80.00")))
    assert lines[place + 1] == "chosen"
    starts = ["SAM rho=0.2 1 of 1 75.00", "SAM rho=0.0 1 of 1 70.00", "ERM 1 of 1 60.00"]
    starts += ["SAM rho=9 1 of 1 diverged", "PGN 0 of 1 -"]
    found = [line for line in lines[place:] if " of 1 " in line][1:]
    assert all(line.startswith(start) for line, start in zip(found, starts, strict=True))


LAST, TOP = "Test accuracy at the last epoch", "Largest Hessian eigenvalue"


def findings(erm, sam, sharpest, **changes):
    """The verdict on two settings, from accuracies and the eigenvalues of SAM; ERM's is 40."""
    seeds = list(range(len(erm)))
    rows = [row("erm()", seed, test_accuracy=x) for seed, x in enumerate(erm)]
    rows += [row("sam(rho=0.2)", seed, test_accuracy=x) for seed, x in enumerate(sam)]
    for one, top in zip(rows, [40.0] * len(erm) + sharpest, strict=True):
        one["flatness"]["top_eigenvalue"] = top
        one["best"]["test_accuracy"] = 0.9
    return Results(study("erm()", "sam(rho=0.2)", seeds=seeds, **changes), rows).verdict()


def test_the_verdict_names_differences_beyond_the_interval():
    last, early, top = findings([0.80, 0.82, 0.81], [0.85, 0.88, 0.86], [2.0, 2.0, 3.0])
    assert last == f"{LAST}, compared with ERM: SAM +5.3 ± 1.4 points (better)."
    assert early == (
        "Test accuracy at the best epoch by validation accuracy, compared with ERM: SAM +0.0 ± 0.0"
        " points (no clear difference)."
    )
    assert top == f"{TOP}, compared with ERM: SAM -38 ± 1.4 (flatter)."
    last, _, top = findings([0.85, 0.88, 0.86], [0.80, 0.82, 0.81], [80.0, 85.0, 80.0])
    assert last == f"{LAST}, compared with ERM: SAM -5.3 ± 1.4 points (worse)."
    assert top == f"{TOP}, compared with ERM: SAM +42 ± 7.2 (sharper)."


def test_the_verdict_names_what_is_within_the_interval():
    last, _, top = findings([0.80, 0.82, 0.81], [0.79, 0.86, 0.81], [20.0, 90.0, 30.0])
    assert last == f"{LAST}, compared with ERM: SAM +1.0 ± 6.6 points (no clear difference)."
    assert top.endswith("(no clear difference).")


def test_the_verdict_on_one_seed_has_no_interval():
    last, _, top = findings([0.80], [0.82], [20.0])
    assert last == f"{LAST}, compared with ERM: SAM +2.0 points (better, one seed)."
    assert top == f"{TOP}, compared with ERM: SAM -20 (flatter, one seed)."


def test_equal_results_of_one_seed_are_not_worse():
    last, _, top = findings([0.80], [0.80], [40.0])
    assert last == f"{LAST}, compared with ERM: SAM +0.0 points (no clear difference, one seed)."
    assert top.endswith("(no clear difference, one seed).")


def test_the_verdict_names_what_cannot_be_compared():
    *_, last = Results(*STUDIES["diverged"]).verdict()
    assert last == "No seed finished both with ERM and with SAM."
    three, rows = STUDIES["complete"]
    rows = [r for r in rows if r["method"] != "erm"]
    assert Results(three, rows).verdict() == [
        "No seed finished both with ERM and with SAM or TSAM."
    ]
    assert Results(*STUDIES["nothing"]).verdict() == ["No run is finished."]


def test_a_lower_loss_is_better():
    sentences = Results(*STUDIES["regression"]).verdict()
    expected = "Test loss at the last epoch, compared with ERM: SAM +0.034 ± 0.018 (worse)."
    assert sentences[0] == expected


def test_the_verdict_of_a_sweep_or_of_one_setting_is_the_best_value():
    [sweep] = Results(*STUDIES["sweep"]).verdict()
    expected = "SAM rho=0.1 lr=0.1, the best of 19 settings: validation accuracy at the last epoch"
    assert sweep == f"{expected} 83.45 ± 1.05 %."
    [alone] = Results(study("sam(rho=0.2)"), [row("sam(rho=0.2)", 0, test_accuracy=0.5)]).verdict()
    assert alone == "SAM: test accuracy at the last epoch 50.00 %."
    assert "95 %" not in printed(render(*STUDIES["one run"]))
    assert Results(*STUDIES["at once"]).verdict() == [
        "SAM: test accuracy at the last epoch diverged."
    ]


def test_short_names_are_unique_and_say_what_differs():
    texts = ["erm()", "sam(rho=0.1)", "sam(rho=0.1, lr=0.3)"]
    short = Results(study(*texts), [row(text, 0) for text in texts]).names
    assert list(short.values()) == ["ERM", "SAM", "SAM lr=0.3"]
    assert list(Results(study(*texts), []).names.values()) == ["ERM", "SAM 1", "SAM 2"]
    long = [f"tsam(t={t}, rho={t}, gamma={t})" for t in (1000, 2000)]
    rows = [row(text, 0) for text in long]
    assert list(Results(study(*long), rows).names.values()) == ["TSAM 1", "TSAM 2"]
