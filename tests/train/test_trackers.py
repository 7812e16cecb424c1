"""What TensorBoard and Weights & Biases are told is what metrics.jsonl has."""

import contextlib
import json
import sys
import types

import pytest
from tensorboardX.proto import event_pb2

from tsam_jax import cli
from tsam_jax.train import record, trackers

SMALL = ["--train-size", "100", "--width", "4", "--depth", "1", "--batch-size", "50"]
TRAIN = ["train", "--method", "tsam(t=5, rho=0.1, s=2)", *SMALL]


def scalars(folder):
    """tag -> step -> value, by the rules of TensorBoard: of a step the last one, and purges."""
    found = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")  # record: length, its sum, content, its sum
            event = event_pb2.Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]
            if event.session_log.status == event_pb2.SessionLog.START:
                for steps in found.values():
                    for step in [step for step in steps if step >= event.step]:
                        del steps[step]
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def lines_of(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def killed_after(epoch):
    write = record.Log.write

    def killed(log, this, *rest):
        write(log, this, *rest)
        if this.epoch == epoch:
            raise SystemExit

    return killed


def test_tensorboard_has_what_the_log_has_also_after_a_resumed_run(tmp_path, monkeypatch):
    out = tmp_path / "run"
    options = ["--epochs", "4", "--checkpoint-every", "2", "--tensorboard", "--out", str(out)]
    with monkeypatch.context() as patched:  # it is killed after the third of four epochs
        patched.setattr(record.Log, "write", killed_after(3))
        with pytest.raises(SystemExit):
            cli.main([*TRAIN, *options])
    log = lines_of(out)
    assert [line["epoch"] for line in log] == [1, 2, 3]
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "train_lo')  # in the middle of a line
    assert cli.main(["train", "--resume", str(out)]) == 0
    assert lines_of(out)[:2] == log[:2]  # with their times
    found, log = scalars(out / "tensorboard"), lines_of(out)
    for tag, name in {
        "loss/train": "train_loss",
        "accuracy/validation": "validation_accuracy",
        "step_effective_sample_size": "step_effective_sample_size",
    }.items():
        assert found[tag] == pytest.approx({line["epoch"]: line[name] for line in log})
    for line in log:
        timing = line["timing"]
        assert found["examples_per_second"][line["epoch"]] == pytest.approx(
            timing["examples_per_second"], rel=1e-5
        )
        assert timing["examples_per_second"] > 0


def fake_wandb(monkeypatch):
    seen = types.SimpleNamespace(starts=[], lines={}, finished=0)

    class Run:
        def log(self, numbers, step):
            seen.lines[step] = numbers

        def finish(self):
            seen.finished += 1

    module = types.ModuleType("wandb")
    module.init = lambda **options: seen.starts.append(options) or Run()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return seen


def test_weights_and_biases_goes_on_with_the_same_run(tmp_path, monkeypatch):
    seen = fake_wandb(monkeypatch)
    out = tmp_path / "run"
    assert cli.main([*TRAIN, "--epochs", "2", "--wandb", "--out", str(out)]) == 0
    (out / "rows.jsonl").unlink()  # the run was killed before it wrote its row
    assert cli.main(["train", "--resume", str(out)]) == 0
    first, second = seen.starts
    assert first["id"] == second["id"]
    assert (first["name"], first["resume"], first["dir"]) == ("run", "allow", str(out))
    assert first["config"]["task"]["width"] == 4
    assert seen.finished == 2
    for line in lines_of(out):
        told = seen.lines[line["epoch"]]
        assert told["loss/validation"] == line["validation_loss"]
        assert told["examples_per_second"] == line["timing"]["examples_per_second"]


@pytest.mark.parametrize(
    ("option", "module"), [("wandb", "wandb"), ("tensorboard", "tensorboardX")]
)
def test_what_is_not_installed_is_named_before_anything_is_written(
    option, module, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.chdir(tmp_path)
    assert cli.main([*TRAIN, f"--{option}"]) == 2
    assert f"pip install 'tsam_jax[{option}]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_trackers_are_closed_after_an_error(tmp_path, monkeypatch):
    seen = fake_wandb(monkeypatch)
    with contextlib.suppress(KeyError), contextlib.ExitStack() as stack:
        trackers.open_trackers(trackers.Tracking(wandb=True), tmp_path, 0, stack)
        raise KeyError
    assert seen.finished == 1
