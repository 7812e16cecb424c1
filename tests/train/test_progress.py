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


def advance(progress, label, *, start=0, epoch=12, metrics=METRICS, seconds=1.0, rate=4115.0):
    """A round of a run of 100 epochs, of 10 gradient evaluations each."""
    run = SimpleNamespace(label=label, seed=0, ends=range(1, 101), price=10.0, metric="accuracy")
    this = SimpleNamespace(epoch=epoch, seconds=seconds, examples_per_second=rate, metrics=metrics)
    progress.advance(run, this, start)


def rows_of(progress, screen):
    screen.print(progress._bars)
    return screen.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_everything_is_seen_in_the_width_of_the_terminal(width):
    screen = console(width)
    progress = Progress(1500.0, screen)
    advance(progress, SETTING)
    rows = rows_of(progress, screen)
    seen = " ".join(" ".join(rows).split())
    assert max(map(len, rows)) <= width
    for words in (SETTING, "epoch 12/100", "loss 1.234", "val 87.6 %", " 2.90", "left 0:11"):
        assert words in seen
    assert "4,115 examples/s" in seen


def test_a_file_gets_lines_with_speed_samples_and_time_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    screen = console(80, terminal=False)
    shown = Progress(1000.0, screen)
    now[0] += 12.0
    advance(shown, SETTING, seconds=12.0)  # 120 of the 1000
    [line] = screen.file.getvalue().splitlines()
    assert line.startswith(f"[   12 s] {SETTING}")
    assert line.endswith("eff. samples 2.90  4,115 examples/s  left 1:28")


def test_time_left_ignores_compilation(monkeypatch):
    """Two minutes pass before the first round ends, of which it computed a second."""
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    screen = console(80, terminal=False)
    shown = Progress(1000.0, screen)
    now[0] += 120.0
    advance(shown, "erm()", epoch=1, seconds=1.0)
    assert screen.file.getvalue().endswith("left 1:39\n")


def test_what_an_earlier_session_did_is_done_and_took_no_time():
    screen = console(120)
    shown = Progress(3000.0, screen)
    shown.resume(900.0)
    assert shown._bars.tasks[0].percentage == 30
    advance(shown, "erm()", start=90, epoch=95, seconds=1.0)  # 50 a second; 2050 are left
    assert "left 0:41" in rows_of(shown, screen)[-1]


@pytest.mark.parametrize("before", [90, 100])
def test_after_a_resumption_the_bar_ends_at_100_percent_and_no_time_is_left(before):
    shown = Progress(1000.0, console(120))
    shown.resume(before * 10.0)
    if before < 100:
        advance(shown, "sam(rho=1)", start=before, epoch=100)
    assert shown._bars.tasks[0].percentage == 100
    assert shown._left() == "0:00"


def test_a_method_without_samples_has_no_effective_ones():
    screen = console(80, terminal=False)
    metrics = {name: METRICS[name] for name in ("train_loss", "validation_accuracy")}
    advance(Progress(1000.0, screen), "erm()", metrics=metrics)
    assert "eff." not in screen.file.getvalue()


def test_without_a_validation_part_the_training_part_is_shown():
    screen = console(80, terminal=False)
    metrics = {"train_loss": 1.234, "train_accuracy": 0.876}
    advance(Progress(1000.0, screen), "erm()", metrics=metrics)
    assert "train 87.6 %" in screen.file.getvalue()
    assert "val" not in screen.file.getvalue()
