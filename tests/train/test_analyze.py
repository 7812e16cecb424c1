"""`tsam-jax analyze`, `landscape` and `toy`: trained networks examined from their checkpoints."""

import json

import jax
import numpy as np
import optax
import pytest

from tsam_jax.cli import main
from tsam_jax.train import restore

SMALL = ["--dataset", "digits", "--label-noise", "0.4", "--train-size", "60"]
SMALL += ["--width", "4", "--depth", "1", "--batch-size", "20"]
FEW = ["--samples", "3", "--eigenvalues", "2", "--examples", "40"]


def train(path, method, *options):
    given = ["--method", method, "--epochs", "2", "--out", str(path), *SMALL, *options]
    assert main(["train", *given]) == 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for method in ("erm", "sam", "asam"):
        train(folder / method, method)
    return folder


def load(path, examples=1000):
    [found] = restore.load_several((path,), examples).values()
    return found


def test_the_loss_is_that_of_the_log(runs):
    trained = load(runs / "erm")
    last = json.loads((runs / "erm" / "metrics.jsonl").read_text().splitlines()[-1])
    np.testing.assert_allclose(trained.loss(trained.params), last["train_loss"], rtol=1e-5)
    assert trained.examples == 60
    assert [*restore.load_several((runs / "erm",), 30)] == ["erm, seed 0, epoch 2"]
    assert load(runs / "erm", 30).examples == 30


def test_of_an_average_with_its_own_statistics_the_loss_is_that_of_the_log(tmp_path):
    train(tmp_path, "sam", "--ema", "0.5", "--recalibrate")
    trained = load(tmp_path)
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    np.testing.assert_allclose(trained.loss(trained.params), last["train_loss"], rtol=1e-5)


def test_analyze_writes_a_table_and_figures(runs, capsys):
    out = runs / "analysis"
    paths = [str(runs / "erm"), str(runs / "sam" / "best")]
    assert main(["analyze", *paths, *FEW, "--out", str(out)]) == 0
    found = json.loads((out / "analysis.json").read_text())
    assert len(found["models"]) == 2
    row = found["models"]["erm, seed 0, epoch 2"]
    trained = load(runs / "erm", 40)
    np.testing.assert_allclose(row["loss"], trained.loss(trained.params), rtol=1e-5)
    hessian = jax.hessian(trained.loss)(trained.params)
    blocks = jax.tree.leaves(hessian)
    sizes = [x.size for x in jax.tree.leaves(trained.params)]
    rows = [
        np.concatenate(
            [np.reshape(blocks[i * len(sizes) + j], (m, n)) for j, n in enumerate(sizes)],
            axis=1,
        )
        for i, m in enumerate(sizes)
    ]
    desired = np.linalg.eigvalsh(np.concatenate(rows))[::-1][:2]
    np.testing.assert_allclose(row["top_eigenvalues"], desired, rtol=1e-2)
    assert {path.name for path in out.glob("*.png")} == {"sharpness.png", "spectra.png"}
    said = capsys.readouterr().out
    assert "largest eigenvalues" in said
    for place, name in enumerate(found["models"], 1):  # progress, a line before each part
        assert f"[{place}/2] {name}: sharpness and Hessian" in said
        assert f"[{place}/2] {name}: spectrum" in said


def test_a_loss_that_is_not_finite_is_said_and_leaves_a_gap(runs, capsys, monkeypatch):
    trained = load(runs / "erm", 40)
    broken = trained._replace(loss=lambda params: trained.loss(params) * np.nan)
    both = {"erm": trained, "sam": broken}
    monkeypatch.setattr(restore, "load_several", lambda *_, **__: both)
    out = runs / "broken"
    assert main(["analyze", str(runs / "erm"), *FEW, "--out", str(out)]) == 0
    assert json.loads((out / "analysis.json").read_text())["models"]["sam"]["loss"] is None
    assert "not finite" in capsys.readouterr().out
    assert (out / "sharpness.png").stat().st_size > 1000


@pytest.mark.slow
def test_runs_of_a_study_are_examined_as_any_other(tmp_path, capsys):
    study, out = tmp_path / "study", tmp_path / "analysis"
    options = ["--methods", "sam(rho=[0.05, 0.2])", "--seeds", "2", "--epochs", "2", *SMALL]
    assert main(["study", *options, "--out", str(study)]) == 0
    cells = sorted((study / "cells").iterdir())
    rows = [json.loads(line) for line in (study / "rows.jsonl").read_text().splitlines()]
    assert sorted(row["directory"] for row in rows) == [f"cells/{cell.name}" for cell in cells]
    for row in rows:  # each has the data and the weights of its own seed and setting
        trained = load(study / row["directory"])
        loss = trained.loss(trained.params)
        np.testing.assert_allclose(loss, row["final"]["train_loss"], rtol=1e-4)
        assert (trained.run.seed, trained.epoch) == (row["seed"], 2)
        best = load(study / row["directory"] / "best")
        place = row["curve"]["epoch"].index(row["best"]["epoch"])
        loss = best.loss(best.params)
        np.testing.assert_allclose(loss, row["curve"]["train_loss"][place], rtol=1e-4)
    capsys.readouterr()
    chosen = [str(study / row["directory"]) for row in rows if row["seed"] == 1]
    chosen += [f"{chosen[0]}/best"]
    assert main(["analyze", *chosen, *FEW, "--out", str(out)]) == 0
    names = json.loads((out / "analysis.json").read_text())["models"]
    first = next(row for row in rows if row["seed"] == 1)
    epochs = [2, 2, first["best"]["epoch"]]
    ends = [" (001-sam-seed1)", "", " (001-sam-seed1/best)"]
    if epochs[2] != 2:  # that tells it from the others
        ends = ["", "", ""]
    rhos = [
        next(r for r in rows if chosen[i].startswith(str(study / r["directory"]))) for i in range(3)
    ]
    rhos = [row["arguments"]["rho"] for row in rhos]
    assert sorted(set(rhos)) == ["0.05", "0.2"]
    expected = [
        f"sam(rho={rho}), seed 1, epoch {epoch}{end}"
        for rho, epoch, end in zip(rhos, epochs, ends, strict=True)
    ]
    assert list(names) == expected
    assert main(["evaluate", chosen[0], "--part", "train"]) == 0
    assert f"loss {first['final']['train_loss']:.4g}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "names", [pytest.param(["erm"], marks=pytest.mark.slow), ["erm", "sam"], ["erm", "sam", "asam"]]
)
def test_landscapes_go_through_the_networks(runs, names):
    out = runs / f"landscape{len(names)}"
    paths = [str(runs / name) for name in names]
    options = ["--points", "7", "--examples", "40", "--out", str(out)]
    assert main(["landscape", *paths, *options]) == 0
    found = json.loads((out / "landscape.json").read_text())
    assert (out / "landscape.png").stat().st_size > 1000
    trained = load(runs / "erm", 40)
    here = float(trained.loss(trained.params))
    if len(names) != 2:
        losses = np.array(found["losses"])
        assert losses.shape == (7, 7)
    if len(names) == 1:
        np.testing.assert_allclose(losses[3, 3], here, rtol=1e-5)
    elif len(names) == 2:
        np.testing.assert_allclose(found["positions"][1], 0.0, atol=1e-6)
        np.testing.assert_allclose(found["losses"][1], here, rtol=1e-5)


def test_the_way_of_training_starts_at_its_initial_parameters(runs, capsys):
    run, out = runs / "way", runs / "landscape-way"
    kept = ["--checkpoint-every", "1", "--keep-checkpoints", "3"]
    options = ["--method", "sam", "--epochs", "4", "--out", str(run)]
    assert main(["train", *options, *kept, *SMALL]) == 0
    options = ["--points", "5", "--examples", "40", "--out", str(out)]
    assert main(["landscape", str(run), "--trajectory", *options]) == 0
    found = json.loads((out / "landscape.json").read_text())
    ((name, way),) = found["trajectories"].items()
    (away,) = found["distances_from_plane"].values()
    assert name == "sam, seed 0, epoch 4"
    start = restore.restore(run, ())[0].start().params
    steps = sorted(int(path.name) for path in (run / "checkpoints").iterdir() if path.is_dir())
    assert len(steps) == 3  # of four epochs
    saved = [load(run / "checkpoints" / str(step), 40).params for step in steps]
    for point, place, distance in zip([start, *saved], way, away, strict=True):
        to_end = optax.tree.norm(optax.tree.sub(point, saved[-1]))
        np.testing.assert_allclose(np.hypot(np.hypot(*place), distance), to_end, atol=1e-5)
    np.testing.assert_allclose(way[-1], [0, 0], atol=1e-6)
    assert np.ptp(way, axis=0)[0] >= np.ptp(way, axis=0)[1] > 0
    inside = [found["xs"][0], found["ys"][0]] <= np.min(way, axis=0)
    assert inside.all()

    assert main(["landscape", str(runs / "erm"), "--trajectory"]) == 2
    assert "needs at least two checkpoints, got 1" in " ".join(capsys.readouterr().err.split())
    for part in "best", f"checkpoints/{steps[0]}":
        assert main(["landscape", str(run / part), "--trajectory"]) == 2
        assert "needs whole runs, got the checkpoint" in " ".join(capsys.readouterr().err.split())


def test_what_cannot_be_examined_is_refused(runs, capsys):
    assert main(["analyze", str(runs / "nothing")]) == 2
    assert "is not a directory" in capsys.readouterr().err
    assert main(["landscape", str(runs / "erm" / "checkpoints" / "7")]) == 2
    assert "`checkpoint`" in capsys.readouterr().err
    assert main(["landscape", str(runs / "erm"), "--points", "1"]) == 2
    assert "`--points`" in capsys.readouterr().err
    many = [str(runs / name) for name in ("erm", "sam", "asam", "sam/best")]
    assert main(["landscape", *many, "--out", str(runs / "many")]) == 2
    assert "`CHECKPOINTS` must be one to three, got 4" in capsys.readouterr().err
    assert not (runs / "many").exists()
    assert main(["analyze", str(runs / "erm"), str(runs / "erm")]) == 2
    assert "different" in capsys.readouterr().err


def test_a_toy_figure_is_drawn_once(tmp_path, capsys):
    path = tmp_path / "figure.svg"
    assert main(["toy", "fig3", "--out", str(path)]) == 0
    before = path.read_bytes()
    assert main(["toy", "fig3", "--out", str(path)]) == 2
    assert path.read_bytes() == before
    assert "SAM" in capsys.readouterr().out
