"""Recipes: every cell of the paper is one, with its numbers; all of them can be started."""

import dataclasses
import json
import math
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from tsam_jax import cli, data, recipes
from tsam_jax.commands.study import Compare, Sweep, Train
from tsam_jax.models import MODELS
from tsam_jax.recipes import RECIPES, figures, table1_glue, table1_images, tables_2_and_4
from tsam_jax.train import config, resolve
from tsam_jax.train.settings import parse_all
from tsam_jax.train.task import network_for

ROOT = Path(__file__).parents[2]
COLUMNS = {
    "images": "cifar100-resnet18 cifar100-wrn16-8 dtd-vit dtd-wrn16-8 cifar100-noise20-resnet18"
    " cifar100-noise20-wrn16-8 tiny-imagenet-resnet18 tiny-imagenet-resnet34",
    "glue": "cola-distilbert wnli-distilbert sst2-distilbert mnli-distilbert qnli-distilbert"
    " rte-distilbert mrpc-distilbert qqp-distilbert stsb-distilbert",
    "table 2": "table2-cifar100-resnet18 table2-dtd-vit table2-cifar100-noise20-resnet18",
    "table 4": "table4-cifar100-resnet18 table4-dtd-vit",
}
# The paper's tables, row by row as they are printed: typed here a second time.
ROWS = {
    "images": {
        "erm": "71.39 73.22 66.38 16.97 61.01 57.03 71.10 74.90",
        "sam": "76.52 78.44 67.87 17.45 69.00 68.02 72.43 76.75",
        "esam1": "77.40 80.22 68.18 17.67 69.20 69.79 73.24 77.41",
        "esam2": "77.52 79.03 68.35 17.71 67.27 66.83 73.26 77.40",
        "pgn": "77.45 78.58 67.76 18.23 65.68 64.02 73.18 77.80",
        "rsam": "77.35 79.02 68.35 17.66 69.31 65.93 73.57 77.72",
        "tsam": "77.78 80.85 68.82 18.63 69.98 70.26 73.55 77.79",
    },
    "glue": {
        "erm": "52/80.34 54.93 90.48 79.6 87.72 60.65 83.82 86.32 86.6/86.3",
        "sam": "52/80.48 56.34 91.74 81.1 86.42 58.84 85.29 87.71 87.0/86.5",
        "esam1": "52/80.44 56.34 91.63 81.1 86.18 59.02 85.31 87.69 87.1/86.7",
        "esam2": "52/80.53 56.34 91.63 81.2 86.29 59.25 85.80 87.47 86.8/86.5",
        "tsam": "52/80.81 56.34 91.86 81.1 87.81 60.65 85.05 88.77 87.1/86.6",
    },
    "table 2": {
        "sam": "76.52 67.87 69.00",
        "tsam_s3": "77.40 68.82 69.55",
        "tsam_s5": "77.78 68.70 69.98",
    },
    "table 4": {
        "tsam_n1_s3": "77.40 68.82",
        "tsam_n1_s5": "77.78 68.70",
        "tsam_n2_s3": "77.45 68.83",
        "tsam_n3_s3": "77.52 68.80",
    },
}
CELLS = {recipe: [] for names in COLUMNS.values() for recipe in names.split()}
for table, rows in ROWS.items():
    for method, row in rows.items():
        for recipe, number in zip(COLUMNS[table].split(), row.split(), strict=True):
            CELLS[recipe].append((method, number))
MEANS = {"erm": 77.15, "sam": 77.56, "esam1": 77.59, "esam2": 77.62, "tsam": 78.01}


KINDS = {"task": config.Task, "optimizer": config.Optimizer, "budget": config.Budget}


def task_of(name):
    return config.Task(**RECIPES[name].task)


def settings_of(name, *methods):
    """The settings that the names stand for in a recipe; of all that it compares, if none."""
    recipe = RECIPES[name]
    return parse_all(methods or recipe.methods, recipe.settings, recipe.everything)


@pytest.fixture
def plans_of(monkeypatch):
    """(command class, recipe, methods) -> the plans, by an empty data set of 45,000 examples."""

    def opened(task):
        records = data.Records(np.zeros(45_000, np.int32), None)
        kind = "text" if task.dataset.startswith("glue:") else "image"
        return data.OpenSplits(records, records, records, 10, kind=kind)

    monkeypatch.setattr(resolve, "open_data", opened)

    def plans(kind, name, *methods):
        own = {"method": methods[0]} if kind is Train and methods else {}
        own |= {"methods": methods} if kind is not Train else {}
        task = config.TaskFlags(pretrained=None)  # its file is not here
        return resolve.resolve(kind(recipe=name, task=task, **own)).plans

    return plans


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_has_its_number_and_can_be_trained(name, plans_of):
    recipe = RECIPES[name]
    for method, number in CELLS[name]:
        assert re.search(rf"[ :]{method} {re.escape(number)}(,|$)", recipe.published)
        assert method in recipe.methods
        [plan] = plans_of(Train, name, method)
        assert plan.epochs >= 10


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_names_its_whole_optimizer_and_its_length(name):
    """Defaults of a model family may improve; experiments that are published may not change."""
    own = {"base", "lr", "momentum", "weight_decay", "schedule", "warmup", "clip", "batch_size"}
    assert own <= RECIPES[name].optimizer.keys()
    assert len(RECIPES[name].budget) == 1
    assert {"dataset", "model"} <= RECIPES[name].task.keys()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_sets_known_options(name):
    for group, kind in KINDS.items():
        kind(**getattr(RECIPES[name], group))


# ESAM2 pays for its loss values: 600 / (2 + 4 / 3).
EPOCHS = {
    "demo": {"erm": 300, "sam": 150, "tsam": 50, "shared_tsam": 75},
    "digits": {"erm": 600, "sam": 300, "tsam": 100, "esam2": 180, "tilted_sampling": 200},
    "sst2-small": {"erm": 12, "sam": 6, "tsam": 2},
    "cifar10-small": {"erm": 30, "sam": 30, "tsam": 30},
    "cifar10-small-noise40": {"erm": 30, "sam": 30, "tsam": 30},
    "dtd-vit": {"erm": 50, "sam": 50, "esam2": 50, "tsam": 50, "esam1": 150, "pgn": 150},
    "cifar100-noise20-resnet18": {"sam": 300, "esam2": 300, "tsam": 300, "esam1": 1140},
    "sst2-distilbert": {"erm": 10, "sam": 10, "esam1": 30, "esam2": 10, "tsam": 10},
    "figure5-cifar100-resnet18": {"naive_s3": 90, "naive_s10": 90, "tsam": 90},
}


@pytest.mark.parametrize("name", EPOCHS)
def test_epochs_are_those_of_the_experiment(name, plans_of):
    plans = plans_of(Compare, name, *EPOCHS[name])
    assert dict(zip(EPOCHS[name], [plan.epochs for plan in plans], strict=True)) == EPOCHS[name]


def test_a_budget_buys_epochs_and_a_loss_value_costs_a_third(plans_of):
    for plan in plans_of(Compare, "digits", "all"):
        cost = plan.setting.cost
        price = cost.gradients + cost.values / 3
        budget = plan.setting.overrides.get("budget", 600)
        assert plan.epochs == math.floor(budget / price + 1e-9)
    values = [plan.setting.cost.values for plan in plans_of(Compare, "digits", "all")]
    assert max(values) > 0  # of some method it counts


def test_published_numbers_are_in_the_docstrings_row_by_row():
    modules = {"images": table1_images, "glue": table1_glue}
    modules |= {"table 2": tables_2_and_4, "table 4": tables_2_and_4}
    for table, rows in ROWS.items():
        lines = re.sub(r" \(\.\d\)", "", modules[table].__doc__).split("\n")
        printed = [line.strip("| ").split(" | ")[1:] for line in lines if line.startswith("| ")]
        printed = [cells for cells in printed if re.match(r"\d", cells[0])]
        for row in rows.values():
            numbers = row.split()
            parts = [numbers[:6], numbers[6:]] if table == "images" else [numbers]
            assert all(any(cells[: len(part)] == part for cells in printed) for part in parts)


def test_means_over_glue_are_those_of_all_eleven_numbers():
    """A second check of the transcription: the paper's mean, which it truncates or rounds."""
    for row, method in enumerate(table1_glue.METHODS):
        cells = [numbers[row] for numbers in table1_glue.PUBLISHED.values()]
        numbers = [float(x) for cell in cells for x in cell.split("/")]
        assert len(numbers) == 11
        assert abs(np.mean(numbers) - MEANS[method]) < 0.025


def test_there_are_no_other_cells_and_no_two_recipes_of_one_name():
    families = (table1_images, table1_glue, tables_2_and_4)
    assert {name for family in families for name in family.RECIPES} == CELLS.keys()
    assert len(RECIPES) == sum(len(family.RECIPES) for family in recipes._FAMILIES)
    assert set(figures.RECIPES) == {
        "figure5-cifar100-resnet18",
        "figure7-cifar100-resnet18",
        "figure7-dtd-vit",
        "figure7-cifar100-noise20-resnet18",
        "figure8-cifar100-noise20-resnet18",
    }


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_command_whose_settings_can_be_read(name, plans_of):
    recipe = RECIPES[name]
    for kind in Train, Compare, Sweep:
        methods = (recipe.search or recipe.methods) if kind is Sweep else ()
        assert len(plans_of(kind, name, *methods)) >= 1
    for method in (*recipe.methods, *recipe.settings):
        assert len(settings_of(name, method)) == 1 or "=[" in method  # a grid


@pytest.mark.parametrize(
    ("name", "t", "s", "rho", "epochs", "esam1"),
    [
        ("cifar100-resnet18", 20, 5, 0.05, 200, 1000),
        ("cifar100-wrn16-8", 20, 5, 0.05, 200, 1000),
        ("dtd-vit", 5, 3, 0.1, 50, 150),
        ("cifar100-noise20-resnet18", 1, 5, 0.1, 300, 1140),
    ],
)
def test_images_have_the_papers_settings(name, t, s, rho, epochs, esam1, plans_of):
    plans = dict(zip(RECIPES[name].methods, plans_of(Compare, name), strict=True))
    tsam, sam = plans["tsam"].setting, plans["sam"].setting
    assert (tsam.arguments["t"], tsam.arguments["s"], tsam.arguments["rho"]) == (t, s, 0.1)
    assert "noise=sphere(radius=20)" in tsam.text
    assert sam.arguments["rho"] == rho
    assert {plans[method].epochs for method in ("erm", "sam", "tsam")} == {epochs}
    assert plans["esam1"].epochs == esam1
    for method, plan in plans.items():
        optimizer = plan.optimizer
        assert (optimizer.base, optimizer.batch_size, optimizer.momentum) == ("sgd", 64, 0.9)
        assert (optimizer.weight_decay, optimizer.schedule) == (5e-4, "constant")
        assert (optimizer.warmup, optimizer.clip) == (0, None)
        assert optimizer.lr == (0.1 if method == "erm" else 0.003)
    task = task_of(name)
    assert (task.loss, task.label_smoothing) == ("official", 0.1)
    assert task.label_noise == (0.2 if "noise20" in name else 0)


def test_the_step_sizes_of_esam2_spend_the_budget_of_tsam():
    for name in COLUMNS["images"].split():
        esam2, tsam = settings_of(name, "esam2", "tsam")
        assert esam2.price == pytest.approx(tsam.cost.gradients)


def test_the_schedules_of_figure_8_end_with_the_training():
    rising, falling, constant = settings_of("figure8-cifar100-noise20-resnet18")
    last = 300 * (45_000 // 64)
    ends = [(float(x.arguments["t"](0)), float(x.arguments["t"](last))) for x in (rising, falling)]
    assert ends == [(0.0, 1.0), (1.0, 0.0)]
    assert float(rising.arguments["t"](last // 2)) == pytest.approx(0.5)
    assert constant.arguments["t"] == 1


def example_of(task):
    """A data set of the kind and the shapes that the recipe's own has."""
    names = {"cifar100": 100, "dtd": 47, "tiny-imagenet": 200, "cifar10": 10, "digits": 10}
    kind, _, glue = task.dataset.partition(":")
    if kind == "glue":
        regression, classes = glue == "STS-B", 3 if glue == "MNLI" else 2
        labels = np.zeros(2, np.float32 if regression else np.int32)
        keys = ("token_ids", "attention_mask", "token_type_ids")
        inputs = {key: np.zeros((2, task.max_length), np.int32) for key in keys}
        part = data.Examples(inputs, labels)
        outputs = None if regression else classes
        return data.Splits(part, part, part, outputs, kind="text", vocab_size=30522)
    size = task.image_size or (64 if kind == "tiny-imagenet" else 32)
    vector = kind == "digits"
    inputs = np.zeros((2, 64) if vector else (2, size, size, 3), np.float32 if vector else np.uint8)
    part = data.Examples(inputs, np.zeros(2, np.int32))
    statistics = {} if vector else {"mean": (0.5,) * 3, "std": (0.2,) * 3}
    return data.Splits(part, part, part, names[kind], **statistics)


# One of each network and data set; the others differ in settings only.
SHAPES = {
    (task.dataset, task.model): (name, task)
    for name, task in ((n, task_of(n)) for n in reversed(list(RECIPES)))
}


# of DistilBERT: two classes, three, and a score
SAME_NETWORK = {f"{n}-distilbert" for n in ("qqp", "mrpc", "rte", "qnli", "wnli", "cola")}


@pytest.mark.parametrize(
    ("name", "task"),
    [
        pytest.param(n, task, id=n, marks=pytest.mark.slow if n in SAME_NETWORK else [])
        for n, task in SHAPES.values()
    ],
)
def test_networks_fit_their_data_sets(name, task):
    assert task.model in MODELS
    splits = example_of(task)
    network = network_for(dataclasses.replace(task, pretrained=None), splits)
    params, rest = jax.eval_shape(network.init, jax.random.key(0))
    outputs = jax.eval_shape(network.predict, params, splits.train.inputs, rest)
    assert outputs.shape == (2, splits.num_classes or 1)


@pytest.mark.slow
def test_a_small_recipe_trains_on_a_folder_and_a_vocabulary(tmp_path, capsys):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    rows = [f"{('bad', 'good')[i % 2]} film\t{i % 2}" for i in range(40)]
    (tmp_path / "SST-2").mkdir()
    for part in "train", "dev":
        text = "\n".join(["sentence\tlabel", *rows]) + "\n"
        (tmp_path / "SST-2" / f"{part}.tsv").write_text(text)
    sizes = ["--train-size", "32", "--evaluation-size", "4", "--batch-size", "8", "--epochs", "3"]
    places = ["--data-dir", str(tmp_path), "--vocabulary", str(tmp_path / "vocab.txt")]
    command = ["train", "sst2-small", "--method", "erm", *sizes, *places]
    assert cli.main([*command, "--out", str(tmp_path / "run")]) == 0
    assert "test accuracy at the last epoch" in capsys.readouterr().out


def test_pretrained_networks_are_not_silently_trained_from_scratch(tmp_path, capsys):
    pretrained = [n for n in RECIPES if n.endswith(("-vit", "-distilbert"))]
    assert len(pretrained) == 13
    assert all(task_of(name).pretrained for name in pretrained)
    command = ["train", "dtd-vit", "--out", str(tmp_path / "run")]
    assert cli.main(command) == 2
    assert "`--pretrained`: " in capsys.readouterr().err


def test_no_recipe_names_a_place_on_a_machine():
    for name in RECIPES:
        task = task_of(name)
        places = (task.data_dir, task.pretrained, task.vocabulary, task.dataset.partition(":")[2])
        assert not any(place and place.startswith(("/", "~")) for place in places)


@pytest.mark.parametrize("kind", ["report", "sweep"])
def test_the_recipe_of_the_tilt_has_the_settings_of_its_record(kind):
    recipe, folder = RECIPES["tilt"], ROOT / "benchmarks" / "results" / "noisy_digits" / "tilt"
    texts = recipe.methods if kind == "report" else recipe.search
    record = json.loads((folder / f"{kind}.json").read_text())
    recorded = parse_all(record["study"]["settings"], {})
    spelt = [
        {(one.name, *sorted(one.written.items())) for one in many}
        for many in (parse_all(texts, recipe.settings), recorded)
    ]
    assert spelt[0] == spelt[1]
    assert len(record["rows"]) == len(recorded) * len(record["study"]["seeds"])
