"""`tsam-jax analyze`, `landscape` and `toy`: trained networks examined from their checkpoints."""

import json

import jax
import numpy as np
import optax
import pytest

from tsam_jax.cli import main
from tsam_jax.train.single import load_command, make_job
from tsam_jax.train.trained import load_trained

pytestmark = pytest.mark.usefixtures("fast_compile")

SMALL = ["--train-size", "60", "--width", "4", "--depth", "1", "--batch-size", "20"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for method in ("erm", "sam", "asam"):
        path = folder / method
        options = ["--method", method, "--epochs", "2", "--out", str(path), *SMALL]
        assert main(["train", *options]) == 0
    return folder


def test_the_loss_is_that_of_the_log(runs):
    trained = load_trained(runs / "erm", 1000)
    last = json.loads((runs / "erm" / "metrics.jsonl").read_text().splitlines()[-1])
    np.testing.assert_allclose(trained.loss(trained.params), last["train_loss"], rtol=1e-5)
    assert trained.examples == 60
    assert trained.name == "erm, seed 0, epoch 2"
    assert load_trained(runs / "erm", 30).examples == 30


def test_analyze_writes_a_table_and_figures(runs, capsys):
    out = runs / "analysis"
    paths = [str(runs / "erm"), str(runs / "sam" / "best")]
    few = ["--samples", "3", "--eigenvalues", "2", "--examples", "40"]
    assert main(["analyze", *paths, *few, "--out", str(out)]) == 0
    found = json.loads((out / "analysis.json").read_text())
    assert len(found["models"]) == 2
    row = found["models"]["erm, seed 0, epoch 2"]
    trained = load_trained(runs / "erm", 40)
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
    assert "largest eigenvalues" in capsys.readouterr().out


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
    trained = load_trained(runs / "erm", 40)
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
    assert (
        main(["train", "--method", "sam", "--epochs", "4", "--out", str(run), *kept, *SMALL]) == 0
    )
    options = ["--points", "5", "--examples", "40", "--out", str(out)]
    assert main(["landscape", str(run), "--trajectory", *options]) == 0
    found = json.loads((out / "landscape.json").read_text())
    ((name, way),) = found["trajectories"].items()
    (away,) = found["distances_from_plane"].values()
    assert name == "sam, seed 0, epoch 4"
    job = make_job(load_command(run), ())
    start = jax.tree.map(lambda x: x[0], job.program.init([0]).params)
    steps = sorted(int(path.name) for path in (run / "checkpoints").iterdir() if path.is_dir())
    assert len(steps) == 3  # of four epochs
    saved = [load_trained(run / "checkpoints" / str(step), 40).params for step in steps]
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
        assert "must be of whole runs, got" in " ".join(capsys.readouterr().err.split())


def test_what_cannot_be_examined_is_refused(runs, capsys):
    assert main(["analyze", str(runs / "nothing")]) == 2
    assert "is not a directory" in capsys.readouterr().err
    assert main(["landscape", str(runs / "erm" / "checkpoints" / "7")]) == 2
    assert "`checkpoint`" in capsys.readouterr().err
    assert main(["landscape", str(runs / "erm"), "--points", "1"]) == 2
    assert "`--points`" in capsys.readouterr().err
    assert main(["analyze", str(runs / "erm"), str(runs / "erm")]) == 2
    assert "different" in capsys.readouterr().err


def test_a_toy_figure_is_drawn_once(tmp_path, capsys):
    path = tmp_path / "figure.svg"
    assert main(["toy", "fig3", "--out", str(path)]) == 0
    before = path.read_bytes()
    assert main(["toy", "fig3", "--out", str(path)]) == 2
    assert path.read_bytes() == before
    assert "SAM" in capsys.readouterr().out
