"""The sweep: shared programs give what separate runs give; it goes on where it stopped."""

import json
import shlex

import numpy as np
import pytest

from tsam_jax import cli
from tsam_jax.train import choice, config, heatmap, loop, sharing
from tsam_jax.train.numbers import apply_grid
from tsam_jax.train.runs import Runner
from tsam_jax.train.settings import SettingError, parse
from tsam_jax.train.sweep import Sweep
from tsam_jax.train.task import load_task

TASK = config.Task(train_size=150, width=8, depth=1)
OPTIMIZER = config.Optimizer(batch_size=50, schedule="cosine", warmup=1)
SCHEDULE = sharing.Schedule(OPTIMIZER, config.Budget(epochs=3), 150)
PARTS = ("train", "validation")
SMALL = ["--train-size", "150", "--width", "8", "--depth", "1", "--batch-size", "50"]
SMALL += ["--seeds", "1", "--epochs", "2"]


def settings_of(*texts):
    return [setting for text in texts for setting in parse(text)]


def last_metrics(program, state, data):
    *_, last = loop.train(program, state, data, epochs=3, every=2)
    return last


@pytest.mark.usefixtures("fast_compile")
def test_shared_programs_give_what_separate_runs_give():
    loaded = load_task(TASK, [0, 1])
    network, data = loaded.network, loaded.data
    grid = "tsam(t=[1, 20], rho=0.5, s=2, noise=sphere(rms=0.02), lr=0.1)"
    [chosen] = sharing.share(
        apply_grid(parse(grid), ["rms=0.02,0.3", "weight_decay=0,0.3"]), SCHEDULE
    )
    assert chosen.names == ("t", "noise.rms", "weight_decay")
    # Two of the eight: each number with each of its values.
    group = chosen._replace(settings=tuple(chosen.settings[n] for n in (0, 7)))
    apart = []
    for setting in group.settings:
        program = loop.make_program(network, SCHEDULE.plan(setting), 150, PARTS)
        apart.append(last_metrics(program, program.init([0, 1]), data))
    losses = np.stack([this.metrics["train_loss"] for this in apart])
    assert np.ptp(losses, axis=0).min() > 1e-3  # the numbers matter

    shared = sharing.one_by_one(network, group, SCHEDULE, PARTS)
    mapped = sharing.all_together(network, group, SCHEDULE, PARTS)
    rows = loop.select_seeds(data, [0, 1] * 2)
    together = last_metrics(mapped, mapped.init([0, 1]), rows)
    for place, (alone, program) in enumerate(zip(apart, shared, strict=True)):
        alike = last_metrics(program, program.init([0, 1]), data)
        for name, values in alone.metrics.items():
            np.testing.assert_allclose(alike.metrics[name], values, rtol=2e-4, atol=1e-5)
            own = together.metrics[name][2 * place : 2 * place + 2]
            np.testing.assert_allclose(own, values, rtol=2e-4, atol=1e-5)


def test_what_shapes_the_computation_is_not_shared():
    settings = settings_of(
        "tsam(t=[1, 5], rho=[0, 0.1], s=[2, 3])",
        "sam(rho=[0.1, 0.2], steps=[1, 2])",
        "erm(lr=[0.1, 0.2], momentum=[0, 0.9])",
    )
    found = [(len(group.settings), group.names) for group in sharing.share(settings, SCHEDULE)]
    sampled, climbed = [(2, ("t",))] * 4, [(2, ("rho",))] * 2
    assert found == [*sampled, *climbed, (4, ("lr", "momentum"))]


def test_a_method_that_refuses_tracers_runs_by_itself():
    settings = settings_of("vasso(rho=0.1, theta=[0.4, 0.9])", "fsam(rho=0.1, lmbda=[0.6, 0.9])")
    assert [len(group.settings) for group in sharing.share(settings, SCHEDULE)] == [1] * 4


def test_epochs_that_differ_are_not_shared():
    settings = settings_of("sam(rho=0.1, budget=[4, 8])")
    schedule = SCHEDULE._replace(budget=config.Budget(budget=10))
    assert [group.names for group in sharing.share(settings, schedule)] == [(), ()]


def run(capsys, *arguments):
    code = cli.main(["sweep", *arguments])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.mark.usefixtures("fast_compile")
def test_a_sweep_goes_on_with_the_settings_that_are_not_finished(tmp_path, capsys, monkeypatch):
    out = tmp_path / "sweep"
    methods = ["--methods", "sam(rho=0.1)", "erm()"]
    grid = ["--grid", "lr=0.01,0.1", "--settings-together", "no"]
    code, shown, _ = run(capsys, *methods, *grid, *SMALL, "--out", str(out))
    assert code == 0
    assert "Next: tsam-jax train digits --method" in shown
    assert "--train-size 150 --width 8 --depth 1 --epochs 2" in shown  # the batch is the recipe's
    whole, log = json.loads((out / "sweep.json").read_text()), logged(out)
    names = ["sam(rho=0.1, lr=0.01)", "sam(rho=0.1, lr=0.1)", "erm(lr=0.01)", "erm(lr=0.1)"]
    assert [row["setting"] for row in whole["settings"]] == names

    lines = (out / "settings.jsonl").read_text().splitlines()
    torn = '{"method": "erm", "setti'
    (out / "settings.jsonl").write_text("\n".join([*lines[:3], torn]))
    (out / "sweep.json").unlink()
    trained = []
    train = Runner.train

    def counted(self, setting, *rest):
        trained.append(setting.text)
        return train(self, setting, *rest)

    monkeypatch.setattr(Runner, "train", counted)
    code, _, _ = run(capsys, "--resume", str(out))
    assert code == 0
    assert trained == names[3:]
    again = json.loads((out / "sweep.json").read_text())
    for row in (*again["settings"], *whole["settings"]):
        row.pop("seconds")
    assert again["complete"]
    assert again["settings"] == whole["settings"]
    assert logged(out) == log  # what was half done is not there twice


@pytest.mark.usefixtures("fast_compile")
def test_an_interrupt_leaves_what_is_finished(tmp_path, capsys, monkeypatch):
    train = Runner.train

    def interrupted(self, setting, progress, program=None):
        found = train(self, setting, progress, program)
        if setting.name == "sam":
            found.state = None  # what `train` returns after Ctrl-C
        return found

    monkeypatch.setattr(Runner, "train", interrupted)
    out = tmp_path / "sweep"
    code, shown, _ = run(capsys, "--methods", "erm", "sam", *SMALL, "--out", str(out))
    assert code == 130
    assert f"tsam-jax sweep --resume {out}" in shown
    found = json.loads((out / "sweep.json").read_text())
    assert not found["complete"]
    assert list(found["chosen"]) == ["erm"]


def logged(directory):
    """The lines of metrics.jsonl without their times."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{**line, "timing": None} for line in lines]


def row(setting, mean, *, diverged=False):
    values = {"validation_loss": [mean], "mean": mean}
    return {"method": setting.partition("(")[0], "setting": setting, "diverged": diverged, **values}


def test_the_least_loss_is_chosen_and_what_diverged_is_not():
    rows = [row("sam(rho=1)", 2.0), row("sam(rho=2)", 1.0), row("sam(rho=3)", 0.1, diverged=True)]
    rows += [row("erm()", None)]
    assert choice.choose(rows, "loss") == {"sam": "sam(rho=2)", "erm": "erm()"}
    assert choice.choose(rows, "accuracy")["sam"] == "sam(rho=1)"


def test_the_heat_map_has_the_best_over_the_rest_in_its_places():
    values = {(0.1, 1): 0.5, (0.1, 10): 0.4, (0.2, 1): 0.3, (0.2, 10): 0.6, (0.3, 1): 0.2}
    rows = [row(f"tsam(t={t}, rho={rho}, lr=0.1)", mean) for (rho, t), mean in values.items()]
    rows.append(row("tsam(t=10, rho=0.1, lr=0.01)", 0.9))
    found = {"metric": "f1", "settings": rows, "settings_tried": {"tsam": 6}}
    [panel] = heatmap.heat_map({**found, "chosen": choice.choose(rows, "f1")}).axes
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("rho", "t")
    assert panel.get_title() == "tsam, best over lr"
    table = np.ma.filled(panel.images[0].get_array(), np.nan)
    np.testing.assert_array_equal(table, [[0.5, 0.3, 0.2], [0.9, 0.6, np.nan]])
    assert [text.get_text() for text in panel.texts if text.get_fontweight() == "bold"] == ["0.9"]


def test_commands_have_what_differs_from_the_recipe():
    command = Sweep(
        methods=("erm", "sam"),
        task=config.Task(width=8, remat=True),
        optimizer=config.Optimizer(clip=1.0),
        runs=config.Runs(seeds=5),
    )
    rows = [row("erm(lr=0.1)", 0.5), row("sam(rho=1)", 0.7)]
    found = {"metric": "accuracy", "settings": rows, "chosen": choice.choose(rows, "accuracy")}
    train, compare = choice.commands(command, found)
    options = "--width 8 --remat --clip 1.0"
    assert train == f"tsam-jax train digits --method 'sam(rho=1)' {options}"
    settings = "'erm(lr=0.1)' 'sam(rho=1)'"
    assert compare == f"tsam-jax compare digits --methods {settings} {options} --seeds 5"
    assert cli._parse(shlex.split(train)[1:]).task == command.task


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("t", "is not a name with numbers"),
        ("rho=a,b", "is not a name with numbers"),
        ("t=1,2", "none of the methods takes `t`"),
        ("rho=-1", "must be a finite number >= 0, got -1"),
        ("radius=1", "none of the methods takes `radius`"),
    ],
)
def test_grids_that_do_not_fit_are_named(grid, message):
    with pytest.raises(SettingError, match=message):
        apply_grid(settings_of("sam(rho=1)", "erm()"), [grid])


def test_a_grid_replaces_and_adds_without_repetitions():
    settings = settings_of("erm()", "sam(rho=[1, 2], lr=0.1)")
    found = apply_grid(settings, ["rho=3,4", "lr=0.5"])
    expected = ["erm(lr=0.5)", "sam(rho=3, lr=0.5)", "sam(rho=4, lr=0.5)"]
    assert [setting.text for setting in found] == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume", "nowhere"], "is not the directory of a sweep"),
        (["--resume", "nowhere", "--seeds", "2"], "leave out the other options"),
    ],
)
def test_resuming_what_is_not_there_is_refused(arguments, message, capsys):
    code, _, errors = run(capsys, *arguments)
    assert code == 2
    assert message in errors
