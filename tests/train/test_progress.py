"""What is seen while training runs, in a narrow and a wide terminal and in a file."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from tsam_jax.train import progress
from tsam_jax.train.progress import Progress

SETTING = "tsam(t=20, rho=0.7, s=3, noise=sphere(rms=0.02), lr=0.03)"
METRICS = {"train_loss": 1.234, "validation_accuracy": 0.876, "step_effective_sample_size": 2.9}


def console(width, *, terminal=True):
    options = {"force_terminal": terminal, "color_system": None, "legacy_windows": False}
    return Console(file=io.StringIO(), width=width, **options)


def advance(progress, label, epoch=12, gradients=120.0, metrics=METRICS):
    progress.advance(
        label,
        seeds=[0, 1, 2],
        epoch=epoch,
        epochs=100,
        gradients=gradients,
        metrics=metrics,
        score="validation_accuracy",
        examples_per_second=12345.0,
    )


def rows_of(progress, screen):
    screen.print(progress._bars)
    return screen.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_everything_is_seen_in_the_width_of_the_terminal(width):
    screen = console(width)
    progress = Progress({SETTING: 1000.0, "erm()": 500.0}, screen)
    advance(progress, SETTING)
    first, _, everything = rows_of(progress, screen)
    for words in ("epoch 12/100", "loss 1.234", "val 87.6 %", " 2.90"):
        assert words in first
    assert "left" in everything
    assert "12,345 examples/s" in everything


def test_of_many_settings_only_those_that_run_are_seen():
    screen = console(80)
    labels = [f"sam(rho={n})" for n in range(30)]
    progress = Progress(dict.fromkeys(labels, 100.0), screen)
    progress.note(labels[3], "compiling")
    advance(progress, labels[4], gradients=50.0)
    advance(progress, labels[5], gradients=100.0)  # that is all of it
    names = [row.split(" ")[0] for row in rows_of(progress, screen)]
    assert names == ["sam(rho=3)", "sam(rho=4)", "all"]


def test_a_file_gets_lines_with_speed_samples_and_time_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    screen = console(80, terminal=False)
    shown = Progress({SETTING: 1000.0}, screen)
    now[0] += 12.0
    advance(shown, SETTING)  # 120 of the 1000
    [line] = screen.file.getvalue().splitlines()
    assert line.startswith(f"[   12 s] {SETTING}")
    assert line.endswith("eff. samples 2.90  12,345 examples/s  left 1:28")


def test_a_method_without_samples_has_no_effective_ones():
    screen = console(80, terminal=False)
    metrics = {name: METRICS[name] for name in ("train_loss", "validation_accuracy")}
    advance(Progress({"erm()": 1000.0}, screen), "erm()", metrics=metrics)
    assert "eff." not in screen.file.getvalue()
