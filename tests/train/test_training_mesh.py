"""Training over a mesh of devices, and what is said of a wrong one."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import device_programs
import jax
import numpy as np
import pytest

from tsam_jax import cli
from tsam_jax.data import Records, augmentation, open_splits
from tsam_jax.train import config, mesh, task
from tsam_jax.train.mesh import Devices, join_processes, make_devices, parse_mesh
from tsam_jax.train.settings import parse


def test_training_on_a_mesh_is_training_on_one_device():
    program = Path(__file__).parent / "training_mesh_program.py"
    assert device_programs.run(program) == ["data=4,sample=2", "sample=4", "data=8"]


def test_two_processes_train_what_one_does(tmp_path, capsys):
    """Each reads its share of 51 images; the first one writes the log."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 6, 6, 2), np.uint8)
    images[:25] //= 8  # the shares have other statistics than the whole
    labels = np.arange(60) % 3
    parts = {"train": slice(0, 51), "val": slice(51, 55), "test": slice(55, 60)}
    arrays = {f"{part}_images": images[rows] for part, rows in parts.items()}
    arrays |= {f"{part}_labels": labels[rows] for part, rows in parts.items()}
    np.savez(tmp_path / "mine.npz", **arrays)
    words = ["train", f"npz:{tmp_path / 'mine.npz'}", "--model", "cnn", "--method", "sam(rho=0.1)"]
    words += ["--label-noise", "0.2"]
    words += ["--batch-size", "8", "--epochs", "2", "--checkpoint-every", "1"]
    alone, both = (_trained(words, tmp_path / name, n) for name, n in (("alone", 1), ("both", 2)))
    for one, other in zip(alone, both, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)
    assert len(list((tmp_path / "both" / "checkpoints").iterdir())) == 2
    # What two processes saved is evaluated by one, and says what the log has.
    [*_, last] = _lines(tmp_path / "both")
    assert cli.main(["evaluate", str(tmp_path / "both")]) == 0
    assert f"test: accuracy {100 * last['test_accuracy']:.2f} %" in capsys.readouterr().out


LATE = """
import sys, time
from tsam_jax import cli
from tsam_jax.train import record

def late(*arguments):
    time.sleep(3 * int(sys.argv[1]))  # the second process comes when the first has begun to write,
    check(*arguments)

def slow(path, data):
    time.sleep(6)  # and has not written what the directory is of
    write(path, data)

check, record.check_same = record.check_same, late
write, record.write_json = record.write_json, slow
sys.exit(cli.main(sys.argv[2:]))
"""


def _trained(words, out, count):
    with socket.socket() as held:  # until the end, so that no other program gets the port
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # gRPC shares it in this way
        held.bind(("localhost", 0))
        address = f"localhost:{held.getsockname()[1]},{count}"
        more = [["--distributed", f"{address},{k}"] if count > 1 else [] for k in range(count)]
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", LATE, str(index), *words, "--out", str(out), *own],
                env=device_programs.environment(4 // count),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for index, own in enumerate(more)
        ]
        try:
            for process in processes:
                said, _ = process.communicate(timeout=device_programs.LIMIT)
                assert process.returncode == 0, said
        finally:
            for process in processes:
                process.kill()
                process.communicate()
    return _lines(out)


def _lines(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    return [{name: x for name, x in line.items() if name != "timing"} for line in lines]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_statistics_are_those_of_all_images(dtype, monkeypatch):
    """Of shares with nothing, with one image, with a channel that is constant in it or in all."""
    images = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 4), np.uint8)
    images[:5, ..., 1], images[..., 2], images[..., 3] = 7, 9, images[..., 3] // 8
    images = images if dtype == np.uint8 else (images / 255).astype(dtype)
    sent = []
    monkeypatch.setattr(mesh, "gather", lambda x: [sent.append(x), np.stack([x, x + 2])][1])
    whole = open_splits("digits")._replace(kind="image")
    monkeypatch.setattr(Devices, "processes", 4)
    monkeypatch.setattr(Devices, "join", lambda _, inputs: inputs)
    labels = np.zeros(9, np.int32)
    part = Records(labels, images.__getitem__)
    whole = whole._replace(train=part, validation=part, test=part)
    for rows in ([0, 1, 2, 3], [4], [5, 6, 7, 8], []):
        share = np.array([*rows, 8]), len(rows)  # the last one repeats
        monkeypatch.setattr(Devices, "share", lambda *_, share=share: share)
        task.load_task(config.Task(model="cnn"), [0], opened=whole)
    assert [x[0, 0] for x in sent] == [64, 16, 64, 0]
    monkeypatch.setattr(mesh, "gather", lambda _: np.stack(sent))
    found = Devices().pooled(1, (0.0,) * 4, (1.0,) * 4)
    np.testing.assert_allclose(found, augmentation.channel_statistics(images), rtol=1e-6)
    assert found[1][2] == 1


def test_sizes_are_read():
    assert parse_mesh("data=4,sample=2") == {"data": 4, "sample": 2}
    assert parse_mesh(" sample = 2 ") == {"data": 1, "sample": 2}


WRONG = {
    "data=4,model=2": "must give a size of at least 1 to the axes data and sample",
    "data": "for example `--mesh data=4,sample=2`, got 'data'",
    "data=0": "size of at least 1",
    "data=2,data=2": "once each",
    "data=4,sample=2": "needs 8 devices; this machine has 1: ",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_mesh_is_refused_before_anything_is_written(text, tmp_path, capsys):
    out = tmp_path / "run"
    assert cli.main(["train", "--mesh", text, "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert WRONG[text] in said
    assert "`--mesh" in said
    assert not out.exists()


@pytest.mark.parametrize(
    ("mesh", "text", "message"),
    [
        ("data=3", "erm()", "the 3 devices of axis data must divide `--batch-size`, 50"),
        ("sample=2", "tsam(t=1, rho=1, s=3)", "must divide the samples of a step, s = 3 in `tsam"),
        ("sample=2", "sam(rho=1)", "must divide the samples of a step, s = 1 in `sam"),
    ],
)
def test_axes_divide_the_batch_and_the_samples(mesh, text, message, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: list(range(8)))
    with pytest.raises(config.ConfigError, match=message):
        make_devices(mesh, parse(text)[0], config.Optimizer(batch_size=50))


def test_the_mesh_of_several_processes_goes_by_the_name_of_its_option(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: list(range(8)))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    said = "`--distributed`, with 8 devices in all: the 8 devices of axis data must divide"
    with pytest.raises(config.ConfigError, match=said):
        make_devices(None, parse("erm()")[0], config.Optimizer(batch_size=50))


@pytest.mark.parametrize("text", ["host", "host:1,2", "host:1,2,x", "host:1,2,3,4", "auto,1,2"])
def test_distributed_is_auto_or_an_address_with_two_numbers(text):
    with pytest.raises(config.ConfigError, match="`--distributed"):
        join_processes(text)


@pytest.mark.parametrize("text", ["tsam(t=1, rho=0.1, s=2, {})", "sam(rho=0.1, {})"])
def test_the_axis_is_not_a_setting(text, capsys):
    assert cli.main(["train", "--method", text.format("sample_axis='x'")]) == 2
    assert "give `sample_axis` as `--mesh`" in capsys.readouterr().err
